"""The other data sets known by name, each made from archives in its own format, without a network."""

import gzip
import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from test_NamedData import md5, pixels, put, tar
from torchvision import datasets

from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.Errors import ResourceError
from MLPipeline.images.NamedData import SOURCES, named_data
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL, scan_folders


def idx(values: np.ndarray) -> bytes:
    """MNIST's format: type, number of dimensions, their sizes, then the bytes; gzipped."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes(), mtime=0)


def test_fashionmnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    files = {
        "train-images-idx3-ubyte.gz": idx(grey[:2]),
        "train-labels-idx1-ubyte.gz": idx(np.array([0, 9])),
        "t10k-images-idx3-ubyte.gz": idx(grey[2:]),
        "t10k-labels-idx1-ubyte.gz": idx(np.array([9, 0])),
    }
    monkeypatch.setattr(datasets.FashionMNIST, "resources", [(name, md5(data)) for name, data in files.items()])
    for name, data in files.items():
        put(data, tmp_path, name)
    folder = named_data(Path("fashionmnist"), tmp_path)
    assert folder is not None
    assert scan_folders(folder).classes == ("Ankle boot", "T-shirt-top")  # a slash would be two folders
    for path, expected in {
        "train/T-shirt-top/00000.png": grey[0],
        "train/Ankle boot/00001.png": grey[1],
        "test/Ankle boot/00000.png": grey[2],
        "test/T-shirt-top/00001.png": grey[3],
    }.items():
        assert np.array_equal(read_image(folder / path).pixels, np.stack([expected] * 3, axis=2))


def test_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.stack([pixels(number).transpose(2, 0, 1).reshape(-1) for number in range(4)])
    parts = {
        "train": pickle.dumps({"data": rows[:2], "fine_labels": [1, 0], "coarse_labels": [0, 0]}, protocol=2),
        "test": pickle.dumps({"data": rows[2:], "fine_labels": [0, 1], "coarse_labels": [0, 0]}, protocol=2),
        "meta": pickle.dumps({"fine_label_names": ["apple", "bowl"], "coarse_label_names": ["x"]}, protocol=2),
    }
    packed = tar({f"cifar-100-python/{name}": data for name, data in parts.items()})
    for attribute in ("train", "test"):
        monkeypatch.setattr(datasets.CIFAR100, f"{attribute}_list", [[attribute, md5(parts[attribute])]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", datasets.CIFAR100.meta | {"md5": md5(parts["meta"])})
    monkeypatch.setattr(datasets.CIFAR100, "tgz_md5", md5(packed))
    put(packed, tmp_path, "cifar-100-python.tar.gz")
    folder = named_data(Path("cifar100"), tmp_path)
    assert folder is not None
    assert np.array_equal(read_image(folder / "train/bowl/00000.png").pixels, pixels(0))
    assert np.array_equal(read_image(folder / "test/bowl/00001.png").pixels, pixels(3))


def test_flowers102(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matlab = pytest.importorskip("scipy.io", reason="torchvision reads the labels of flowers102 with SciPy")
    jpegs = {f"jpg/image_{number:05}.jpg": encode_jpeg(pixels(number), 90) for number in range(1, 7)}
    packed = {"102flowers.tgz": tar(jpegs)}
    tables = {
        "imagelabels.mat": {"labels": np.array([[1, 12, 1, 12, 1, 12]])},
        "setid.mat": {"trnid": np.array([[1, 2]]), "valid": np.array([[3, 4]]), "tstid": np.array([[5, 6]])},
    }
    for name, table in tables.items():
        matlab.savemat(tmp_path / name, table)
        packed[name] = (tmp_path / name).read_bytes()
    keys = {"image": "102flowers.tgz", "label": "imagelabels.mat", "setid": "setid.mat"}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", {key: (n, md5(packed[n])) for key, n in keys.items()})
    for name, data in packed.items():
        put(data, tmp_path, name)
    folder = named_data(Path("flowers102"), tmp_path)
    assert folder is not None
    index = scan_folders(folder)
    assert index.classes == ("colt's foot", "pink primrose")
    assert [len(index.positions(split)) for split in (TRAIN, VAL, TEST)] == [2, 2, 2]
    stored = (folder / "val/colt's foot/image_00004.jpg").read_bytes()
    assert stored == jpegs["jpg/image_00004.jpg"]  # the file itself, not a second generation of it


def test_oxfordpets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["Abyssinian_1", "great_pyrenees_2", "Abyssinian_3", "great_pyrenees_4"]
    images = tar({f"images/{name}.jpg": encode_jpeg(pixels(number), 90) for number, name in enumerate(names)})
    lines = [f"{name} {1 + number % 2} {1 + number % 2} 1\n" for number, name in enumerate(names)]
    lists = {"trainval": "".join(lines[:2]), "test": "".join(lines[2:])}
    annotations = tar({f"annotations/{name}.txt": text.encode() for name, text in lists.items()})
    packed = {"images.tar.gz": images, "annotations.tar.gz": annotations}
    urls = {url.rpartition("/")[2]: url for url, _ in datasets.OxfordIIITPet._RESOURCES}
    monkeypatch.setattr(datasets.OxfordIIITPet, "_RESOURCES", [(urls[n], md5(data)) for n, data in packed.items()])
    for name, data in packed.items():
        put(data, tmp_path, name)
    folder = named_data(Path("oxfordpets"), tmp_path)
    assert folder is not None
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
    assert found == [
        "test/Abyssinian/Abyssinian_3.jpg",
        "test/Great Pyrenees/great_pyrenees_4.jpg",
        "train/Abyssinian/Abyssinian_1.jpg",
        "train/Great Pyrenees/great_pyrenees_2.jpg",
    ]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    files = {"102flowers.tgz": tar({"jpg/image_00001.jpg": b""}), "imagelabels.mat": b"labels", "setid.mat": b"ids"}
    keys = dict(zip(("image", "label", "setid"), files, strict=True))
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", {key: (n, md5(files[n])) for key, n in keys.items()})
    for name, data in files.items():
        put(data, tmp_path, name)
    with pytest.raises(ResourceError, match=r"--data flowers102: .* need SciPy .* Run pip install scipy"):
        named_data(Path("flowers102"), tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_torchvision_still_says_where_the_archives_are(name: str) -> None:
    for url, md5_sum in SOURCES[name].archives(getattr(datasets, SOURCES[name].dataset)):
        assert url.startswith("http") and url.rpartition("/")[2]
        assert len(md5_sum) == hashlib.md5(usedforsecurity=False).digest_size * 2
