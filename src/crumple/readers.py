"""One reader per file format; what isn't as declared is refused in one sentence.

JSON is read into a pydantic model. Arrays, in npz files and zarr stores, are compared with a
:class:`Schema` of their names, shapes, types and ranges before they are believed; sizes are
compared before memory is asked for. Every failure is a :class:`crumple.errors.UserError` that
says which file, what is wrong with it, and what to do. The schema of a format stands beside the
function that writes it.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from crumple.errors import UserError

if TYPE_CHECKING:
    import zarr

Model = TypeVar("Model", bound=BaseModel)

LARGEST_TEXT = 2**28  # bytes of a JSON file
LARGEST_YAML = 2**20  # bytes of a YAML file, which takes a second or two to parse
LARGEST_NPZ = 2**31  # bytes of all arrays of an npz file, uncompressed
LARGEST_STORE = 2**36  # bytes of all arrays of a zarr store, uncompressed
PIECE = 2**20  # bytes that are decompressed at once: a zip file may promise less than it holds
KINDS = {"i": "integers", "u": "integers", "f": "numbers", "b": "yes/no", "U": "text"}


class Array(NamedTuple):
    """What is known of an array before it is read.

    Attributes
    ----------
    kind
        Allowed kinds of numbers, as :attr:`numpy.dtype.kind`: ``f``, ``iu``, ``b``, ``U`` (text).
    shape
        Sizes. A name stands for any size, the same one everywhere in the file.
    low, high
        Least and largest value; with either, NaN isn't allowed. Of npz files only: the arrays of
        a store are read later.
    """

    kind: str
    shape: tuple[int | str, ...] = ()
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Schema:
    """What an npz file or a zarr store holds.

    Attributes
    ----------
    advice
        What the user does about a file that isn't so; the end of the sentence.
    arrays, optional
        By name: those that must and those that may be there.
    others
        What every further array must be; None where there are none.
    foreign
        The file comes from elsewhere: further arrays are left unread.
    format, version
        Of a store: its attributes of these names.
    attributes
        Of a store: model of its attributes.
    """

    advice: str
    arrays: Mapping[str, Array]
    optional: Mapping[str, Array] = field(default_factory=dict)
    others: Array | None = None
    foreign: bool = False
    format: str = ""
    version: int = 1
    attributes: type[BaseModel] | None = None


def read_json(path: str | Path, model: type[Model], advice: str) -> Model:
    """Read a JSON file into a model, without conversions between types.

    Parameters
    ----------
    path
        UTF-8 text.
    model
        What it must hold.
    advice
        What the user does about a file that cannot be read.

    Raises
    ------
    UserError
        When the file is missing, isn't JSON, names a key twice, holds NaN or infinity, or doesn't
        fit the model.
    """
    path = Path(path)
    with refusing(path, advice):
        text = _regular(path, LARGEST_TEXT).read_text(encoding="utf-8")
        parse_json(text)
        return model.model_validate_json(text, strict=True)


def read_json_lines(path: str | Path, model: type[Model], advice: str) -> list[Model]:
    """Read a file that has a JSON object in every line; see :func:`read_json`."""
    path = Path(path)
    found = []
    with refusing(path, advice):
        text = _regular(path, LARGEST_TEXT).read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                parse_json(line)
                found.append(model.model_validate_json(line, strict=True))
            except ValidationError as error:
                raise ValueError(f"in line {number}, {validation_reason(error)}") from error
            except ValueError as error:
                raise ValueError(f"in line {number}, {error}") from error
    return found


def read_yaml(
    path: str | Path, model: type[Model], advice: str, context: Mapping[str, Any] | None = None
) -> Model:
    """Read a YAML file into a model.

    Parameters
    ----------
    path
        UTF-8 text.
    model
        What it must hold.
    advice
        What the user does about a file that cannot be read.
    context
        What the validators of the model are told.

    Raises
    ------
    UserError
        When the file is missing, isn't YAML (see :func:`parse_yaml`), or doesn't fit the model.
    """
    path = Path(path)
    with refusing(path, advice):
        values = parse_yaml(_regular(path, LARGEST_YAML).read_text(encoding="utf-8-sig"))
        return model.model_validate(values, context=dict(context or {}))


def parse_json(text: str) -> Any:
    """Return the values of a JSON text.

    Raises
    ------
    ValueError
        When the text isn't JSON, names a key twice, or holds a number that isn't finite.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_not_finite,
            parse_float=lambda number: _finite(float(number), number),
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str) -> Any:
    """Return the values of a YAML text.

    Raises
    ------
    ValueError
        When the text isn't YAML, names a key twice, or uses aliases (a few lines of them can
        stand for gigabytes).
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{error.problem or error.context}{where}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class _StrictLoader(yaml.SafeLoader):
    """YAML without aliases and without keys that stand there twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        values = super().construct_mapping(node, deep)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(values) < len(keys):
            twice = Counter(keys).most_common(1)[0][0]
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{twice}' stands there twice", node.start_mark
            )
        return values


