"""The data set as normalised states for the denoiser: layout, scaling, cache, symmetries, batches.

A sample is cached as float16 in physical units, ``(channels, 96, 96)``: the solid mask (once),
then the fields of every frame. Scaling and symmetries are applied when a batch is put together.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from io import FileIO
from mmap import PAGESIZE, mmap
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from crumple.atomic import atomic_path, reserve, save_text
from crumple.config import Model
from crumple.dataset import Dataset
from crumple.diffusion.network import Layout
from crumple.diffusion.preconditioning import SIGMA_DATA
from crumple.errors import UserError
from crumple.layout import CELL, CHANNELS, EULERIAN_CHANNELS, pixel_height
from crumple.progress import progress
from crumple.readers import Array, map_npy, read_json

STORED = {
    "lagrangian": ("frames", CHANNELS),
    "eulerian": ("eulerian", EULERIAN_CHANNELS),
}
# Bits of an element of the group of reflections (H: x -> 1-x, V: y -> 1-y), of order 4.
H, V = 1, 2
AHEAD = 16  # samples that are read before the cache takes them
Positive = Annotated[float, Field(gt=0)]


class Normalisation(BaseModel):
    """How states are scaled; constants of the training split.

    Fields are divided by their root mean square per frame over all pixels (a range would hang on
    one pixel of one design) and multiplied by ``SIGMA_DATA``, so that a noise level hides every
    channel equally. The mask is shifted to +-``SIGMA_DATA``. The published network is the
    exception: its states and curves go from -1 to 1 over the training set, for which ``centre``
    and ``stress_centre`` are set (:func:`ranges`).

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
    centre, stress_centre
        What is subtracted first: ``(fields,)``, empty for nothing, and of the effective stress.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    reference_frame: Literal["lagrangian", "eulerian"]
    mask: bool
    fields: tuple[str, ...]
    frame_strain: tuple[float, ...] = Field(min_length=1)
    rms: tuple[tuple[Positive, ...], ...]
    curve_strain: tuple[float, ...] = Field(min_length=1)
    stress_rms: tuple[Positive, ...]
    centre: tuple[float, ...] = ()
    stress_centre: float = 0.0

    @model_validator(mode="after")
    def _has_a_constant_for_each_channel(self) -> Normalisation:
        if [len(row) for row in self.rms] != [len(self.fields)] * len(self.frame_strain):
            raise ValueError("rms must have a value per frame and field")
        if len(self.stress_rms) != len(self.curve_strain):
            raise ValueError("stress_rms must have a value per strain step")
        if self.centre and len(self.centre) != len(self.fields):
            raise ValueError("centre must have a value per field")
        return self

    def to_json(self) -> str:
        """Return all constants as JSON."""
        return self.model_dump_json(indent=2)

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
        if self.centre:
            offset[self.layout.static :] = torch.tensor(self.centre).repeat(self.layout.frames)
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
        rms = torch.tensor(self.stress_rms, device=stress.device)
        return (stress - self.stress_centre) / rms


