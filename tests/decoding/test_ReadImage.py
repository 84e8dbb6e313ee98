"""Files, threads and processes of the reader; and every real photograph."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from MLPipeline.decoding.ReadImage import UnreadableImage, decode_image, read_bytes, read_image
from tests.support.paths import CLOTHING, ROOT
from tests.support.picture_cases import distance, encode, photo, scene


def test_the_reason_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImage("empty file")))
    assert error.reason == "empty file" and error.exit_code == 2 and "empty file" in str(error)


@pytest.mark.parametrize("make", ["folder", "fifo", "device", "missing", "loop"])
def test_what_is_no_regular_file_is_refused_without_blocking(tmp_path, make):
    path = tmp_path / "x.jpg"
    if make == "folder":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    elif make == "device":
        path.symlink_to("/dev/zero")
    elif make == "loop":
        path.symlink_to(path)
    done: list[str] = []

    def read() -> None:
        with pytest.raises(UnreadableImage) as caught:
            read_bytes(path)
        done.append(caught.value.reason)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(timeout=10)
    expected = {"missing": "no such file or directory", "loop": "too many levels of symbolic links"}
    assert done == [expected.get(make, "not a regular file")]


def test_a_sparse_file_of_a_terabyte_is_refused(tmp_path):
    path = tmp_path / "x.jpg"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UnreadableImage, match="too large: 1048576 MB"):
        read_image(path)


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", "größe ✓ 🂡.jpg".encode(), b"a\nb.jpg", b"=cmd $x.jpg"])
def test_any_file_name_works(tmp_path, name):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.write_bytes(encode(scene(), "PNG"))
    assert np.array_equal(read_image(path).pixels, scene())


def test_several_threads_read_the_same_as_one():
    files = [photo(), encode(scene(), "PNG"), photo(progressive=True), encode(scene(), "WEBP"), photo()[:-2]] * 20
    alone = [decode_image(data, (64, 64)).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode_image(data, (64, 64)).pixels, files))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def child(code: str, environment: dict[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def test_a_pixel_limit_that_is_no_number_does_not_abort_the_process():
    code = "import MLPipeline.decoding.ReadImage, os; print(os.environ['OPENCV_IO_MAX_IMAGE_PIXELS'])"
    result = child(code, {"OPENCV_IO_MAX_IMAGE_PIXELS": "lots"}, 60)
    assert (result.returncode, result.stdout.strip()) == (0, "250000000")


@pytest.mark.slow
def test_a_small_png_of_64_megapixels_is_read_in_bounded_memory(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGBA", (8000, 8000), (10, 200, 30, 128)).save(path, compress_level=9)
    assert path.stat().st_size < 1_000_000
    code = (
        "import resource, sys; from pathlib import Path; from MLPipeline.decoding.ReadImage import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"pixels = read_image(Path({str(path)!r}), (200, 200)).pixels\n"
        "print(pixels[0, 0], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    result = child(code, {}, 120)
    colour, megabytes = result.stdout.rsplit(maxsplit=1)
    assert colour == "[132 227 142]" and int(megabytes) < 1000, result.stdout + result.stderr


@pytest.mark.slow
def test_every_real_photo_is_read():
    if not CLOTHING.is_dir():
        pytest.skip("the clothing photos are not on this machine")
    paths = sorted(CLOTHING.rglob("*.jpg"))
    with ThreadPoolExecutor(2) as pool:
        pictures = list(pool.map(lambda path: read_image(path, (64, 64)), paths))
    assert len(pictures) == 3781 and not any(picture.note for picture in pictures)
    sample = random.Random(0).sample(range(len(paths)), 50)
    for index in sample:
        oracle = ImageOps.exif_transpose(Image.open(paths[index])).convert("RGB").resize((64, 64), Image.Resampling.BOX)
        assert distance(pictures[index].pixels, np.asarray(oracle)) < 8
