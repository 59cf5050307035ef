"""A picture and a movie of a deformation, drawn by pyvista from the series for ParaView.

Run as a program (``python -m crumple.fem.rendering FOLDER``), because VTK ends the process with a
segmentation fault where there is no OpenGL; :func:`render` starts it and says so in a sentence.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyvista
from numpy.typing import NDArray
from PIL import Image

from crumple.atomic import atomic_path

SERIES, PICTURE, MOVIE = "deformation.pvd", "deformation.png", "deformation.gif"
COLOURED = "von_mises_stress"
PIXELS = [720, 640]
FRAME_TIME = 300  # ms
LAST_FRAME_TIME = 1500  # ms
TIME_LIMIT = 300  # s


class CannotDraw(RuntimeError):
    """Picture and movie could not be drawn; the message is one sentence."""


def render(folder: Path) -> None:
    """Draw picture and movie of the series in a folder, in a process of their own.

    Parameters
    ----------
    folder
        With ``deformation.pvd`` and its files; gets ``deformation.png`` (the last state) and
        ``deformation.gif`` (all of them).

    Raises
    ------
    CannotDraw
        When they cannot be drawn, mostly because there is no OpenGL.
    """
    command = [sys.executable, "-m", "crumple.fem.rendering", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        raise CannotDraw(f"drawing {folder} took more than {TIME_LIMIT} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        why = lines[-1] if lines and done.returncode > 0 else "no OpenGL (libegl1, libgl1)"
        raise CannotDraw(f"picture and movie of {folder} cannot be drawn here: {why}")


def read_series(folder: Path) -> tuple[NDArray, list[pyvista.UnstructuredGrid]]:
    """Read a ParaView series: strains in per cent and states."""
    entries = ElementTree.parse(folder / SERIES).getroot().iter("DataSet")
    pairs = [(float(entry.attrib["timestep"]), folder / entry.attrib["file"]) for entry in entries]
    states = [pyvista.UnstructuredGrid(str(path)) for _, path in pairs]
    return np.array([strain for strain, _ in pairs]), states


def draw(strains: NDArray, states: list[pyvista.UnstructuredGrid]) -> list[Image.Image]:
    """Draw deformed cells, coloured by von Mises stress, all on one scale; needs OpenGL."""
    largest = float(np.percentile(np.concatenate([s[COLOURED] for s in states]), 99.5))
    images = []
    plotter = pyvista.Plotter(off_screen=True, window_size=PIXELS)
    plotter.background_color = pyvista.Color("white")
    plotter.camera.parallel_projection = True
    for strain, state in zip(strains, states, strict=True):
        plotter.clear()
        plotter.add_mesh(
            state.warp_by_vector("displacement"),
            scalars=COLOURED,
            clim=(0.0, max(largest, 1e-9)),
            cmap="viridis",
            lighting=False,
            scalar_bar_args={
                "title": "von Mises stress (MPa)\n",
                "color": "black",
                "fmt": "%.0f",
                "title_font_size": 16,
                "label_font_size": 14,
            },
        )
        for height in (0.0, 1.0 - strain / 100):
            platen = pyvista.Line((-0.05, height, 0), (1.05, height, 0))
            plotter.add_mesh(platen, color="black", line_width=2)
        plotter.add_text(f"strain {strain:.1f} %", color="black", font_size=9)
        plotter.camera_position = [(0.5, 0.43, 1.0), (0.5, 0.43, 0.0), (0.0, 1.0, 0.0)]
        plotter.camera.parallel_scale = 0.66
        images.append(Image.fromarray(np.asarray(plotter.screenshot(return_img=True))))
    plotter.close()
    return images


def main(folder: Path) -> None:
    """Draw the series of a folder; ends in a segmentation fault where there is no OpenGL."""
    images = draw(*read_series(folder))
    with atomic_path(folder / PICTURE) as temporary:
        images[-1].save(temporary)
    with atomic_path(folder / MOVIE) as temporary:
        images[0].save(
            temporary,
            save_all=True,
            append_images=images[1:],
            duration=[FRAME_TIME] * (len(images) - 1) + [LAST_FRAME_TIME],
            loop=0,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
