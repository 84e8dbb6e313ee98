"""`--data cifar10` and the like: from archives in the original formats to class folders, whole or not at all."""

import hashlib
import io
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from torchvision import datasets

from MLPipeline.decoding.EncodeImage import encode_png
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.Errors import ResourceError
from MLPipeline.images import NamedData
from MLPipeline.images.NamedData import named_data
from MLPipeline.images.ScanFolders import TEST, TRAIN, scan_folders

CLASSES = ["airplane", "automobile", "cat"]
ARCHIVE = "cifar-10-python.tar.gz"


def pixels(number: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def cifar_batch(first: int, count: int) -> bytes:
    """One of CIFAR-10's pickles: rows of 3072 bytes, red plane first."""
    rows = np.stack([pixels(number).transpose(2, 0, 1).reshape(-1) for number in range(first, first + count)])
    return pickle.dumps({"data": rows, "labels": [number % 3 for number in range(first, first + count)]}, protocol=2)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return an archive like CIFAR-10's with 6 training and 3 test images, known to torchvision by its hashes."""
    monkeypatch.chdir(tmp_path)
    parts = {"data_batch_1": cifar_batch(0, 3), "data_batch_2": cifar_batch(3, 3), "test_batch": cifar_batch(6, 3)}
    meta = pickle.dumps({"label_names": CLASSES}, protocol=2)
    packed = tar({f"cifar-10-batches-py/{name}": data for name, data in (parts | {"batches.meta": meta}).items()})
    hashes = [[name, md5(data)] for name, data in parts.items()]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", hashes[:2])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", hashes[2:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": md5(meta)})
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(packed))
    monkeypatch.setattr(datasets.CIFAR10, "url", f"http://127.0.0.1:1/{ARCHIVE}")  # nobody listens there
    return packed


def put(data: bytes, output: Path, name: str = ARCHIVE) -> Path:
    archives = output / "datasets" / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    (archives / name).write_bytes(data)
    return archives / name


class Server(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of a server of `tmp_path/www`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "www").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(tmp_path / "www"))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_cifar10_is_fetched_and_becomes_class_folders(
    cifar: bytes, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "www" / ARCHIVE).write_bytes(cifar)
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{url}/{ARCHIVE}")
    folder = named_data(Path("cifar10"), tmp_path / "output")
    assert folder == tmp_path / "output" / "datasets" / "cifar10"
    index = scan_folders(folder)
    assert index.classes == tuple(CLASSES)
    assert [len(index.positions(split)) for split in (TRAIN, TEST)] == [6, 3]
    for number in range(9):  # the pixels, colours in their places, in the right class
        split, position = ("train", number) if number < 6 else ("test", number - 6)
        path = folder / split / CLASSES[number % 3] / f"{position:05}.png"
        assert np.array_equal(read_image(path).pixels, pixels(number))
    assert sorted(os.listdir(folder.parent)) == [".cifar10.lock", "archives", "cifar10"]
    assert capfd.readouterr() == ("", "")  # no progress bar in a log file

    (tmp_path / "www" / ARCHIVE).unlink()
    put(b"damaged", tmp_path / "output")
    assert named_data(Path("CIFAR10"), tmp_path / "output") == folder  # once made, nothing else is needed


def test_a_folder_of_the_users_comes_first(cifar: bytes, tmp_path: Path) -> None:
    assert named_data(Path("Data"), tmp_path) is None
    (tmp_path / "cifar10").mkdir()
    assert named_data(Path("cifar10"), tmp_path / "output") is None
    assert os.listdir(tmp_path) == ["cifar10"]


def test_offline_says_what_to_put_where(cifar: bytes, tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        named_data(Path("cifar10"), Path("output"))
    assert caught.value.exit_code == 3
    place = Path("output") / "datasets" / "archives" / ARCHIVE
    assert str(caught.value).startswith(f"http://127.0.0.1:1/{ARCHIVE}: cannot be downloaded (")
    assert f"Save it as {place}, or give --data a folder of your own" in str(caught.value)
    assert not [name for _, _, files in os.walk("output") for name in files if name != ".cifar10.lock"]

    put(cifar, Path("output"))
    assert named_data(Path("cifar10"), Path("output")) is not None


def test_a_damaged_archive_is_named(cifar: bytes, tmp_path: Path) -> None:
    archive = put(cifar[:-5], tmp_path)
    with pytest.raises(ResourceError, match=rf"{archive}: damaged.* Delete {archive} and run again"):
        named_data(Path("cifar10"), tmp_path)
    assert archive.read_bytes() == cifar[:-5]  # it may be the user's
    assert not (tmp_path / "datasets" / "cifar10").exists()


def test_an_interrupted_conversion_leaves_nothing_and_is_made_up_for(
    cifar: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cifar, tmp_path)

    def interrupt(image: np.ndarray) -> bytes:
        if np.array_equal(image, pixels(4)):
            raise KeyboardInterrupt
        return encode_png(image)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(NamedData, "encode_png", interrupt)
        named_data(Path("cifar10"), tmp_path)
    assert sorted(os.listdir(tmp_path / "datasets")) == [".cifar10.lock", "archives"]

    left_by_a_kill = tmp_path / "datasets" / ".cifar10" / "cifar10" / "train" / "cat"
    left_by_a_kill.mkdir(parents=True)
    (left_by_a_kill / "00002.png").write_bytes(b"half")
    folder = named_data(Path("cifar10"), tmp_path)
    assert folder is not None and len(scan_folders(folder)) == 9
    assert np.array_equal(read_image(folder / "train" / "cat" / "00002.png").pixels, pixels(2))
    assert not (tmp_path / "datasets" / ".cifar10").exists()


def test_a_full_disk_is_one_line(cifar: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cifar, tmp_path)

    def full(_: np.ndarray) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(NamedData, "encode_png", full)
    with pytest.raises(ResourceError, match=r"cifar10: cannot be written \(No space left.*--output"):
        named_data(Path("cifar10"), tmp_path)
    assert sorted(os.listdir(tmp_path / "datasets")) == [".cifar10.lock", "archives"]


def test_two_runs_do_not_make_it_at_once(cifar: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cifar, tmp_path)
    monkeypatch.setattr(NamedData, "LOCK_TIMEOUT_S", 0.1)
    with (
        FileLock(tmp_path / "datasets" / ".cifar10.lock"),
        pytest.raises(ResourceError, match="in use by another process"),
    ):
        named_data(Path("cifar10"), tmp_path)
