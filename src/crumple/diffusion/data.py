"""The data set as normalised states for the denoiser: layout, scaling, cache, symmetries, batches.

A sample is cached as float16 in physical units, ``(channels, 96, 96)``: the solid mask (once),
then the fields of every frame. Scaling and symmetries are applied when a batch is put together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zarr
from torch import Tensor

from crumple.atomic import atomic_path
from crumple.config import Model
from crumple.diffusion.network import Layout
from crumple.diffusion.preconditioning import SIGMA_DATA
from crumple.errors import UserError
from crumple.progress import progress

SIZE = 96
STORED = {
    "lagrangian": ("frames", ("u1", "u2", "s22", "mises")),
    "eulerian": ("eulerian", ("solid", "s22", "mises")),
}
# Bits of an element of the symmetry group of order 8 (H: x -> 1-x, V: y -> 1-y, S: x -> x + 1/2).
H, V, S = 1, 2, 4


@dataclass(frozen=True)
class Normalisation:
    """How states are scaled; constants of the training split.

    Fields are divided by their root mean square per frame over all pixels (a range would hang on
    one pixel of one design) and multiplied by ``SIGMA_DATA``, so that a noise level hides every
    channel equally. The mask is shifted to +-``SIGMA_DATA``.

    Attributes
    ----------
    reference_frame
        ``lagrangian`` or ``eulerian``.
    mask
        Whether the first channel is the solid mask.
    fields
        Names of the channels of a frame.
    frame_strain
        ``(frames,)`` applied strain of the frames that are generated.
    rms
        ``(frames, fields)`` root mean square, cell sides or MPa.
    curve_strain
        ``(steps,)`` applied strain of the stress tokens.
    stress_rms
        ``(steps,)`` root mean square of the effective stress, MPa.
    """

    reference_frame: str
    mask: bool
    fields: tuple[str, ...]
    frame_strain: tuple[float, ...]
    rms: tuple[tuple[float, ...], ...]
    curve_strain: tuple[float, ...]
    stress_rms: tuple[float, ...]

    @property
    def layout(self) -> Layout:
        """Channels of a state."""
        frames = len(self.frame_strain) if self.fields else 1
        return Layout(static=int(self.mask), frames=frames, fields=len(self.fields))

    def offset_and_scale(self) -> tuple[Tensor, Tensor]:
        """Return what turns a physical channel into a state: ``(channels,)`` each."""
        offset = torch.zeros(self.layout.channels)
        scale = torch.full((self.layout.channels,), 2 * SIGMA_DATA)
        offset[: self.layout.static] = 0.5
        if self.fields:
            scale[self.layout.static :] = SIGMA_DATA / torch.tensor(self.rms).flatten()
        return offset, scale

    def encode(self, physical: Tensor) -> Tensor:
        """Scale ``(batch, channels, h, w)`` in physical units to a state."""
        offset, scale = (c.to(physical.device)[:, None, None] for c in self.offset_and_scale())
        return (physical.float() - offset) * scale

    def decode(self, state: Tensor) -> Tensor:
        """Inverse of :meth:`encode`."""
        offset, scale = (c.to(state.device)[:, None, None] for c in self.offset_and_scale())
        return state / scale + offset

    def encode_curve(self, stress: Tensor) -> Tensor:
        """Scale effective stress ``(batch, steps)`` in MPa."""
        return stress / torch.tensor(self.stress_rms, device=stress.device)


def transform(state: Tensor, element: int, fields: Sequence[str], static: int) -> Tensor:
    """Apply one element of the mechanics' symmetry group; the stress curve stays the same.

    x -> 1-x turns the sign of u1; y -> 1-y turns the sign of w2 = u2 + strain y (the lower platen
    becomes the moving one, hence not that of u2); everything else is only mirrored. Shifts by half
    a period are symmetries because designs are mirrored about x = 1/2.

    Parameters
    ----------
    state
        ``(channels, h, w)``; the sign changes hold for scaled and for physical fields alike.
    element
        Sum of some of ``H``, ``V`` and ``S``.
    fields
        Names of the channels of a frame.
    static
        Number of channels before those of the frames.
    """
    if element & S:
        state = state.roll(state.shape[-1] // 2, dims=-1)
    flips = [axis for bit, axis in ((H, -1), (V, -2)) if element & bit]
    state = state.flip(flips) if flips else state.clone()
    for bit, name in ((H, "u1"), (V, "w2")):
        if element & bit and name in fields:
            state[static + fields.index(name) :: len(fields)].neg_()
    return state


def symmetries(augmentation: str, reference_frame: str) -> list[int]:
    """Return the elements of the group that training draws from.

    In the deformed cell y -> 1-y is no mirror image of the picture, since only one platen moves.
    """
    bits = {"none": 0, "shift": S, "all": H | S if reference_frame == "eulerian" else H | V | S}
    return [element for element in range(8) if element & ~bits[augmentation] == 0]


class Samples:
    """Samples of one split in memory (of the machine or of the accelerator) or in a mapped file.

    Parameters
    ----------
    physical
        ``(n, channels, 96, 96)`` float16 in physical units.
    stress
        ``(n, steps)`` effective stress, MPa.
    normalisation
        Scaling of the states.
    """

    def __init__(self, physical: Tensor, stress: Tensor, normalisation: Normalisation) -> None:
        self.physical = physical
        self.stress = normalisation.encode_curve(stress.float())
        self.normalisation = normalisation
        self.offset, self.scale = (
            c.to(physical.device)[:, None, None] for c in normalisation.offset_and_scale()
        )

    def __len__(self) -> int:
        return len(self.physical)

    def batch(self, rows: Sequence[int], elements: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return states ``(batch, channels, 96, 96)`` and scaled curves ``(batch, steps)``.

        Parameters
        ----------
        rows
            Which samples.
        elements
            Which symmetry each of them is turned by.
        """
        fields, static = list(self.normalisation.fields), self.normalisation.layout.static
        states = torch.empty((len(rows), *self.physical.shape[1:]), device=self.physical.device)
        for state, row, element in zip(states, rows, elements, strict=True):
            turned = transform(self.physical[row], element, fields, static) if element else None
            torch.sub(self.physical[row] if turned is None else turned, self.offset, out=state)
        return states.mul_(self.scale), self.stress[list(rows)]


