"""Lists the image files below a folder in natural order, and the files left out; no file is opened."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from MLPipeline.decoding.ReadImage import FOREIGN_SUFFIXES, IMAGE_SUFFIXES
from MLPipeline.files.ErrnoHints import is_shortage, unreadable

_NUMBER = re.compile(r"\d+")
_JUNK = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "lost+found", "@eadir"}


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why."""

    path: str  # relative to the data root
    reason: str


def natural_order(name: str) -> str:
    """Return a sort key that puts `img2` before `img10` and ignores case.

    The key is one string, in which each number is preceded by a zero character and the number of its digits. A million
    keys take 100 MB; lists would take 600 MB.
    """
    key = _NUMBER.sub(_numbered, name.casefold()) if _NUMBER.search(name) else name.casefold()
    return f"{key}\0\0{name}"


def _numbered(match: re.Match[str]) -> str:
    digits = match[0] if match[0].isascii() else "".join(str(int(each)) for each in match[0])  # in whatever script
    digits = digits.lstrip("0") or "0"
    return f"\0{chr(len(digits))}{digits}"


def is_junk(name: str) -> bool:
    """Return whether a file or folder belongs to the system, not the user: hidden, `__MACOSX`, `Thumbs.db`."""
    return name.startswith(".") or name.casefold() in _JUNK


def count_reasons(skipped: Iterable[Skipped]) -> str:
    """Return the five most frequent reasons: `12 x HEIC: convert to JPEG or PNG, 1 x empty file`."""
    counts = Counter(each.reason for each in skipped)
    return ", ".join(f"{number} x {reason}" for reason, number in counts.most_common(5))


def visible(folder: Path) -> list[Path]:
    """Return the entries of `folder` in natural order, without junk."""
    return [folder / name for name in sorted(os.listdir(folder), key=natural_order) if not is_junk(name)]


class ImageWalk:
    """A walk below `root` that visits no folder twice, even if links point to it, and records what it leaves out.

    `folders` are the folders to visit (default: `root`). A link into one of them, or to a folder that contains it, is
    not followed, so that each image is found only in its own folder.
    """

    def __init__(self, root: Path, follow_links: bool, folders: Sequence[Path] | None = None) -> None:
        self.root = root
        self._real_root = _real(root)
        self.follow_links = follow_links
        self.skipped: list[Skipped] = []
        self._walked = [self._real_root]
        if folders is not None:
            self._walked = [_real(folder) for folder in folders if not folder.is_symlink()]
        self._seen: set[tuple[int, int]] = set()

    def images(self, folder: Path) -> Iterator[Path]:
        """Yield the image files below `folder` in natural order."""
        return map(Path, self.names(folder))

    def names(self, folder: Path) -> Iterator[str]:
        """Yield the image files below `folder` in natural order, as strings: a `Path` for each would be slow."""
        waiting = [(str(folder), False)]  # a stack instead of recursion: folders may be nested a thousand deep
        while waiting:
            name, is_file = waiting.pop()
            is_folder = not is_file and os.path.isdir(name)
            try:
                # The listing of a folder shows which entries are files: a million of them need no further system calls.
                reason = _refuse_name(name) if is_file else self._refuse(Path(name), is_folder, name == str(folder))
                inside = _entries(Path(name)) if is_folder and not reason else []
            except OSError as error:
                if is_shortage(error):
                    raise unreadable(name, error, "Run the same command again") from error
                reason, inside = f"cannot be read ({error.strerror})", []
            if reason:
                self.skip(Path(name), reason)
            elif not is_folder:
                yield name
            waiting += reversed(inside)

    def _refuse(self, path: Path, is_folder: bool, is_first: bool) -> str:
        is_linked = is_first or path.is_symlink()  # a parent of the first folder may be a link
        if is_linked and not self.follow_links and not _real(path).is_relative_to(self._real_root):
            return "link leads out of the data folder: only with --follow-links"
        return self._refuse_folder(path) if is_folder else _refuse_file(path)

    def _refuse_folder(self, folder: Path) -> str:
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        if identity in self._seen or (folder != self.root and folder.is_symlink() and self._is_walked(folder)):
            return "linked again"
        self._seen.add(identity)
        return ""

    def _is_walked(self, link: Path) -> bool:
        target = _real(link)
        return any(target.is_relative_to(walked) or walked.is_relative_to(target) for walked in self._walked)

    def skip(self, path: Path, reason: str) -> None:
        """Record that `path` is not used."""
        self.skipped.append(Skipped(os.path.relpath(path, self.root), reason))


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Return the paths that `visible` returns, each with whether it is a regular file (and not a link to one)."""
    with os.scandir(folder) as entries:
        kept = [each for each in entries if not is_junk(each.name)]
    kept.sort(key=lambda each: natural_order(each.name))
    return [(each.path, each.is_file(follow_symlinks=False)) for each in kept]


def _refuse_file(path: Path) -> str:
    return _refuse_name(path.name) or ("" if stat.S_ISREG(os.stat(path).st_mode) else "not a regular file")


def _refuse_name(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return ""
    if suffix in FOREIGN_SUFFIXES:
        return f"{suffix[1:].upper()}: convert to JPEG or PNG"
    return f"not an image file ({suffix or 'no suffix'})"


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `Path.resolve` raises for a link that points to itself
