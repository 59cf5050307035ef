"""Binary unit-cell designs: Gaussian random fields (paper 4.1), acceptance, mirroring, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy  # imports its parts at their first use; a look-up needs none
from PIL import Image

from crumple import config as cfg
from crumple import seeds
from crumple.atomic import claim, save_npz
from crumple.errors import UserError
from crumple.layout import CELL, QUARTER
from crumple.progress import progress
from crumple.provenance import hash_designs, made_by
from crumple.readers import Array, Schema, npz_names, read_npz, refusing

PER_DESIGN = {
    "index": Array("iu", ("n",), low=0),
    "quarter": Array("iu", ("n", QUARTER, QUARTER), low=0, high=1),
    "seed": Array("iu", ("n",)),
    "threshold": Array("f", ("n",)),
    "solid_fraction": Array("f", ("n",)),
    "tries": Array("iu", ("n",)),
}
GENERATED = {name: Array("iu", ("n",), low=0) for name in ("target", "candidate", "rank")}
DESIGNS = Schema(
    "make it again with `crumple sample` or `crumple extract`",
    {"made_by": Array("U")} | PER_DESIGN,
    optional=GENERATED | {"status": Array("U", ("n",))},
)

MOST_TRIES = 100_000  # half a minute; the default settings need 36 on average


class Design(NamedTuple):
    """One accepted design and how it was found."""

    quarter: np.ndarray  # (48, 48) uint8, upper left quarter, 1 solid
    threshold: float
    tries: int  # fields drawn until one was accepted


def amplitude(size: int, exponent: float) -> np.ndarray:
    """Spectral amplitude |k|^-exponent on the Fourier grid of a (size, size) image, 0 at k = 0."""
    k = np.fft.fftfreq(size, 1 / size)
    radius = np.hypot(k[:, None], k[None, :])
    radius[0, 0] = np.inf
    return radius**-exponent


def gaussian_random_field(generator: np.random.Generator, spectrum: np.ndarray) -> np.ndarray:
    """Standardised real part of the inverse DFT of complex white noise times ``spectrum``.

    Parameters
    ----------
    generator
        Source of the noise; 2 n^2 normal numbers are drawn.
    spectrum
        (n, n) amplitudes from :func:`amplitude`.

    Returns
    -------
    numpy.ndarray
        (n, n), mean 0 and standard deviation 1.
    """
    real, imaginary = generator.standard_normal((2, *spectrum.shape))
    field = np.fft.ifft2((real + 1j * imaginary) * spectrum).real
    return (field - field.mean()) / field.std()


def accept(quarter: np.ndarray, settings: cfg.Designs) -> np.ndarray | None:
    """The part of a binary quarter that is one connected domain touching all four sides.

    Parameters
    ----------
    quarter
        (n, n), non-zero where solid.
    settings
        ``side_fraction``: part of each side (rounded down, at least one pixel) that the domain
        must cover; ``islands``: what to do with solid outside that domain.

    Returns
    -------
    numpy.ndarray or None
        (n, n) uint8, or None when there is no such domain (or other solid and ``islands`` is
        ``reject``). Pixels that share an edge are neighbours.
    """
    solid = np.asarray(quarter, bool)
    least = max(1, int(settings.side_fraction * len(solid)))
    if min(side.sum() for side in _sides(solid)) < least:
        return None
    labels, count = scipy.ndimage.label(solid)
    if count > 1 and settings.islands == "reject":
        return None
    for label in range(1, count + 1):
        domain = labels == label
        if min(side.sum() for side in _sides(domain)) >= least:
            return domain.astype(np.uint8)  # in the plane no second domain can touch all four
    return None


def _sides(image: np.ndarray) -> tuple[np.ndarray, ...]:
    return image[0], image[-1], image[:, 0], image[:, -1]


def sample(seed: int, index: int, settings: cfg.Designs) -> Design:
    """Draw fields and thresholds until one is accepted (paper Algorithm 1).

    The result depends on (seed, index) and the settings only, whatever the sharding.

    Raises
    ------
    UserError
        When none of :data:`MOST_TRIES` fields is accepted.
    """
    generator = seeds.rng(seed, "designs", index)
    spectrum = amplitude(QUARTER, settings.spectral_exponent)
    for tries in range(1, MOST_TRIES + 1):
        field = gaussian_random_field(generator, spectrum)
        threshold = generator.uniform(0, settings.threshold_max)
        quarter = accept(field > threshold, settings)
        if quarter is not None:
            return Design(quarter, threshold, tries)
    raise UserError(
        f"design {index}: none of {MOST_TRIES} random fields is acceptable; raise "
        "designs.spectral_exponent, lower designs.side_fraction or designs.threshold_max, or set "
        "designs.islands to drop"
    )


def mirror(quarter: np.ndarray) -> np.ndarray:
    """The (2n, 2n) unit cell whose upper left quarter is given, mirrored along both edges."""
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    return np.concatenate([half, half[::-1]], axis=0)


def sample_shard(config: cfg.Config, shard: int, out: Path) -> str:
    """Write one shard of the designs of a run and return its :func:`statistics`.

    The file holds ``index`` (n) int64, ``quarter`` (n, 48, 48) uint8 (the upper left quarter,
    1 solid, row 0 = top), ``seed``, ``threshold``, ``solid_fraction``, ``tries`` (n) and
    ``made_by``, its record (:mod:`crumple.provenance`).

    Raises
    ------
    UserError
        When the run has no such shard.
    """
    out = claim(out, "sample")
    settings = config.designs
    first = shard * settings.shard_size
    index = np.arange(first, min(first + settings.shard_size, settings.count))
    if shard < 0 or not len(index):
        last = (settings.count - 1) // settings.shard_size
        raise UserError(f"shard {shard} does not exist: this run has shards 0 to {last}")
    steps = progress(index, len(index), f"sample {shard:04d}")
    found = [sample(config.seed, int(i), settings) for i in steps]
    tries = np.array([design.tries for design in found])
    solid_fraction = np.array([design.quarter.mean() for design in found])
    quarter = np.stack([design.quarter for design in found])
    save_npz(
        out,
        made_by=json.dumps(made_by("sample", config, designs=hash_designs(index, quarter))),
        index=index,
        quarter=quarter,
        seed=np.full(len(index), config.seed),
        threshold=np.array([design.threshold for design in found]),
        solid_fraction=solid_fraction,
        tries=tries,
    )
    return statistics(tries, solid_fraction)


def statistics(tries: np.ndarray, solid_fraction: np.ndarray) -> str:
    """Acceptance rate and histogram of the solid fraction of a set of designs, as text."""
    counts, edges = np.histogram(solid_fraction, bins=np.linspace(0, 1, 21))
    lines = [
        f"designs: {len(tries)}",
        f"acceptance rate: {len(tries) / tries.sum():.2%} of {tries.sum()} fields",
        f"solid fraction: mean {solid_fraction.mean():.3f}, "
        f"from {solid_fraction.min():.3f} to {solid_fraction.max():.3f}",
    ]
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            bar = "#" * round(50 * count / counts.max())
            lines.append(f"  {low:.2f}-{high:.2f} {count:6d} {bar}")
    return "\n".join(lines)


FOREIGN = "give a PNG image, or an npz file of one binary array"


def read_design(path: str | Path) -> np.ndarray:
    """Read one design of the user's as a unit cell and check that it can be compressed.

    Parameters
    ----------
    path
        PNG (black is solid, white or transparent is void) or npz (its only array, or the one
        called ``quarter`` or ``cell``; 1 is solid). Either the upper left quarter, 48x48, or the
        whole unit cell, 96x96, which need not be mirror-symmetric.

    Returns
    -------
    numpy.ndarray
        (96, 96) uint8, 1 solid, row 0 = top.

    Raises
    ------
    UserError
        One sentence that says what is wrong with the file.
    """
    path = Path(path)
    image = _read_png(path) if path.suffix.lower() == ".png" else _read_npz(path)
    _check_size(path, image.shape)
    if not np.isin(image, (0, 1)).all():
        raise UserError(f"{path}: the design is not binary; give only 1 (solid) and 0 (void)")
    cell = mirror(image) if len(image) == QUARTER else image
    check_cell(cell, str(path))
    return cell.astype(np.uint8)


def _check_size(path: Path, shape: tuple[int, ...]) -> None:
    if shape not in ((QUARTER, QUARTER), (CELL, CELL)):
        raise UserError(
            f"{path}: the design is {'x'.join(map(str, shape))}; give {QUARTER}x{QUARTER} pixels "
            f"(the upper left quarter) or {CELL}x{CELL} (the unit cell)"
        )


def _read_png(path: Path) -> np.ndarray:
    with refusing(path, "give a PNG image"), Image.open(path, formats=["PNG"]) as file:
        _check_size(path, file.size[::-1])  # before it is decoded
        pixels = file.convert("RGBA")
    paper = Image.new("RGBA", pixels.size, "white")
    grey = np.asarray(Image.alpha_composite(paper, pixels).convert("L"))
    if np.any((grey > 50) & (grey < 205)):
        raise UserError(f"{path}: the design is not binary; draw only black (solid) and white")
    return (grey < 128).astype(np.uint8)


def _read_npz(path: Path) -> np.ndarray:
    found = npz_names(path, FOREIGN)
    names = [name for name in ("quarter", "cell") if name in found] or found
    if len(names) != 1:
        raise UserError(f"{path} holds several arrays; call the design `quarter` or `cell`")
    design = Array("iufb", ("rows", "columns"))
    return read_npz(path, Schema(FOREIGN, {names[0]: design}, foreign=True))[names[0]]


def check_cell(cell: np.ndarray, where: str) -> None:
    """Raise unless the solid of a unit cell is connected and touches both platens.

    Pixels that share an edge are neighbours, also across the left and right sides, because the
    cell repeats in x.

    Parameters
    ----------
    cell
        (n, n), 1 solid.
    where
        What the message calls the design.

    Raises
    ------
    UserError
        One sentence that says what is wrong.
    """
    for row, name in ((0, "top"), (-1, "bottom")):
        if not cell[row].any():
            raise UserError(f"{where}: the solid does not touch the {name} platen")
    labels, count = scipy.ndimage.label(cell)
    seam = labels[:, [0, -1]]
    joined = seam[seam.all(axis=1)] - 1
    graph = scipy.sparse.coo_array((np.ones(len(joined)), joined.T), shape=(count, count))
    parts, part_of = scipy.sparse.csgraph.connected_components(graph, directed=False)
    if parts > 1:
        sizes = np.bincount(part_of[labels[labels > 0] - 1])
        listed = ", ".join(map(str, sorted(sizes.tolist(), reverse=True)[:5]))
        raise UserError(
            f"{where}: the solid is disconnected: {parts} parts (of {listed} pixels); "
            "join them by pixel edges or keep one"
        )