@dataclass(frozen=True)
class Source:
    """What one run reads of a data set: manifest, split and channels."""

    manifest_path: Path
    manifest: dict
    model: Model

    @classmethod
    def open(cls, manifest_path: Path, model: Model) -> Source:
        """Read the manifest; a :class:`UserError` says why it can't be trained on."""
        try:
            manifest = json.loads(manifest_path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the data set {manifest_path}: {error}") from error
        if not isinstance(manifest, dict) or manifest.get("format") != "crumple-dataset":
            raise UserError(f"{manifest_path} is not the manifest of a crumple data set")
        if not manifest["split"]["train"]:
            raise UserError(f"{manifest_path} has no training designs: simulate more")
        return cls(manifest_path, manifest, model)

    @property
    def members(self) -> list[tuple[int, int]]:
        """Shard and row of every sample: the training split, then the validation split."""
        split = self.manifest["split"]
        return [tuple(member) for part in ("train", "validation") for member in split[part]]

    @property
    def frame_rows(self) -> list[int]:
        """Which of the stored frames are generated."""
        count = len(self.manifest["frame_strain"])
        return list(range(count)) if self.model.frames == "all" else [count - 1]

    def key(self) -> str:
        """Return a checksum over everything that the cache depends on."""
        content = [self.manifest["shards"], self.manifest["split"], self.model.reference_frame]
        content += [self.model.mask, self.model.fields, self.frame_rows]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def open_shards(self) -> list[zarr.Group]:
        """Open every shard for reading."""
        folder = self.manifest_path.parent
        return [
            zarr.open_group(folder / shard["path"], mode="r") for shard in self.manifest["shards"]
        ]

    def read(self, shard: zarr.Group, row: int) -> np.ndarray:
        """Read one sample in physical units, ``(channels, 96, 96)`` float16."""
        channels = []
        if self.model.mask:
            channels.append(shard["solid"][row][None].astype(np.float16))
        if self.model.fields:
            name, stored = STORED[self.model.reference_frame]
            if name not in shard:
                raise UserError(
                    f"{self.manifest_path} has no fields in the {self.model.reference_frame} frame"
                )
            frames = shard[name][row][self.frame_rows]
            fields = [self._field(frames, stored, field) for field in self.model.fields]
            fields = np.stack(fields, axis=1)
            if self.model.reference_frame == "lagrangian":
                fields = np.where(shard["solid"][row] > 0, fields, 0)
            channels.append(fields.astype(np.float16).reshape(-1, SIZE, SIZE))
        return np.concatenate(channels)

    def _field(self, frames: np.ndarray, stored: tuple[str, ...], field: str) -> np.ndarray:
        if field != "w2":
            return frames[:, stored.index(field)]
        strain = np.array(self.manifest["frame_strain"], np.float32)[self.frame_rows]
        y = 1 - (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE
        return frames[:, stored.index("u2")] + strain[:, None, None] * y[:, None]

    def stress(self) -> np.ndarray:
        """Read the effective stress of every sample, ``(n, steps)`` MPa."""
        stress = [shard["frame_stress"][:] for shard in self.open_shards()]
        return np.array([stress[shard][row] for shard, row in self.members], np.float32)


def build_cache(source: Source, cache: Path) -> None:
    """Write every sample to one ``.npy`` file that can be mapped; nothing to do where it exists.

    Parameters
    ----------
    source
        What to read.
    cache
        File to write, atomically, with its key in ``<cache>.key``.
    """
    key = cache.with_suffix(".key")
    if cache.exists() and key.exists() and key.read_text() == source.key():
        return
    key.unlink(missing_ok=True)
    shards, members = source.open_shards(), source.members
    shape = (len(members), *source.read(shards[members[0][0]], members[0][1]).shape)

    with atomic_path(cache) as temporary, ThreadPoolExecutor(4) as pool:
        array = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
        reads = pool.map(lambda member: source.read(shards[member[0]], member[1]), members)
        for row, sample in enumerate(progress(reads, len(members), "cache", "sample")):
            array[row] = sample
        array.flush()
    key.write_text(source.key())


def normalisation(source: Source, physical: np.ndarray, stress: np.ndarray) -> Normalisation:
    """Compute the scaling from the training split.

    Parameters
    ----------
    source
        Where the samples come from.
    physical
        ``(n, channels, 96, 96)`` all samples, the training split first.
    stress
        ``(n, steps)`` effective stress, MPa.
    """
    model, manifest = source.model, source.manifest
    count = len(manifest["split"]["train"])
    strain = manifest["frame_strain"]
    static, fields = int(model.mask), len(model.fields)
    mean_square = np.zeros(physical.shape[1] - static)
    for sample in physical[:count]:
        mean_square += np.square(sample[static:], dtype=np.float32).mean(axis=(1, 2)) / count
    rms = np.sqrt(mean_square).reshape(-1, fields) if fields else np.zeros((1, 0))
    return Normalisation(
        reference_frame=model.reference_frame,
        mask=model.mask,
        fields=tuple(model.fields),
        frame_strain=tuple(strain[row] for row in source.frame_rows),
        rms=tuple(tuple(float(value) for value in frame) for frame in rms),
        curve_strain=tuple(strain),
        stress_rms=tuple(np.sqrt(np.square(stress[:count]).mean(axis=0)).tolist()),
    )


def load_samples(source: Source, cache: Path, device: torch.device) -> tuple[Samples, Samples]:
    """Open the cache as training and validation samples.

    On an accelerator the samples are held in its memory where they take at most half of what is
    free; else they stay in the mapped file, which the operating system keeps in memory and which
    all processes of a machine share.

    Parameters
    ----------
    source
        Where the samples come from.
    cache
        File of :func:`build_cache`.
    device
        Where training runs.
    """
    mapped = np.load(cache, mmap_mode="c")
    stress = source.stress()
    constants = normalisation(source, mapped, stress)
    physical = torch.from_numpy(mapped)
    if device.type == "cuda" and 2 * mapped.nbytes < torch.cuda.mem_get_info(device)[0]:
        physical = physical.to(device)
    count = len(source.manifest["split"]["train"])
    stress = torch.from_numpy(stress).to(physical.device)
    return (
        Samples(physical[:count], stress[:count], constants),
        Samples(physical[count:], stress[count:], constants),
    )
