"""`splits.csv` of a run -> index of the images of one split, with the labels and the contents that the run had.

recorded = read_splits(run.path / "splits.csv", card.classes)
own = recorded.find(root, TEST)                 # no folder is scanned: what has been added since does not matter
"""

from __future__ import annotations

import os
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from MLPipeline.Errors import DataError, PipelineError, unescaped
from MLPipeline.files.Cache import DIGEST_BYTES
from MLPipeline.files.TableFile import TableFile, cell_key, plain_cell
from MLPipeline.images.ScanFolders import SPLITS, UNSPLIT, ImageIndex

_DIGEST = np.dtype(f"V{DIGEST_BYTES}")
_HINT = "Give labelled images with --data"


@dataclass(frozen=True)
class OwnImages:
    """The images of one split of a run, found again at their paths."""

    index: ImageIndex
    digests: np.ndarray | None  # (N,) V16, of the files when the run was made; None for runs that did not record them
    gone: list[str]  # paths at which there is no file any more
    gone_digests: np.ndarray | None

    @property
    def num_recorded(self) -> int:
        """The number of images that the run had in this split."""
        return len(self.index) + len(self.gone)


@dataclass(frozen=True)
class RecordedSplits:
    """The rows of `splits.csv`, packed, in its order, which is that of the run's index."""

    classes: tuple[str, ...]
    labels: np.ndarray  # (N,) int32
    splits: np.ndarray  # (N,) int8
    digests: np.ndarray | None  # (N,) V16
    _paths: bytes  # the cells, one after the other
    _ends: np.ndarray

    def cell(self, row: int) -> str:
        """Return the path of one image, as it is written in the table."""
        return self._paths[int(self._ends[row - 1]) if row else 0 : int(self._ends[row])].decode()

    def find(self, root: Path, split: int) -> OwnImages:
        """Return the images of `split` that lie below `root` where the run found them."""
        rows, names, gone = np.flatnonzero(self.splits == split), [], array("q")
        for row in rows.tolist():
            name = next((each for each in spellings(self.cell(row)) if os.path.exists(root / each)), None)
            if name is None:
                gone.append(row)
            else:
                names.append(os.fsencode(name))
        found = np.setdiff1d(rows, gone)
        index = ImageIndex(
            root=root,
            classes=self.classes,
            labels=self.labels[found],
            splits=np.full(len(found), split, np.int8),
            skipped=(),
            _names=b"".join(names),
            _ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        )
        digests, gone_digests = (None if self.digests is None else self.digests[of] for of in (found, np.array(gone)))
        return OwnImages(index, digests, [self.cell(row) for row in gone], gone_digests)

    def contents_of(self, *splits: int) -> np.ndarray:
        """Return the digests (M,) V16 of all files of these splits; none where they were not recorded."""
        return np.empty(0, _DIGEST) if self.digests is None else self.digests[np.isin(self.splits, splits)]


def read_splits(table: Path, classes: Sequence[str]) -> RecordedSplits:
    """Return what the `splits.csv` of a run records, with labels as positions in the `classes` of its model.

    Raises:
        DataError: the table is missing or damaged, or has a class that the model does not know.
    """
    label_of = {cell_key(name): label for label, name in enumerate(classes)}
    labels, splits, ends, paths, digests = array("i"), array("b"), array("q"), bytearray(), bytearray()
    try:
        rows = TableFile(table, "")
        names = [*("path", "class", "split"), *(["digest"] if "digest" in rows.header else [])]
        for _, (path, label, split, *content) in rows.rows([rows.header.index(name) for name in names]):
            labels.append(label_of[cell_key(label)])
            splits.append(SPLITS.index(split) if split else UNSPLIT)
            paths += path.encode()
            ends.append(len(paths))
            digests += bytes.fromhex(content[0]) if content else b""
    except (PipelineError, KeyError, ValueError) as error:
        raise DataError(f"{table}: cannot be read as a table of the run's images", _HINT) from error
    if digests and len(digests) != DIGEST_BYTES * len(labels):
        raise DataError(f"{table}: its column digest is damaged", _HINT)
    return RecordedSplits(
        tuple(classes),
        np.array(labels, np.int32),
        np.array(splits, np.int8),
        np.frombuffer(bytes(digests), _DIGEST) if digests else None,
        bytes(paths),
        np.array(ends, np.int64),
    )


def same_contents(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return whether each digest of `one` (N,) V16 is among those of `other`: (N,) bool."""
    known = {content.tobytes() for content in other}
    return np.array([content.tobytes() in known for content in one], bool)


def spellings(cell: str) -> Iterator[str]:
    """Yield the relative paths that a cell may mean: `write_csv` escapes invisible characters and leading signs."""
    plain = plain_cell(cell)
    for name in dict.fromkeys([unescaped(plain), plain, unescaped(cell), cell]):
        if not os.path.isabs(name) and ".." not in name.split("/"):
            yield from dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))])
