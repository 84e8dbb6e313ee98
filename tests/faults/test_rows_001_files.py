"""Rows 1 to 21 of the fault matrix: image files that are damaged, odd, strangely named, or there twice.

Most rows share one run over folders that hold a file of every kind, whose pictures are drawn.
"""

from __future__ import annotations

import os
import resource
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import Engine
from MLPipeline.decoding.ReadImage import UnreadableImage, decode_image
from MLPipeline.images import ListImages
from MLPipeline.images.ScanFolders import ImageIndex, scan_folders
from tests.support.duplicate_cases import CHANGES, pixels_of, scene
from tests.support.harness import SMALL, Outcome, refuse, succeed
from tests.support.picture_cases import encode

MakeImages = Callable[..., Path]
Vanish = Callable[..., None]

SIDE = 16  # of the images as the network of the shared run receives them


def photo(height: int = 60, width: int = 80) -> Image.Image:
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def flipped_bit(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    return bytes(changed)


def see_through_red() -> Image.Image:
    """Return a picture whose left half is opaque blue, and whose right half is red but fully transparent."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = 0, 0, 255, 255
    pixels[:, 4:] = 255, 0, 0, 0
    return Image.fromarray(pixels)


JPEG, PNG = encode(photo(), "JPEG"), encode(photo(), "PNG")
SKIPPED = {  # name: content, a word of the reason
    "01.jpg": (b"", "empty file"),
    "02.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "04a.png": (PNG[: len(PNG) // 2], "truncated"),
    "04b.png": (flipped_bit(PNG), "bad checksum"),
    "05a.jpg": (b"<!DOCTYPE html><html></html>", "HTML"),
    "05b.jpg": (b"just words\n" * 20, "not an image"),
    "06a.heic": (b"\0\0\0\x18ftypheic", "convert to JPEG or PNG"),
    "06b.svg": (b"<svg/>", "convert to JPEG or PNG"),
    "06c.pdf": (b"%PDF-1.4", "convert to JPEG or PNG"),
    "11.png": (png_header(70000, 70000), "too large"),
    "notes.txt": (b"hello", "not an image file"),
}
FRAMES = [photo(), photo(40, 40).resize((80, 60))]
GREY_16 = np.repeat(np.linspace(10_000, 60_000, 9).astype(np.uint16)[None], 9, axis=0)
USED = {  # name: content, a word of the note (none: used without remark)
    "03.jpg": (JPEG[:-2], "end marker missing"),
    "07a.png": (encode(Image.fromarray(GREY_16), "PNG"), ""),
    "07b.tif": (encode(Image.fromarray(np.linspace(0.1, 0.9, 81).reshape(9, 9).astype(np.float32)), "TIFF"), ""),
    "08a.jpg": (encode(photo().convert("CMYK"), "JPEG"), ""),
    "08b.png": (encode(see_through_red(), "PNG"), ""),
    "08c.png": (encode(photo().convert("P"), "PNG"), ""),
    "08d.png": (encode(photo().convert("1"), "PNG"), ""),
    "08e.png": (encode(photo().convert("L"), "PNG"), ""),
    "10a.gif": (encode(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "first of 2 frames"),
    "10b.tif": (encode(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "first of 2 pages"),
    "13a.png": (encode(photo(1, 1), "PNG"), ""),
    "13b.png": (encode(photo(4000, 1), "PNG"), ""),
}
NOT_UTF8 = "dog/17\\udcff\\udcfe.png"
ODD_NAMES = {  # file name: how tables write it, apart from escapes of line ends
    b"18 a\nb.png": "dog/18 a\nb.png",
    b"18<b>.png": "dog/18<b>.png",
    b"18 $\\frac{$.png": "dog/18 $\\frac{$.png",
    b"=18.png": "dog/=18.png",
    b"_18.png": "dog/_18.png",
    "18 🐈.png".encode(): "dog/18 🐈.png",
    b"17\xff\xfe.png": NOT_UTF8,
}
UNDO = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF orientation: the transposition that makes such a file


def turned_photos(folder: Path) -> None:
    """Write the same picture eight times, stored in the eight orientations of EXIF."""
    upright = Image.fromarray(scene(77, 32, 16))
    upright.save(folder / "1.png")
    for orientation, operation in UNDO.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = upright.transpose(Image.Transpose(operation))
        (folder / f"{orientation}.png").write_bytes(encode(stored, "PNG", exif=exif))


def raw(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))


class Odd:
    """A run over good images and one of every kind of bad and odd ones."""

    def __init__(self, root: Path, make_images: MakeImages) -> None:
        self.data = data = make_images(root / "Data", {"cat": 10, "dog": 10})
        for name, (content, _) in {**SKIPPED, **USED}.items():
            (data / "cat" / name).write_bytes(content)
        for name in ODD_NAMES:
            shutil.copy(data / "dog" / "000.png", raw(data / "dog", name))
        (data / "dog" / "09").mkdir()
        turned_photos(data / "dog" / "09")
        (data / "cat" / "14a.jpg").mkdir()
        os.mkfifo(data / "cat" / "14b.jpg")
        (data / "cat" / "14c.jpg").symlink_to("/dev/zero")
        (data / "cat" / "15").symlink_to(data)
        (data / "cat" / "15.jpg").symlink_to(data / "cat" / "15.jpg")
        (root / "elsewhere.png").write_bytes(encode(scene(5, 32, 32), "PNG"))
        (data / "cat" / "16.png").symlink_to(root / "elsewhere.png")
        self.output = root / "output"
        self.outcome: Outcome = succeed([*SMALL, "--data", data, "--output", self.output], paints=True)
        self.path = self.output / "001-cnn"
        skipped = pd.read_csv(self.path / "skipped.csv")
        self.skipped = dict(zip(skipped["path"], skipped["reason"], strict=True))
        self.used = pd.read_csv(self.path / "splits.csv")["path"].tolist()

    def require_skipped(self, *names: str) -> None:
        """Check that files are listed with their reason and not used, and that the console says how many there are."""
        for name in names:
            assert SKIPPED[name][1] in self.skipped[f"cat/{name}"]
            assert f"cat/{name}" not in self.used
        (line,) = [line for line in self.outcome.out.splitlines() if line.startswith("skipped")]
        assert line.startswith(f"skipped  {len(self.skipped)} files, listed in skipped.csv: ")

    def require_used(self, *names: str) -> None:
        """Check that files are used, with the note that they should have."""
        for name in names:
            assert f"cat/{name}" in self.used and f"cat/{name}" not in self.skipped
            assert any(name in note and USED[name][1] in note for note in self.outcome.notes) or not USED[name][1]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Odd:
    return Odd(tmp_path_factory.mktemp("odd"), make_images)


def test_001_an_empty_file_is_skipped(odd: Odd) -> None:
    """An image file of zero bytes: skipped and listed in `skipped.csv` with the reason; the run goes on."""
    odd.require_skipped("01.jpg")


def test_002_a_jpeg_cut_in_half_is_skipped(odd: Odd) -> None:
    """A JPEG file cut in half: skipped as truncated."""
    odd.require_skipped("02.jpg")


def test_003_a_jpeg_without_its_end_marker_is_used(odd: Odd) -> None:
    """A JPEG file that lacks only its end marker: used, with a note; the file is not rewritten."""
    odd.require_used("03.jpg")
    assert (odd.data / "cat" / "03.jpg").read_bytes() == JPEG[:-2]


def test_004_a_damaged_png_is_skipped(odd: Odd) -> None:
    """A PNG file that is cut off, or whose checksum is wrong: skipped with the reason."""
    odd.require_skipped("04a.png", "04b.png")


def test_005_text_named_as_an_image_is_skipped(odd: Odd) -> None:
    """HTML or text with the name of an image: skipped with the reason."""
    odd.require_skipped("05a.jpg", "05b.jpg")


def test_006_other_formats_are_skipped_with_a_hint(odd: Odd) -> None:
    """HEIC, SVG and PDF files: skipped, with the hint to convert them to JPEG or PNG."""
    odd.require_skipped("06a.heic", "06b.svg", "06c.pdf")


def test_007_deep_pictures_keep_their_brightness(odd: Odd) -> None:
    """16-bit grey PNG and float TIFF files: decoded to sensible brightness, never to near black."""
    odd.require_used("07a.png", "07b.tif")
    for name in ("07a.png", "07b.tif"):
        pixels = decode_image(USED[name][0]).pixels
        assert 90 < pixels.mean() < 170 and np.ptp(pixels) > 150 and (np.diff(pixels[0, :, 0].astype(int)) >= 0).all()


def test_008_every_colour_mode_becomes_rgb(odd: Odd) -> None:
    """CMYK, RGBA, palette, 1-bit and grey files: always RGB with 8 bits; transparency is laid on white."""
    odd.require_used("08a.jpg", "08b.png", "08c.png", "08d.png", "08e.png")
    for name in ("08a.jpg", "08b.png", "08c.png", "08d.png", "08e.png"):
        pixels = decode_image(USED[name][0]).pixels
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    blended = decode_image(USED["08b.png"][0]).pixels
    assert blended[0, 0].tolist() == [0, 0, 255] and blended[0, -1].tolist() == [255, 255, 255]


def test_009_the_orientation_of_a_photo_changes_no_answer(odd: Odd, tmp_path: Path) -> None:
    """EXIF orientations 2 to 8: training, `evaluate` and `predict` receive the pixels of the upright picture."""
    (rows,) = (odd.output / "cache").glob("pixels-*/rows.bin")
    stored = np.fromfile(rows, np.uint8).reshape(-1, SIDE, SIDE, 3)  # what training reads
    upright = decode_image((odd.data / "dog" / "09" / "1.png").read_bytes(), (SIDE, SIDE)).pixels
    assert sum(np.array_equal(row, upright) for row in stored) == 8
    lines = succeed(["predict", odd.data / "dog" / "09", "--run", odd.path]).out.splitlines()
    assert len(lines) == 8 and len({line.split("  ", 1)[1] for line in lines}) == 1
    scored = tmp_path / "scored.csv"
    for name in ("cat", "dog"):
        (tmp_path / "new" / name).mkdir(parents=True)
        turned_photos(tmp_path / "new" / name)
    succeed(["evaluate", "--data", tmp_path / "new", "--run", odd.path, "--csv", scored])
    assert pd.read_csv(scored)[["p_cat", "p_dog"]].round(6).drop_duplicates().shape == (1, 2)


def test_010_only_the_first_frame_is_used(odd: Odd) -> None:
    """An animated GIF, a TIFF file of several pages: the first frame is used, with a note."""
    odd.require_used("10a.gif", "10b.tif")
    assert np.array_equal(decode_image(USED["10b.tif"][0]).pixels, np.asarray(FRAMES[0]))


def test_011_a_header_that_promises_a_huge_picture(odd: Odd) -> None:
    """A PNG header of 70000x70000 pixels: skipped as too large, before memory is reserved for the pixels."""
    odd.require_skipped("11.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImage, match="too large"):
        decode_image(SKIPPED["11.png"][0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB; the pixels would take 14 GB


def test_012_a_small_file_with_many_pixels(tmp_path: Path) -> None:
    """A PNG file under 1 MB with 8000x8000 pixels: read within bounded memory."""
    (tmp_path / "wide.png").write_bytes(encode(Image.new("L", (8000, 8000), 200), "PNG", compress_level=9))
    assert (tmp_path / "wide.png").stat().st_size < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert np.unique(decode_image((tmp_path / "wide.png").read_bytes(), (32, 32)).pixels).tolist() == [200]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 900_000  # kB


def test_013_extreme_shapes_are_used(odd: Odd) -> None:
    """Pictures of 1x1 and 1x4000 pixels: used."""
    odd.require_used("13a.png", "13b.png")


def test_014_what_is_no_regular_file_is_skipped(odd: Odd) -> None:
    """A folder, a FIFO, or a link to a device with the name of an image: skipped, and never waited for."""
    assert odd.skipped["cat/14b.jpg"] == "not a regular file"
    assert "cat/14c.jpg" in odd.skipped
    assert not [path for path in odd.used if path.startswith("cat/14")]


def test_015_the_scan_ends_where_links_form_a_circle(odd: Odd) -> None:
    """Links to themselves or to a folder above: skipped; the scan ends, and no image is counted twice."""
    assert "cat/15.jpg" in odd.skipped and any(path.startswith("cat/15") for path in odd.skipped)
    assert len(odd.used) == len(set(odd.used)) == 20 + len(USED) + len(ODD_NAMES) + 8


def test_016_a_link_that_leaves_the_data_folder(odd: Odd) -> None:
    """A link that leads out of the data folder: skipped, unless `--follow-links` is given."""
    assert odd.skipped["cat/16.png"] == "link leads out of the data folder: only with --follow-links"
    assert "cat/16.png" in {index_name for index_name in names_in(odd.data, True)}
    assert "cat/16.png" not in names_in(odd.data, False)


def names_in(root: Path, follow_links: bool) -> set[str]:
    index = scan_folders(root, follow_links)
    return {index.name(position) for position in range(len(index))}


def test_017_a_file_name_that_is_not_utf8(odd: Odd, tmp_path: Path) -> None:
    """A file name that is not UTF-8: used by `train`, `evaluate`, `predict` and `audit`; escaped in tables."""
    assert NOT_UTF8 in odd.used
    (name,) = [name for name in ODD_NAMES if name.startswith(b"17")]
    table = tmp_path / "answers.csv"
    outcome = succeed(["predict", raw(odd.data / "dog", name), "--run", odd.path, "--csv", table])
    assert outcome.out.count("\n") == 1 and "\\udcff" in outcome.out
    assert pd.read_csv(table)["path"].str.endswith("17\\udcff\\udcfe.png").tolist() == [True]
    for verb in ("evaluate", "audit"):
        argv = [verb, "--data", odd.data, "--output", tmp_path / "output", "--device", "cpu", "-j", "1"]
        succeed([*argv, *(["--run", odd.path] if verb == "evaluate" else [])])


def test_018_odd_names_leave_report_plots_and_tables_whole(odd: Odd, tmp_path: Path) -> None:
    """Names with a newline, `<`, `$`, a leading `=` or `_`, blanks, emoji: report, plots and tables stay whole."""
    assert set(ODD_NAMES.values()) <= {name.replace("\\n", "\n") for name in odd.used}
    report = (odd.path / "report.html").read_text()
    assert report.rstrip().endswith("</html>") and "18<b>" not in report
    for name in ("history", "confusion_matrix", "samples", "mistakes"):
        assert cv2.imread(str(odd.path / f"{name}.png")) is not None
    table = tmp_path / "answers.csv"
    succeed(["predict", odd.data / "dog", "--run", odd.path, "--csv", table])
    answers = pd.read_csv(table)
    assert len(answers) == 10 + len(ODD_NAMES) + 8
    assert answers["path"].str.fullmatch(r".*18 a(\n|\\n)b\.png").sum() == 1


NASTY = ["<img src=x onerror=alert(1)>", "=cmd|'-calc'!A1", "_under", "a$\\frac{$", "emoji 🐈"]


def test_018_classes_may_have_any_name(make_images: MakeImages, tmp_path: Path) -> None:
    """Classes with such names: trained, drawn, predicted and evaluated under their names."""
    data, output = tmp_path / "Data", tmp_path / "output"
    make_images(data, dict.fromkeys(NASTY, 7))
    outcome = succeed([*SMALL, "--epochs", "1", "--data", data, "--output", output], paints=True)
    path = output / "001-cnn"
    assert "5 classes" in outcome.out and set((path / "classes.txt").read_text().splitlines()) == set(NASTY)
    for name in ("splits.csv", "predictions.csv"):
        table = pd.read_csv(path / name)
        assert table["path"].str.lstrip("'").map(lambda image: (data / image).is_file()).all()
    assert set(pd.read_csv(path / "splits.csv")["class"].str.lstrip("'")) == set(NASTY)
    for name in ("history", "confusion_matrix", "samples", "mistakes"):
        assert cv2.imread(str(path / f"{name}.png")) is not None
    answer = succeed(["predict", data / "_under" / "000.png", "--output", output]).out
    assert answer.count("\n") == 1 and "%" in answer
    scored = succeed(["evaluate", "--output", output]).out
    assert all(name in scored for name in NASTY)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return fill(tmp_path / "Data", 12)


def fill(root: Path, number: int, first: int = 0) -> Path:
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for image in range(number):
            pixels = scene(first + 1000 * label + image, 32, 32)
            (root / name / f"{image:03}.jpg").write_bytes(encode(pixels, "JPEG", quality=92))
    return root


@pytest.fixture
def after_scan(monkeypatch: pytest.MonkeyPatch) -> Vanish:
    """Return `after_scan(change, names)`, which changes these files once the folders were listed."""

    def plan(change: Callable[[Path], object], *names: str) -> None:
        def scan(root: Path, *options: Any) -> ImageIndex:
            index = scan_folders(root, *options)
            for name in names:
                change(root / name)
            return index

        monkeypatch.setattr(ListImages, "scan_folders", scan)

    return plan


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("change", "reason"), [(os.unlink, "no such file or directory"), (cut, "truncated")], ids=["deleted", "cut"]
)
def test_019_a_file_deleted_or_cut_after_the_scan(
    data: Path, tmp_path: Path, after_scan: Vanish, change: Callable[[Path], object], reason: str
) -> None:
    """A file deleted or cut after the folders were listed: skipped and listed; the run goes on."""
    after_scan(change, "cat/003.jpg")
    argv = [*SMALL, "--epochs", "1", "--data", str(data), "--output", str(tmp_path / "output")]
    assert Engine.main(argv) == 0  # not by the harness, which refuses changed images
    path = tmp_path / "output" / "001-cnn"
    skipped = pd.read_csv(path / "skipped.csv")
    assert skipped["path"].tolist() == ["cat/003.jpg"] and reason in skipped["reason"][0]
    assert len(pd.read_csv(path / "splits.csv")) == 23


def test_019_more_than_one_file_in_a_hundred(
    data: Path, tmp_path: Path, after_scan: Vanish, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than 1 % of the files deleted after the scan: exit code 2 with the number."""
    after_scan(os.unlink, "cat/003.jpg", "dog/001.jpg")
    assert Engine.main([*SMALL, "--data", str(data), "--output", str(tmp_path / "output")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        f"error: {data}: 2 of 24 files have vanished since the folders were listed. Do not change the folder"
    )


def test_020_the_same_picture_in_two_classes_or_changed(data: Path, tmp_path: Path) -> None:
    """The same picture in two classes, or changed: all copies stay in one split; conflicting labels are named."""
    for number in range(6):
        picture = data / "cat" / f"{number:03}.jpg"
        (data / "cat" / f"copy{number}.jpg").write_bytes(picture.read_bytes())
        (data / "dog" / f"copy{number}.jpg").write_bytes(picture.read_bytes())
        (data / "cat" / f"changed{number}.jpg").write_bytes(CHANGES["all at once"](pixels_of(picture)))
    outcome = succeed([*SMALL, "--epochs", "1", "--data", data, "--output", tmp_path / "output"])
    assert any("cat/000.jpg" in note and "dog/copy0.jpg" in note for note in outcome.notes), outcome.notes
    splits = pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv").set_index("path")["split"]
    for number in range(6):
        names = f"cat/{number:03}.jpg", f"cat/copy{number}.jpg", f"dog/copy{number}.jpg", f"cat/changed{number}.jpg"
        assert len({splits[name] for name in names}) == 1
    assert splits.nunique() == 3


def test_020_copies_across_the_splits_of_the_user(tmp_path: Path) -> None:
    """Copies of training images in the user's own test folder: reported, and left where they are."""
    data = tmp_path / "Data"
    for place, split in enumerate(("train", "val", "test")):
        fill(data / split, 6, first=100 * place)
    for number in range(3):
        (data / "test" / "cat" / f"leak{number}.jpg").write_bytes(
            (data / "train" / "cat" / f"00{number}.jpg").read_bytes()
        )
    outcome = succeed([*SMALL, "--epochs", "1", "--data", data, "--output", tmp_path / "output"])
    assert any(note.startswith("3 images of val or test are copies of") for note in outcome.notes)
    splits = pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv")
    assert (splits["path"].str.split("/").str[0] == splits["split"]).all()


def test_020_old_images_keep_their_split_when_others_are_added(data: Path, tmp_path: Path) -> None:
    """New images beside old ones: the old ones stay in their splits."""
    command = [*SMALL, "--epochs", "1", "--data", data, "--output", tmp_path / "output"]
    sides = []
    for run in (1, 2):
        succeed(command)
        sides.append(pd.read_csv(tmp_path / "output" / f"00{run}-cnn" / "splits.csv").set_index("path")["split"])
        for number in range(9):
            (data / "cat" / f"0{number}a.jpg").write_bytes(encode(scene(500 + number, 32, 32), "JPEG"))
    assert len(sides[1]) == len(sides[0]) + 9 and (sides[1][sides[0].index] == sides[0]).all()


def test_020_images_of_one_group_stay_in_one_split(tmp_path: Path) -> None:
    """Images of one patient, by `--group`: in one split."""
    data = tmp_path / "Data"
    for label, name in enumerate(("cat", "dog")):
        (data / name).mkdir(parents=True)
        for image in range(30):
            pixels = scene(100 * label + image, 32, 32)
            (data / name / f"patient{image % 10}_{image}.jpg").write_bytes(encode(pixels, "JPEG"))
    command = [*SMALL, "--epochs", "1", "--data", data, "--output", tmp_path / "output", "--group", r"patient(\d+)"]
    succeed(command)
    splits = pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv")
    patient = splits["path"].str.extract(r"patient(\d+)")[0]
    assert splits.groupby(patient)["split"].nunique().eq(1).all() and splits["split"].nunique() == 3


def test_021_nothing_but_bad_images(tmp_path: Path) -> None:
    """Every image unreadable: exit code 2 with the number of files per reason."""
    for name in ("cat", "dog"):
        (tmp_path / "Data" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "Data" / name / f"{number}.jpg").write_bytes(b"<html>" if number else b"")
    refuse([*SMALL, "--data", tmp_path / "Data", "--output", tmp_path / "output"], 2, "2 x empty file", "6 x ")
