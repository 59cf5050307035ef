"""Small meshes that the tests of the solver share."""

from __future__ import annotations

import numpy as np


def grid(nx: int, ny: int, width: float = 1.0, height: float = 1.0, origin=(0.0, 0.0)):
    """Nodes (N, 2) and counter-clockwise cells (M, 4) of a rectangle."""
    x, y = np.meshgrid(np.linspace(0, width, nx + 1), np.linspace(0, height, ny + 1))
    nodes = np.column_stack([x.ravel() + origin[0], y.ravel() + origin[1]])
    first = (np.arange(ny)[:, None] * (nx + 1) + np.arange(nx)).ravel()
    return nodes, np.column_stack([first, first + 1, first + nx + 2, first + nx + 1])


def join(*parts):
    """Put meshes side by side, merging nodes at the same place."""
    nodes = np.vstack([nodes for nodes, _ in parts])
    offsets = np.cumsum([0] + [len(nodes) for nodes, _ in parts[:-1]])
    cells = np.vstack([cells + shift for (_, cells), shift in zip(parts, offsets, strict=True)])
    _, first, merged = np.unique(np.round(nodes, 9), axis=0, return_index=True, return_inverse=True)
    return nodes[first], merged.ravel()[cells]


def frame():
    """A square hole in a square cell: 16 x 16 cells without the middle 8 x 6."""
    nodes, cells = grid(16, 16)
    centre = nodes[cells].mean(axis=1)
    inside = (np.abs(centre[:, 0] - 0.5) < 0.25) & (np.abs(centre[:, 1] - 0.5) < 0.19)
    cells = cells[~inside]
    used, cells = np.unique(cells, return_inverse=True)
    return nodes[used], cells.reshape(-1, 4)
