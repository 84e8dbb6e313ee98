"""Features of images in a file, `.npz` or `.parquet`, written and read in the memory of one block.

    features.npz        numpy.load opens it: `features` (N, D) float32, `paths` (N,), and `about`, a JSON text
    features.parquet    pandas.read_parquet opens it: a column `path` and a column `features` of lists of D numbers

`about` says which network computed the features, and from which folder relative paths start.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from MLPipeline.Errors import ResourceError, UsageError, is_out_of_memory
from MLPipeline.files.AtomicFile import write_file
from MLPipeline.files.Json import dump_json, parse_json
from MLPipeline.files.PlainFile import UnusableFileError, open_regular
from MLPipeline.files.PlainValues import is_usable_text
from MLPipeline.similarity.EmbedFiles import Collection
from MLPipeline.similarity.FeatureNetwork import Origin

SUFFIXES = (".npz", ".parquet")
_FORMAT = 1
_AT_ONCE = 4096  # images
_MEMBERS = ("features", "paths", "about")  # of a .npz file
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a member of a zip archive: the lengths of its name and its extra field
_HINT = "Write it with: python Engine.py embed PHOTOS --to features.npz"


def check_suffix(flag: str, file: Path) -> None:
    """Check that `file`, which `flag` names, has the suffix of a file of features.

    Raises:
        UsageError: it has another one.
        ResourceError: it is a Parquet file, and pyarrow is not installed.
    """
    if file.suffix.lower() not in SUFFIXES:
        what = f"{flag} {file}: features are written as .npz or .parquet"
        raise UsageError(what, "Give a file such as features.npz")
    if file.suffix.lower() == ".parquet":
        _pyarrow(file)


def write_features(file: Path, collection: Collection) -> None:
    """Write a collection to `file`, in the format that its suffix names; the old content is replaced at the end.

    Raises:
        ResourceError: the disk is full, or the folder cannot be written.
    """
    about = {"format": _FORMAT, "folder": str(collection.folder.absolute()), "origin": asdict(collection.origin)}
    write = _write_parquet if file.suffix.lower() == ".parquet" else _write_npz
    write_file(file, lambda opened: write(opened, collection, dump_json(about)))


def read_features(file: Path) -> Collection:
    """Return the collection that `write_features` has written to `file`; the features stay in the file until needed.

    Raises:
        UsageError: there is no such file, or it is damaged or holds something else.
        ResourceError: it is a Parquet file, and pyarrow is not installed.
    """
    check_suffix("--in", file)
    read = _read_parquet if file.suffix.lower() == ".parquet" else _read_npz
    try:
        return read(file)
    except UnusableFileError as error:
        raise UsageError(f"--in {file}: {error}", _HINT) from error
    except Exception as error:  # damage can raise any error
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(f"--in {file}: is damaged, or no file of features ({reason})", _HINT) from error


def is_feature_file(file: Path) -> bool:
    """Return whether `write_features` has written `file`."""
    try:
        read_features(file)
    except (UsageError, ResourceError):
        return False
    return True


def _origin_of(about: str) -> tuple[Path, Origin]:
    """Return the folder and the origin in the text `about` of a file.

    Raises:
        ValueError: it is damaged, or of a later version.
    """
    stored = parse_json(about.encode())
    if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
        raise ValueError("of another version")
    folder = stored.get("folder")
    if not isinstance(folder, str) or not is_usable_text(folder):
        raise ValueError("names no folder")
    return Path(folder), Origin.from_plain(stored.get("origin"))


def _blocks(collection: Collection) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield names and features (B, D) float32 of some images at a time."""
    for start in range(0, len(collection), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(collection))
        yield list(collection.names[start:stop]), collection.block(start, stop)


# ---- .npz: an archive of arrays, which is not compressed, so that its arrays can be mapped into memory ---------------


