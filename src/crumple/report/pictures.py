"""Small images as data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

VOID, SOLID = 250, 45  # shades of grey


def png(image: np.ndarray) -> bytes:
    """Encode a greyscale image.

    Parameters
    ----------
    image
        ``(rows, columns)`` uint8, 0 black.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return file.getvalue()


def design_uri(solid: np.ndarray) -> str:
    """Return an image of a design, dark where solid, as a data URI.

    Parameters
    ----------
    solid
        ``(rows, columns)``, 0 void to 1 solid; values between are grey.
    """
    shade = VOID - np.clip(np.asarray(solid, float), 0, 1) * (VOID - SOLID)
    return "data:image/png;base64," + base64.b64encode(png(shade.astype(np.uint8))).decode()
