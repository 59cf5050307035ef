"""The layout of the published data set (Bastek and Kochmann 2023): read into shards, and written.

::

    FOLDER/training/gifs/{topo,u_1,u_2,s_mises,s_22,ener}/<i>.gif
                    frame_range_data.csv    a line per sample, without a header: min_u1, max_u1,
                                            min_u2, max_u2, max_mises, min_s22, max_s22, max_energy
                    stress_strain_data.csv  a line per sample: 51 stresses at strains of 0 to 0.2
           validation/...                   the same

A GIF has a frame of 96x96 grey values for each of the 11 frame strains. Value q of a sample stands
for min + q/255 (max - min), in cell sides or MPa; ``topo`` is 0 in the void, where fields are zero.
"""

from __future__ import annotations

from crumple.published.exporting import export_published
from crumple.published.importing import import_published

__all__ = ["export_published", "import_published"]
