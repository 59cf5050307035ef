"""Small images as data URIs."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np


def png(image: np.ndarray) -> bytes:
    """Encode a greyscale image.

    Parameters
    ----------
    image
        ``(rows, columns)`` uint8, 0 black.
    """
    rows, columns = image.shape
    lines = np.zeros((rows, columns + 1), np.uint8)  # each line starts with its filter: none
    lines[:, 1:] = image
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def design_uri(solid: np.ndarray) -> str:
    """Return an image of a design, dark where solid, as a data URI.

    Parameters
    ----------
    solid
        ``(rows, columns)``, 0 void to 1 solid; values between are grey.
    """
    shade = 250 - np.clip(np.asarray(solid, float), 0, 1) * 205
    return "data:image/png;base64," + base64.b64encode(png(shade.astype(np.uint8))).decode()