def read_npz(path: str | Path, schema: Schema) -> dict[str, NDArray]:
    """Read all arrays of an npz file that fits a schema.

    Parameters
    ----------
    path
        File as :func:`crumple.atomic.save_npz` writes it.
    schema
        What it must hold.

    Raises
    ------
    UserError
        When the file is missing or damaged, or its arrays aren't those of the schema.
    """
    path = Path(path)
    with refusing(path, schema.advice), zipfile.ZipFile(_regular(path)) as archive:
        members = _members(archive)
        names = _checked_names(members, schema)
        _check_size(sum(members[name].file_size for name in names), LARGEST_NPZ)
        sizes: dict[str, int] = {}
        arrays = {}
        for name in names:
            with archive.open(members[name]) as file:
                size = members[name].file_size
                arrays[name] = _read_npy(file, size, name, _spec(schema, name), sizes)
        return arrays


def map_npy(path: str | Path, name: str, spec: Array, advice: str) -> np.memmap:
    """Map an npy file into memory, copied where it is written to.

    Parameters
    ----------
    path
        File as :func:`numpy.save` writes it.
    name
        What the sentence calls the array.
    spec
        What it must be; ``low`` and ``high`` aren't looked at, for that would read all of it.
    advice
        What the user does about a file that cannot be read.

    Raises
    ------
    UserError
        When the file is missing, cut off, or another array.
    """
    path = Path(path)
    with refusing(path, advice), _regular(path).open("rb") as file:
        shape, fortran_order, dtype = _npy_header(file, path.stat().st_size, name, spec, {})
        order: Literal["F", "C"] = "F" if fortran_order else "C"
        return np.memmap(path, dtype, "c", file.tell(), shape, order)


def npz_names(path: str | Path, advice: str) -> list[str]:
    """Return the names of the arrays of an npz file; see :func:`read_npz`."""
    path = Path(path)
    with refusing(path, advice), zipfile.ZipFile(_regular(path)) as archive:
        return list(_members(archive))


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in members:
            raise ValueError(f"it holds the array {name} twice")
        members[name] = member
    return members