class Range(NamedTuple):
    """Least and largest value of something over the training set."""

    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of what is between them."""
        return (self.high - self.low) / 2


def ranges(fields: Mapping[str, Range], stress: Range, strain: Sequence[float]) -> Normalisation:
    """Return the scaling of the published network.

    Parameters
    ----------
    fields
        Of every channel of a frame in all frames, cell sides or MPa.
    stress
        Of the effective stress at all strains, MPa.
    strain
        Applied strain of the frames.
    """
    return Normalisation(
        reference_frame="lagrangian",
        mask=False,
        fields=tuple(fields),
        frame_strain=tuple(strain),
        rms=(tuple(SIGMA_DATA * field.half for field in fields.values()),) * len(strain),
        curve_strain=tuple(strain),
        stress_rms=(stress.half,) * len(strain),
        centre=tuple(field.low + field.half for field in fields.values()),
        stress_centre=stress.low + stress.half,
    )


def move_pixels(images: Tensor, element: int) -> Tensor:
    """Mirror images ``(..., h, w)`` by an element of the group of reflections."""
    flips = [axis for bit, axis in ((H, -1), (V, -2)) if element & bit]
    return images.flip(flips) if flips else images


def signs(element: int, fields: Sequence[str], layout: Layout) -> Tensor:
    """Return the sign that each channel takes beside its pixels' move, ``(channels,)``.

    x -> 1-x turns the sign of u1; y -> 1-y turns the sign of w2 = u2 + strain y (the lower platen
    becomes the moving one, hence not that of u2). The stress curve stays the same.
    """
    turned = {name for bit, name in ((H, "u1"), (V, "w2")) if element & bit}
    of_fields = torch.tensor([-1.0 if name in turned else 1.0 for name in fields])
    return torch.cat([torch.ones(layout.static), of_fields.repeat(layout.frames)])


def symmetries(augmentation: str, model: Model) -> list[int]:
    """Return the elements of the group that training draws from.

    A design buckles to one of its two sides, and the solver's imperfection says to which. Mirrored
    copies give it two answers, of which a denoiser learns the mean, so that they are left out by
    default. Shifts by half a period, by which the solver turns results exactly, aren't drawn at
    all: the network commutes with them whatever its weights.

    Only one platen moves, so y -> 1-y is no mirror image of u2, nor of a picture of the deformed
    cell: models of those are trained without it.
    """
    mirrors = H if model.reference_frame == "eulerian" or "u2" in model.fields else H | V
    allowed = {"none": 0, "all": mirrors}[augmentation]
    return [element for element in range(4) if element & ~allowed == 0]


class SampleFile:
    """Samples in a file, read one by one.

    Where a file is larger than the memory, a sample of the mapped file costs a fault for each of
    its pages, which takes many times the processor time of reading it. Reading costs most of its
    time for finding room in the memory; so when a sample that was read has been driven out of
    it, what isn't in memory is read past the operating system's cache (`benchmarks/scale.py`).

    Parameters
    ----------
    mapped
        ``(n, ...)`` array of the file, C-ordered.
    first
        Its sample that counts as number 0.
    """

    def __init__(self, mapped: np.memmap, first: int) -> None:
        self._file = open(str(mapped.filename), "rb", buffering=0)
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self._shape, self._type = mapped.shape[1:], mapped.dtype
        self._size = mapped[:1].nbytes
        self._start = mapped.offset + first * self._size
        # Direct reads are of whole pages into whole pages: the sample's, and one for its offset.
        self._pages = mmap(-1, PAGESIZE * (self._size // PAGESIZE + 2))
        self._was_read = np.zeros(len(mapped) - first, bool)
        self._direct = _direct_reads(self._file.name)
        self.driven_out = False  # samples that had been read

    def __getitem__(self, row: int) -> Tensor:
        """Return a sample, until the next one is asked for.

        Raises
        ------
        UserError
            When the file has been cut off meanwhile.
        """
        start, size = self._start + row * self._size, self._size
        page, shift = divmod(start, PAGESIZE)
        whole = memoryview(self._pages)[: -(-(shift + size) // PAGESIZE) * PAGESIZE]
        sample = whole[shift : shift + size]
        got = 0
        if self._was_read[row] and not self.driven_out:
            got = self._from_memory(sample, start)
            self.driven_out = got < size
        if got < size and self.driven_out and self._direct is not None:
            got = os.preadv(self._direct.fileno(), [whole], page * PAGESIZE) - shift
        elif got < size:
            got = os.preadv(self._file.fileno(), [sample], start)
        if got < size:
            raise UserError(f"{self._file.name} ends before its sample {row}: train again")
        self._was_read[row] = True
        return torch.from_numpy(np.frombuffer(sample, self._type).reshape(self._shape))

    def _from_memory(self, sample: memoryview, start: int) -> int:
        """Read what the operating system has in memory; all where it cannot tell."""
        try:
            return os.preadv(self._file.fileno(), [sample], start, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            return os.preadv(self._file.fileno(), [sample], start)


def _direct_reads(path: str) -> FileIO | None:
    """Open a file for reads past the operating system's cache, where its file system has them."""
    try:
        return FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_DIRECT))
    except OSError:
        return None


