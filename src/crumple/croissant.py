"""The data set as Croissant metadata, by which catalogues and loaders of machine learning read it.

``croissant.json`` (MLCommons Croissant) stands beside ``dataset.json`` and describes three things:
the manifest, the shards with their arrays, and ``designs.csv``, a table that is written for it with
the curve of every valid design. Loaders read the table as records; for the zarr shards, which
Croissant has no reader for, it says where they are and what is in them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath

import mlcroissant
from mlcroissant import DataType

from crumple.atomic import claim, save_text
from crumple.dataset import SHARD, Dataset
from crumple.layout import CHANNELS, UNITS
from crumple.progress import progress
from crumple.provenance import hash_file, is_published

NAME, TABLE = "croissant.json", "designs.csv"
COLUMNS = {  # of TABLE, before the stresses
    "design": (DataType.INTEGER, "number of the design in the data set"),
    "shard": (DataType.TEXT, "folder of its shard"),
    "row": (DataType.INTEGER, "its row in the arrays of the shard"),
    "part": (DataType.TEXT, "train or validation"),
    "solid_fraction": (DataType.FLOAT, "of the cell"),
}
ZARR = "https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html"
DESCRIPTION = (
    "Cellular metamaterials under compression to 20 % strain, simulated with plasticity and "
    "frictional self-contact: designs of 96x96 pixels, fields ({fields}) at 11 strains, and "
    "stress-strain curves of 51 points. Made by crumple."
)
PUBLISHED_DESCRIPTION = (
    "Cellular metamaterials under compression to 20 % strain: the published data set of Bastek and "
    "Kochmann (2023), read from its GIF files by crumple; fields ({fields}) have 8 bits."
)
CITATION = (
    "Bastek, J.-H., Kochmann, D. M.: Inverse design of nonlinear mechanical metamaterials via "
    "video denoising diffusion models. Nature Machine Intelligence (2023)"
)


def write_croissant(
    manifest: Path, name: str, authors: Sequence[str], licence: str, published: datetime
) -> list[Path]:
    """Write ``croissant.json`` and ``designs.csv`` beside a manifest and return their paths.

    Parameters
    ----------
    manifest
        ``dataset.json``.
    name
        Of the data set.
    authors, licence, published
        Names of people, address of the licence, day of publication.

    Raises
    ------
    UserError
        When a shard cannot be read, or something else stands in the place of the two files.
    """
    folder = manifest.parent
    out, table = claim(folder / NAME, "crate"), claim(folder / TABLE, "crate")
    dataset = Dataset(manifest)
    strains = [f"stress_{strain:.3f}" for strain in dataset.manifest["curve_strain"]]
    save_text(table, _csv([[*COLUMNS, *strains], *_rows(dataset)]))
    description = (
        PUBLISHED_DESCRIPTION if is_published(dataset.manifest["made_by"]) else DESCRIPTION
    )
    metadata = mlcroissant.Metadata(
        name=name,
        description=description.format(fields=", ".join(CHANNELS)),
        license=[licence],
        creators=[mlcroissant.Person(name=author) for author in authors],
        cite_as=CITATION,
        date_published=published,
        version="1.0.0",
        distribution=[
            _file(manifest, "application/json", "shards, split, scaling, what made them"),
            _file(table, "text/csv", "a line per valid design: where it is, its curve in MPa"),
            mlcroissant.FileSet(
                id="shards",
                name="shards",
                description=_arrays(),
                includes=_patterns(dataset),
                encoding_formats=[ZARR],
            ),
        ],
        record_sets=[_records(strains)],
    )
    save_text(out, json.dumps(metadata.to_json(), indent=2) + "\n")
    return [out, table]


def _rows(dataset: Dataset) -> Iterator[list[str]]:
    """Yield the lines of the table, shard by shard."""
    part = {
        (shard, row): name
        for name, places in dataset.manifest["split"].items()
        for shard, row in places
    }
    entries = dataset.manifest["shards"]
    for number, entry in enumerate(progress(entries, len(entries), "describe", unit="shard")):
        shard = dataset.shard(number)
        solid, curves = shard["solid_fraction"][:], shard["curve_stress"][:]
        for row, design in enumerate(entry["indices"]):
            if (number, row) in part:
                stress = [f"{value:.6g}" for value in curves[row]]
                place = [str(design), entry["path"], str(row), part[number, row]]
                yield [*place, f"{solid[row]:.6g}", *stress]


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _file(path: Path, format: str, description: str) -> mlcroissant.FileObject:
    return mlcroissant.FileObject(
        id=path.name,
        name=path.name,
        description=description,
        content_url=path.name,
        content_size=f"{path.stat().st_size} B",
        encoding_formats=[format],
        sha256=hash_file(path),
    )


def _patterns(dataset: Dataset) -> list[str]:
    """Return patterns of the files of all shards, relative to the manifest."""
    folders = {str(PurePosixPath(e["path"]).parent) for e in dataset.manifest["shards"]}
    return sorted(f"{folder}/*.zarr/**" for folder in folders)


def _arrays() -> str:
    """Describe the arrays of a shard in words."""
    shapes = ", ".join(
        f"{name} ({', '.join(map(str, array.shape))}"
        + (f"; {UNITS[name]})" if name in UNITS else ")")
        for name, array in SHARD.arrays.items()
    )
    channels = ", ".join(f"{name} ({UNITS[name]})" for name in CHANNELS)
    return (
        "zarr v3 groups, a row per design of the shard; row 0 of an image is the top. Channels of "
        f"frames: {channels}. Arrays: {shapes}."
    )


def _records(strains: Sequence[str]) -> mlcroissant.RecordSet:
    """Describe the table, column by column."""
    columns = dict(COLUMNS) | {
        name: (
            DataType.FLOAT,
            f"effective stress in MPa at a strain of {name.removeprefix('stress_')}",
        )
        for name in strains
    }
    return mlcroissant.RecordSet(
        id="designs",
        name="designs",
        description="valid designs with their stress-strain curves",
        key="designs/design",
        fields=[
            mlcroissant.Field(
                id=f"designs/{name}",
                name=name,
                description=description,
                data_types=[kind],
                source=mlcroissant.Source(
                    file_object=TABLE, extract=mlcroissant.Extract(column=name)
                ),
            )
            for name, (kind, description) in columns.items()
        ],
    )