def open_store(path: str | Path, schema: Schema) -> zarr.Group:
    """Open a zarr group for reading and compare what it says of its arrays with a schema.

    Parameters
    ----------
    path
        Folder.
    schema
        What it must hold. The values of the arrays aren't looked at here.

    Raises
    ------
    UserError
        When there is no group, or its format, version, attributes or arrays aren't those of the
        schema.
    """
    import zarr  # takes half a second, and most commands do without

    path = Path(path)
    with refusing(path, schema.advice):
        if not path.is_dir():
            raise ValueError("there is no such folder")
        group = zarr.open_group(path, mode="r", zarr_format=3)
        attributes = dict(group.attrs)
        if (attributes.get("format"), attributes.get("version")) != (schema.format, schema.version):
            raise ValueError(f"it is not a {schema.format} of version {schema.version}")
        if schema.attributes is not None:
            schema.attributes.model_validate_json(json.dumps(attributes), strict=True)
        folders = (p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        names = _checked_names(folders, schema)
        sizes: dict[str, int] = {}
        arrays = {name: group[name] for name in names}
        for name, array in arrays.items():
            if not isinstance(array, zarr.Array):
                raise ValueError(f"{name} is not an array")
            kind = "U" if array.dtype.kind in "TO" else array.dtype.kind
            _check_array(name, kind, array.shape, _spec(schema, name), sizes)
            for blocks in (array.chunks, array.shards or array.chunks):
                if any(b > max(s, 1) for b, s in zip(blocks, array.shape, strict=True)):
                    raise ValueError(f"the chunks of {name} are larger than the array")
        _check_size(sum(array.nbytes for array in arrays.values()), LARGEST_STORE)
        return group


# --- what the readers share --------------------------------------------------------------------


@contextmanager
def refusing(path: Path, advice: str) -> Iterator[None]:
    """Turn whatever reading a file raises into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the parsers of damaged files raise whatever they stumble over
        raise UserError(f"cannot read {path}: {_reason(error)}; {advice}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return validation_reason(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()).rstrip(".;")
    text = text if len(text) <= 200 else text[:200] + " ..."
    return text or type(error).__name__


def validation_reason(error: ValidationError) -> str:
    """Return in words what is wrong with the first value that doesn't fit a model."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    value = repr(first["input"])
    value = value if len(value) <= 40 else value[:40] + " ..."
    if first["type"] == "missing":
        return f"'{key}' is missing"
    if first["type"] == "extra_forbidden":
        return f"'{key}' is unknown"
    if first["type"] == "value_error":
        return f"in '{key}', {first['ctx']['error']}" if key else str(first["ctx"]["error"])
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"'{key}' = {value}: {message}" if key else message


def _regular(path: Path, largest: int | None = None) -> Path:
    """Return a path if it is a file: a pipe would never end."""
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError("it is not a file")
    if largest is not None:
        _check_size(size, largest)
    return path


def _check_size(size: int, largest: int) -> None:
    if size > largest:
        raise ValueError(f"it holds {size} bytes; at most {largest} are read")


def _checked_names(names: Iterable[str], schema: Schema) -> list[str]:
    """Return the names that were found, those of the schema first."""
    found = set(names)
    missing = [name for name in schema.arrays if name not in found]
    if missing:
        raise ValueError(f"it lacks the array{'s' * (len(missing) > 1)} {', '.join(missing)}")
    known = [name for name in (*schema.arrays, *schema.optional) if name in found]
    unknown = [] if schema.foreign else sorted(found.difference(known))
    if unknown and schema.others is None:
        raise ValueError(f"it holds an unknown array {unknown[0]!r}")
    return known + unknown


def _spec(schema: Schema, name: str) -> Array:
    spec = schema.arrays.get(name) or schema.optional.get(name) or schema.others
    assert spec is not None  # _checked_names has looked
    return spec


def _check_array(
    name: str, kind: str, shape: tuple[int, ...], spec: Array, sizes: dict[str, int]
) -> None:
    """Compare an array with what is known of it; ``sizes`` collects what names stand for."""
    if kind not in spec.kind:
        wanted = " or ".join(dict.fromkeys(KINDS[k] for k in spec.kind))
        raise ValueError(f"{name} holds {KINDS.get(kind, 'other things')}, not {wanted}")
    expected = tuple(s if isinstance(s, int) else sizes.get(s, s) for s in spec.shape)
    if len(shape) != len(spec.shape) or any(
        isinstance(e, int) and e != s for e, s in zip(expected, shape, strict=True)
    ):
        wanted = " x ".join(map(str, expected)) or "a single value"
        raise ValueError(
            f"{name} is {' x '.join(map(str, shape)) or 'a single value'}, not {wanted}"
        )
    sizes.update({n: s for n, s in zip(spec.shape, shape, strict=True) if isinstance(n, str)})


def _read_npy(file: IO[bytes], size: int, name: str, spec: Array, sizes: dict[str, int]) -> NDArray:
    """Read one array of an npz file, after its header has been compared with ``spec``."""
    shape, fortran_order, dtype = _npy_header(file, size, name, spec, sizes)
    content = math.prod(shape) * dtype.itemsize
    buffer = bytearray(content)
    view, start = memoryview(buffer), 0
    while start < content:
        piece = file.read(min(PIECE, content - start))
        if not piece:
            raise ValueError(f"{name} is cut off")
        view[start : start + len(piece)] = piece
        start += len(piece)
    file.read(1)  # the checksum is compared at the end
    values = np.frombuffer(buffer, dtype).reshape(shape, order="F" if fortran_order else "C")
    if dtype.kind == "U":
        values.tolist()  # raises where there is no such character
    _check_values(name, values, spec)
    return values


def _npy_header(
    file: IO[bytes], size: int, name: str, spec: Array, sizes: dict[str, int]
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read shape, order and type of an npy file and compare them with ``spec`` and ``size``."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read_header:
        raise ValueError(f"{name} has an unknown version of the npy format")
    shape, fortran_order, dtype = read_header[version](file)
    _check_array(name, dtype.kind, shape, spec, sizes)
    if file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{name} is cut off")
    return shape, fortran_order, dtype


def _check_values(name: str, values: NDArray, spec: Array) -> None:
    low, high = spec.low, spec.high
    if low is not None and not (values >= low).all():
        raise ValueError(f"{name} must be at least {low:g} everywhere")
    if high is not None and not (values <= high).all():
        raise ValueError(f"{name} must be at most {high:g} everywhere")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key '{twice}' stands there twice")
    return values


def _not_finite(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a finite number")


def _finite(value: float, text: str) -> float:
    return value if math.isfinite(value) else _not_finite(text)
