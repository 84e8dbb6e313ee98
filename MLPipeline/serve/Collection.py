"""`--collect DIR`: keeps the images that are sent, with the answers, and the classes that users say are right.

DIR/images/<digest>.jpg       each image once, as it was sent
DIR/answers.jsonl             one line per answer
DIR/labels.csv                path,label: the corrections, which `--data DIR --labels DIR/labels.csv` trains on
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from MLPipeline.decoding.ReadHeader import read_header
from MLPipeline.Errors import UsageError, did_you_mean, one_line
from MLPipeline.files.AtomicFile import unwritable, write_file
from MLPipeline.files.Cache import digest
from MLPipeline.files.CsvFile import write_csv
from MLPipeline.files.Json import dump_json
from MLPipeline.files.TableFile import TableFile, plain_cell
from MLPipeline.images.ClassNames import class_name
from MLPipeline.Predict import Answer
from MLPipeline.serve.Web import plain

_IMAGES, _ANSWERS, LABELS_FILE = "images", "answers.jsonl", "labels.csv"
_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WebP": ".webp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "BMP": ".bmp",
    "AVIF": ".avif",
}
_ID = re.compile(r"[0-9a-f]{32}")
_HINT = "Give --collect another folder"


class Collection:
    """The images of one folder; its methods may be called from several threads at once."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        """Create the folder, or continue in it.

        Raises:
            ResourceError: it cannot be written.
            UsageError: its `labels.csv` is not the table of an earlier server.
        """
        self._folder, self._lock = folder, threading.Lock()
        self._classes = {shown: name for name in classes for shown in (name, plain(name), one_line(plain(name)))}
        try:
            (folder / _IMAGES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error, _HINT) from error
        _read_labels(folder / LABELS_FILE)

    def keep(self, data: bytes, answer: Answer) -> str:
        """Return the id of an image, which is stored together with its answer.

        Raises:
            ResourceError: the disk is full, or the folder cannot be written.
        """
        key = digest(data).hex()
        path = self._folder / _IMAGES / f"{key}{_SUFFIXES.get(read_header(data).kind, '.jpg')}"
        said: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "path": f"{_IMAGES}/{path.name}",
        }
        said |= {"answered": not answer.is_withheld, "predicted": answer.predicted, "confidence": answer.confidence}
        with self._lock:
            if not path.exists():
                write_file(path, lambda file: file.write(data))
            self._append(dump_json(said) + "\n")
        return key

    def correct(self, key: str, label: str) -> None:
        """Store the right class of an image; the last one counts, and what others have written to the table stays.

        Raises:
            UsageError: there is no such image or class, or `labels.csv` is no longer a table of corrections.
            ResourceError: the disk is full, or the folder cannot be written.
        """
        name = self._classes.get(class_name(label))
        if name is None:
            raise UsageError(f"{label}: is no class of this model", did_you_mean(label, self._classes))
        found = self._find(key)
        with self._lock:
            labels = {**_read_labels(self._folder / LABELS_FILE), f"{_IMAGES}/{found.name}": name}
            frame = pd.DataFrame({"path": list(labels), "label": list(labels.values())}, dtype=object)  # any bytes
            write_csv(frame, self._folder / LABELS_FILE)

    def _find(self, key: str) -> Path:
        if _ID.fullmatch(key):
            for suffix in set(_SUFFIXES.values()):
                if (path := self._folder / _IMAGES / f"{key}{suffix}").is_file():
                    return path
        raise UsageError(f"{key[:50]}: no such image", "Send the `id` that came with its answer")

    def _append(self, line: str) -> None:
        path = self._folder / _ANSWERS
        try:
            with open(path, "ab") as file:
                if file.tell() and not _ends_a_line(path):
                    line = f"\n{line}"  # a full disk cut off the last one
                file.write(line.encode())
        except OSError as error:
            raise unwritable(path, error, _HINT) from error


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _read_labels(file: Path) -> dict[str, str]:
    """Return the corrections so far, also those that people have made in the file: path -> class."""
    if not file.exists():
        return {}
    table = TableFile(file, "--collect")
    if table.header != ("path", "label"):
        raise UsageError(f"--collect {file}: is not a table of corrections", _HINT)
    return {path: class_name(plain_cell(label)) for _, (path, label) in table.rows([0, 1])}