def _write_npz(file: BinaryIO, collection: Collection, about: str) -> None:
    longest = max(map(len, collection.names))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        features = (rows for _, rows in _blocks(collection))
        _write_array(archive, "features", (len(collection), collection.width), np.dtype("<f4"), features)
        texts = np.dtype(f"<U{longest}")
        names = (np.array(names, texts) for names, _ in _blocks(collection))
        _write_array(archive, "paths", (len(collection),), texts, names)
        _write_array(archive, "about", (), np.dtype(f"<U{len(about)}"), iter([np.array(about)]))


def _write_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype, parts: Iterator[np.ndarray]
) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        head = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(member, head)
        for part in parts:
            member.write(np.ascontiguousarray(part, dtype).tobytes())


def _read_npz(file: Path) -> Collection:
    with open_regular(file) as opened, zipfile.ZipFile(opened) as archive:
        features, paths, about = (_mapped(opened, archive.getinfo(f"{name}.npy")) for name in _MEMBERS)
    if features.dtype != np.float32 or features.ndim != 2 or paths.shape != features.shape[:1] or not features.size:
        raise ValueError("holds no features (N, D) float32 with N paths")
    if paths.dtype.kind != "U" or about.dtype.kind != "U":
        raise ValueError("holds no texts")
    folder, origin = _origin_of(str(about))
    return _collection(features, paths.tolist(), folder, origin)


def _mapped(opened: BinaryIO, member: zipfile.ZipInfo) -> np.ndarray:
    """Return an array of the archive, mapped into memory.

    Raises:
        ValueError: it is compressed, does not lie within the file, or has another type than texts and numbers.
    """
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    opened.seek(member.header_offset)
    num_name, num_extra = _LOCAL_HEADER.unpack(opened.read(_LOCAL_HEADER.size))
    start = opened.seek(num_name + num_extra, io.SEEK_CUR)
    if npy.read_magic(opened) != (1, 0):
        raise ValueError("an array of another version")
    shape, is_fortran, dtype = npy.read_array_header_1_0(opened)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.hasobject or is_fortran or opened.tell() + size > start + member.file_size:
        raise ValueError(f"{member.filename} has {size} bytes, which are not there")
    if not size:
        raise ValueError(f"{member.filename} is empty")
    return np.memmap(opened, dtype, "r", opened.tell(), shape)


def _collection(features: np.ndarray, names: list[str], folder: Path, origin: Origin) -> Collection:
    def block(start: int, stop: int) -> np.ndarray:
        return np.array(features[start:stop])  # a copy, since numbers in an archive are not aligned in memory

    return Collection(tuple(names), folder, block, features.shape[1], origin)


# ---- .parquet -------------------------------------------------------------------------------------------------------


def _write_parquet(file: BinaryIO, collection: Collection, about: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = pa.list_(pa.float32(), collection.width)
    schema = pa.schema([("path", pa.string()), ("features", lists)], metadata={"about": about})
    with pq.ParquetWriter(file, schema) as writer:
        for names, rows in _blocks(collection):
            texts = [name.encode("utf-8", "backslashreplace").decode() for name in names]  # Parquet has no other text
            values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), collection.width)
            writer.write_table(pa.table([pa.array(texts, pa.string()), values], schema=schema))


def _read_parquet(file: Path) -> Collection:
    import pyarrow.parquet as pq

    with open_regular(file) as opened, pq.ParquetFile(opened) as parquet:
        folder, origin = _origin_of((parquet.schema_arrow.metadata or {}).get(b"about", b"").decode())
        table = parquet.read(["path", "features"])
    rows = table["features"].combine_chunks()
    features = rows.flatten().to_numpy().reshape(len(table), -1)
    if features.dtype != np.float32 or not features.size or rows.null_count or table["path"].null_count:
        raise ValueError("holds no features")
    return _collection(features, table["path"].to_pylist(), folder, origin)


def _pyarrow(file: Path) -> None:
    try:
        import pyarrow.parquet  # noqa: F401  the rest of the project does without it
    except ModuleNotFoundError as error:
        what = f"{file}: Parquet files need the package pyarrow"
        raise ResourceError(what, "Run pip install pyarrow, or give a .npz file") from error
