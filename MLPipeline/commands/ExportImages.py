"""The images of a run that an export is checked on, calibrated with and validated on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from MLPipeline.commands.OpenRun import OpenedRun
from MLPipeline.commands.RunImages import recorded_folders
from MLPipeline.CreateDataset import read_images
from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.Errors import DataError
from MLPipeline.export.LabelledPixels import LabelledPixels
from MLPipeline.frozen.FastForward import drawn_images
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.RunSplits import OwnImages, read_splits
from MLPipeline.images.ScanFolders import SPLITS, TEST
from MLPipeline.images.SplitImages import evenly

_MAX_COMPARED = 200
_MAX_BYTES = 2**29  # of pixels in memory
_NUM_DRAWN, _QUALITY = 16, 95


def files_to_compare(opened: OpenedRun) -> list[Path]:
    """Return up to 200 test images of the run, evenly spaced; none if they are gone."""
    own = _own_images(opened, TEST)
    if own is None or not len(own.index):
        return []
    paths = [own.index.path(int(position)).resolve() for position in evenly(len(own.index), _MAX_COMPARED)]
    return [path for path in paths if "\n" not in str(path)]  # the script reads one name per line


def drawn_files(folder: Path, image_size: int) -> list[Path]:
    """Write generated images, which are rough like photographs, to `folder`, and return their paths."""
    paths = [folder / f"{number}.jpg" for number in range(_NUM_DRAWN)]
    for path, image in zip(paths, drawn_images(_NUM_DRAWN, 2 * image_size), strict=True):
        path.write_bytes(encode_jpeg(image.permute(1, 2, 0).contiguous().numpy(), _QUALITY))
    return paths


def labelled_pixels(opened: OpenedRun, split: int, number: int, workers: int | None) -> LabelledPixels:
    """Return up to `number` readable images of a split of the run, evenly spaced, as the network receives them.

    Raises:
        DataError: they are gone, or the split has no images.
    """
    own, size = _own_images(opened, split), opened.card.image_size
    hint = "Export without --int8, or put the images back"
    if own is None or not len(own.index):
        raise DataError(f"--int8: needs the {SPLITS[split]} images of {opened.run.path}, and there are none", hint)
    positions = evenly(len(own.index), max(1, min(number, _MAX_BYTES // (3 * size**2))))
    paths = [own.index.path(int(position)) for position in positions]
    readings = list(read_images(paths, size, decoding_threads(workers), preprocessing=opened.card.preprocessing))
    is_read = np.array([reading.pixels is not None for reading in readings])
    if not is_read.any():
        raise DataError(f"--int8: none of the {SPLITS[split]} images of {opened.run.path} can be read", hint)
    pixels = np.stack([reading.pixels for reading in readings if reading.pixels is not None])
    return LabelledPixels(pixels, own.index.labels[positions][is_read])


def _own_images(opened: OpenedRun, split: int) -> OwnImages | None:
    """Return the images of a split of the run; None if its folder or its list of images is gone."""
    root = next((folder for folder in recorded_folders(opened) if folder.is_dir()), None)
    with suppress(DataError):
        return (
            None if root is None else read_splits(opened.run.path / "splits.csv", opened.card.classes).find(root, split)
        )
    return None
