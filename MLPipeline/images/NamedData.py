"""`--data cifar10`: public data sets by name, downloaded once and stored as class folders.

    archives, checked by torchvision's md5 -> torchvision.datasets -> output/datasets/cifar10/train/<class>/00001.png

The folder is created in full or not at all. Next to it, `archives/` keeps what was downloaded or placed there by hand.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from MLPipeline.decoding.EncodeImage import encode_png
from MLPipeline.Errors import ResourceError
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.Download import download
from MLPipeline.files.Lock import held
from MLPipeline.files.Machine import num_cores

LOCK_TIMEOUT_S = 600.0  # another run, or another process of this one, may be downloading
NOT_IN_FOLDER_NAMES = re.compile(r'[\\/:*?"<>|\x00-\x1f]+')  # not allowed on at least one operating system


@dataclass(frozen=True)
class Source:
    """How torchvision provides a data set."""

    dataset: str  # its class in torchvision.datasets
    folder: str  # where that class expects its archives
    archives: Callable[[Any], list[tuple[str, str]]]  # class -> URL and md5 of each
    splits: Mapping[str, Mapping[str, Any]]  # split folder -> arguments of the class
    images: str = "data"  # attribute with the pixels (N, H, W[, 3]) uint8, or with the paths of image files
    labels: str = "targets"


TRAIN_AND_TEST: Mapping[str, Mapping[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
FLOWERS: Mapping[str, Mapping[str, Any]] = {split: {"split": split} for split in ("train", "val", "test")}
PETS: Mapping[str, Mapping[str, Any]] = {"train": {"split": "trainval"}, "test": {"split": "test"}}


def _cifar(dataset: Any) -> list[tuple[str, str]]:
    return [(dataset.url, dataset.tgz_md5)]


SOURCES: Mapping[str, Source] = {
    "cifar10": Source("CIFAR10", "", _cifar, TRAIN_AND_TEST),
    "cifar100": Source("CIFAR100", "", _cifar, TRAIN_AND_TEST),
    "fashionmnist": Source(
        "FashionMNIST",
        "FashionMNIST/raw",
        lambda dataset: [(dataset.mirrors[0] + name, md5) for name, md5 in dataset.resources],
        TRAIN_AND_TEST,
    ),
    "flowers102": Source(
        "Flowers102",
        "flowers-102",
        lambda dataset: [(dataset._download_url_prefix + name, md5) for name, md5 in dataset._file_dict.values()],
        FLOWERS,
        "_image_files",
        "_labels",
    ),
    "oxfordpets": Source(
        "OxfordIIITPet", "oxford-iiit-pet", lambda dataset: list(dataset._RESOURCES), PETS, "_images", "_labels"
    ),
}


def named_data(data: Path, output: Path) -> Path | None:
    """Return the folder of the data set that `data` names, created if it does not exist yet.

    None if `data` is an existing path, which takes precedence, or not the name of a data set.

    Raises:
        ResourceError: the archives cannot be downloaded, are damaged, or cannot be unpacked into `output`.
    """
    name = str(data).lower()
    if name not in SOURCES or os.path.lexists(data):
        return None
    folder = output / "datasets" / name
    if not folder.is_dir():
        try:
            with _locked(folder):
                _make_folders(SOURCES[name], folder)
        except OSError as error:
            raise unwritable(folder, error) from error
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder.with_name(f".{folder.name}.lock"), folder, LOCK_TIMEOUT_S):
        yield


def _make_folders(source: Source, folder: Path) -> None:
    """Download what is missing and unpack it into `folder`; after an interruption, unpacking starts again."""
    if folder.is_dir():  # created by another run, while this one waited for the lock
        return
    from torchvision import datasets

    dataset_class = getattr(datasets, source.dataset)
    scratch = folder.with_name(f".{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a run that was killed
    try:
        for url, md5 in source.archives(dataset_class):
            archive = _fetch(url, folder.with_name("archives"), md5)
            place = scratch / source.folder / archive.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(archive, place)
        for split, options in source.splits.items():
            dataset = dataset_class(root=scratch, download=True, **options)  # finds the archives and only unpacks them
            images, labels = getattr(dataset, source.images), getattr(dataset, source.labels)
            _write_images(images, [dataset.classes[label] for label in labels], scratch / folder.name / split)
        os.replace(scratch / folder.name, folder)
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"--data {folder.name}: its labels need SciPy to be read", "Run pip install scipy"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fetch(url: str, folder: Path, md5: str) -> Path:
    """Return the archive of `url` in `folder`, downloaded if it is not there yet.

    Raises:
        ResourceError: it cannot be downloaded, or it is damaged.
    """
    from torchvision.datasets.utils import check_integrity

    archive = folder / url.rpartition("/")[2]
    if not archive.exists():
        download(url, archive, md5, "md5", "give --data a folder of your own", "give another --output")
    elif not check_integrity(archive, md5):
        raise ResourceError(f"{archive}: damaged, or not the file of {url}", f"Delete {archive} and run again")
    return archive


def _write_images(images: Any, classes: list[str], folder: Path) -> None:
    """Put each image into the folder of its class: pixels as a PNG file, an image file unchanged."""
    names = {name: NOT_IN_FOLDER_NAMES.sub("-", name) for name in classes}
    for name in names.values():
        (folder / name).mkdir(parents=True)

    def write(number: int) -> None:
        image, place = images[number], folder / names[classes[number]]
        if isinstance(image, Path):
            os.replace(image, place / image.name)
        else:
            (place / f"{number:05}.png").write_bytes(encode_png(np.asarray(image)))

    with ThreadPoolExecutor(num_cores() + 4) as pool:
        try:
            written = pool.map(write, range(len(classes)))
            for _ in tqdm(written, f"{folder.parent.name}/{folder.name}", len(classes), unit="image", disable=None):
                pass
        finally:
            pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for 60,000 files