class Samples:
    """Samples of one split in memory (of the machine or of the accelerator) or in a file.

    Parameters
    ----------
    physical
        ``(n, channels, 96, 96)`` float16 in physical units.
    stress
        ``(n, steps)`` effective stress, MPa.
    normalisation
        Scaling of the states.
    file
        The same samples where ``physical`` is a mapped file.
    """

    def __init__(
        self,
        physical: Tensor,
        stress: Tensor,
        normalisation: Normalisation,
        file: SampleFile | None = None,
    ) -> None:
        self.physical = physical
        self._source = physical if file is None else file
        self.stress = normalisation.encode_curve(stress.float())
        self.normalisation = normalisation
        offset, scale = normalisation.offset_and_scale()
        fields, layout = normalisation.fields, normalisation.layout
        scales = [scale * signs(element, fields, layout) for element in range(4)]
        device = physical.device
        self._scales = torch.stack(scales)[:, :, None, None].to(device)
        self._offset = (offset * scale)[:, None, None].to(device)

    def __len__(self) -> int:
        return len(self.physical)

    def batch(
        self, rows: Sequence[int], elements: Sequence[int], out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return states ``(batch, channels, 96, 96)`` and scaled curves ``(batch, steps)``.

        Parameters
        ----------
        rows
            Which samples.
        elements
            Which symmetry each of them is turned by.
        out
            Where the states go. Fresh memory for every batch costs more than filling it.
        """
        if out is None:
            out = torch.empty((len(rows), *self.physical.shape[1:]), device=self.physical.device)
        states = out[: len(rows)]
        for state, row, element in zip(states, rows, elements, strict=True):
            state.copy_(move_pixels(self._source[int(row)], element))
            state.mul_(self._scales[element]).sub_(self._offset)  # while it is in the CPU's cache
        return states, self.stress[list(rows)]


def frame_rows(dataset: Dataset, model: Model) -> list[int]:
    """Return which of the stored frames are generated."""
    count = len(dataset.manifest["frame_strain"])
    return list(range(count)) if model.frames == "all" else [count - 1]


def read_sample(dataset: Dataset, model: Model, place: Sequence[int]) -> np.ndarray:
    """Read one sample in physical units, ``(channels, 96, 96)`` float16.

    Parameters
    ----------
    dataset
        Where from.
    model
        Which channels.
    place
        Shard and row.
    """
    shard, row = dataset.shard(int(place[0])), int(place[1])
    solid = shard["solid"][row]
    channels = [solid[None].astype(np.float16)] if model.mask else []
    if model.fields:
        name, stored = STORED[model.reference_frame]
        if name not in shard:
            raise UserError(
                f"the data set in {dataset.folder} has no fields in the {model.reference_frame} "
                "frame: rasterise it with fields.eulerian"
            )
        rows = frame_rows(dataset, model)
        frames = shard[name][row][rows]
        strain = np.array(dataset.manifest["frame_strain"], np.float32)[rows, None, None]
        fields = []
        for field in model.fields:
            if field == "w2":
                w2 = frames[:, stored.index("u2")] + strain * pixel_height().astype(np.float32)
                fields.append(np.where(solid > 0, w2, 0))
            else:
                fields.append(frames[:, stored.index(field)])
        channels.append(np.stack(fields, axis=1).reshape(-1, CELL, CELL).astype(np.float16))
    return np.concatenate(channels)


def _ahead(
    pool: Executor, read: Callable[[Sequence[int]], np.ndarray], places: Iterable[Sequence[int]]
) -> Iterator[np.ndarray]:
    """Read places in order, only a few ahead; ``pool.map`` would fill the memory with samples."""
    waiting: deque[Future[np.ndarray]] = deque()
    for place in places:
        waiting.append(pool.submit(read, place))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def build_cache(dataset: Dataset, model: Model, cache: Path) -> None:
    """Write all samples to one file that can be mapped, and their scaling.

    Parameters
    ----------
    dataset
        Where from; the training split goes first, then the validation split.
    model
        Which channels.
    cache
        Folder that gets ``samples.npy``, ``stress.npy`` and ``normalisation.json``. What is
        there already is taken as it is.
    """
    if (cache / "normalisation.json").exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    places = np.concatenate([dataset.split["train"], dataset.split["validation"]])
    training = len(dataset.split["train"])
    shape = (len(places), *read_sample(dataset, model, places[0]).shape)
    square = np.zeros(shape[1])
    low, high = np.full(shape[1], np.inf), np.full(shape[1], -np.inf)
    with atomic_path(cache / "samples.npy") as temporary, ThreadPoolExecutor(4) as pool:
        samples = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
        reserve(temporary)
        reads = _ahead(pool, lambda place: read_sample(dataset, model, place), places)
        for row, sample in enumerate(progress(reads, len(places), "cache", "sample")):
            samples[row] = sample
            if row < training:
                square += np.square(sample, dtype=np.float32).mean(axis=(1, 2)) / training
                low = np.minimum(low, sample.min(axis=(1, 2)))
                high = np.maximum(high, sample.max(axis=(1, 2)))
        samples.flush()
    stress = dataset.read("frame_stress", places).astype(np.float32)
    with atomic_path(cache / "stress.npy") as temporary:
        np.save(temporary, stress)

    strain = dataset.manifest["frame_strain"]
    if model.kind == "published":
        lows = low.reshape(-1, len(model.fields)).min(axis=0).tolist()
        highs = high.reshape(-1, len(model.fields)).max(axis=0).tolist()
        fields: dict[str, Range] = dict(zip(model.fields, map(Range, lows, highs), strict=True))
        known = stress[:training]
        constants = ranges(fields, Range(float(known.min()), float(known.max())), strain)
    else:
        rows = frame_rows(dataset, model)
        rms = np.sqrt(square[int(model.mask) :]).reshape(len(rows), len(model.fields))
        constants = Normalisation(
            reference_frame=model.reference_frame,
            mask=model.mask,
            fields=tuple(model.fields),
            frame_strain=tuple(strain[row] for row in rows),
            rms=tuple(map(tuple, rms.tolist())),
            curve_strain=tuple(strain),
            stress_rms=tuple(np.sqrt(np.square(stress[:training]).mean(axis=0)).tolist()),
        )
    save_text(cache / "normalisation.json", constants.to_json())


def load_samples(cache: Path, training: int, device: torch.device) -> tuple[Samples, Samples]:
    """Open the cache as training and validation samples.

    On an accelerator the samples are held in its memory where they take at most half of what is
    free; else they stay in the file, which the operating system keeps in memory as far as there is
    some, and which all processes of a machine share.

    Parameters
    ----------
    cache
        Folder of :func:`build_cache`.
    training
        Number of samples of the training split.
    device
        Where training runs.

    Raises
    ------
    UserError
        When a file of the cache is damaged.
    """
    advice = f"remove {cache} and train again"
    constants = read_json(cache / "normalisation.json", Normalisation, advice)
    sizes = "samples", constants.layout.channels, CELL, CELL
    samples = map_npy(cache / "samples.npy", "samples", Array("f", sizes), advice)
    curves = Array("f", (len(samples), len(constants.curve_strain)))
    stress = torch.tensor(map_npy(cache / "stress.npy", "stress", curves, advice))
    physical = torch.from_numpy(samples)
    files: list[SampleFile | None] = [SampleFile(samples, 0), SampleFile(samples, training)]
    if device.type == "cuda" and 2 * physical.nbytes < torch.cuda.mem_get_info(device)[0]:
        physical, files = physical.to(device), [None, None]
    stress = stress.to(physical.device)
    return (
        Samples(physical[:training], stress[:training], constants, files[0]),
        Samples(physical[training:], stress[training:], constants, files[1]),
    )
