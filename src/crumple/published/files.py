"""Names, numbers and pictures of the published layout; see :mod:`crumple.published`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crumple.layout import CELL, CHANNELS, FRAME_STRAIN

PARTS = ("training", "validation")
GIFS = {"u1": "u_1", "u2": "u_2", "s22": "s_22", "mises": "s_mises"}  # folders by channel
TOPOLOGY, ENERGY = "topo", "ener"
RANGES, CURVES = "frame_range_data.csv", "stress_strain_data.csv"
COLUMNS = {"u1": (0, 1), "u2": (2, 3), "mises": (None, 4), "s22": (5, 6)}  # of RANGES: min, max
RANGE_COLUMNS = 8  # the last one is the largest strain energy
FRAMES = len(FRAME_STRAIN)
LEVELS = 255
DURATION = 200  # ms per frame
GREYS = bytes(np.repeat(np.arange(256, dtype=np.uint8), 3))
HEADER = 13 + len(GREYS)  # bytes before the first frame: screen descriptor and colours


def gif(part: Path, folder: str, number: int) -> Path:
    """Return the path of the GIF of a sample in ``training`` or ``validation``."""
    return part / "gifs" / folder / f"{number}.gif"


# --- grey values ---------------------------------------------------------------------------------


def field_ranges(frames: NDArray) -> NDArray[np.float64]:
    """Return the line of ``RANGES`` for the frames (11, 4, 96, 96) of a sample.

    The strain energy isn't stored in shards; its column is 0.
    """
    line = np.zeros(RANGE_COLUMNS)
    for channel, (low, high) in COLUMNS.items():
        values = frames[:, CHANNELS.index(channel)]
        line[high] = values.max()
        if low is not None:
            line[low] = values.min()
    return line


def channel_range(line: NDArray, channel: str) -> tuple[float, float]:
    """Return the least and the largest value of a channel from a line of ``RANGES``."""
    low, high = COLUMNS[channel]
    return (0.0 if low is None else float(line[low])), float(line[high])


def to_grey(values: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    """Return the nearest of the 256 grey values between ``low`` and ``high``."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = (np.asarray(values, np.float64) - low) / (high - low)
    return np.rint(LEVELS * scaled.clip(0, 1)).astype(np.uint8)


def from_grey(grey: NDArray, low: float, high: float) -> NDArray[np.float64]:
    """Return the values that grey values stand for."""
    return low + grey / LEVELS * (high - low)


# --- GIF -----------------------------------------------------------------------------------------


def write_gif(grey: NDArray[np.uint8]) -> bytes:
    """Return a GIF with every frame of (11, 96, 96), also those that are like the one before.

    Pillow would merge these, and readers count on 11. It writes one picture after the other here,
    all with the same colours; what follows the colours of each is put behind the first.
    """
    content = b""
    for number, frame in enumerate(grey):
        image = Image.frombytes("P", frame.shape[::-1], np.ascontiguousarray(frame).tobytes())
        image.putpalette(GREYS)
        file = io.BytesIO()
        loop = {"loop": 0} if number == 0 else {}
        image.save(file, "GIF", optimize=False, duration=DURATION, **loop)
        picture = file.getvalue().removesuffix(b";")
        content += picture if number == 0 else picture[HEADER:]
    return content + b";"


def read_gif(content: bytes, still: bool = False) -> NDArray[np.uint8]:
    """Return the frames (11, 96, 96) of a GIF.

    A frame that a writer has merged with the ones before it, because they are the same, is shown
    as many times longer.

    Parameters
    ----------
    content
        Of the file.
    still
        Whether a single frame may stand for all. Else it does so only where all of its pixels are
        alike: a file that was cut off has one frame too.

    Raises
    ------
    ValueError, OSError
        With the reason, when it is damaged or doesn't have 11 frames of 96x96.
    """
    frames: list[NDArray] = []
    durations: list[float] = []
    with Image.open(io.BytesIO(content), formats=["GIF"]) as image:
        while len(frames) <= FRAMES:
            try:
                image.seek(len(frames))
            except EOFError:
                break
            if image.size != (CELL, CELL):  # before it is decoded; any frame may change it
                raise ValueError(f"it is {image.width}x{image.height}, not {CELL}x{CELL}")
            frames.append(np.asarray(image.convert("L")))
            durations.append(float(image.info.get("duration", 0)))
    if len(frames) > FRAMES:
        raise ValueError(f"it has more than {FRAMES} frames")
    if len(frames) == 1 and not still and np.ptp(frames[0]) > 0:
        raise ValueError(f"it has 1 of {FRAMES} frames")
    return np.repeat(frames, _counts(durations), axis=0)


def _counts(durations: list[float]) -> list[int]:
    """Return how many of the 11 frames each frame stands for."""
    if len(durations) in (1, FRAMES):
        return [FRAMES // len(durations)] * len(durations)
    counts = np.array(durations) * FRAMES / max(sum(durations), 1e-9)
    whole = np.rint(counts)
    if whole.min() < 1 or np.abs(counts - whole).max() > 0.01:
        raise ValueError(
            f"it has {len(durations)} of {FRAMES} frames, and their durations don't say that "
            "equal ones were merged"
        )
    return whole.astype(int).tolist()
