"""Rows 60 to 62 and 64 of the fault matrix: names and files that attack whoever opens them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.support.fuzz_images import seed_images
from tests.support.harness import SMALL, run, succeed
from tests.support.paths import ROOT

MakeImages = Callable[..., Path]
CLASSES = ("<img src=x onerror=alert(1)>", "<script>alert(2)<", "=cmd|'-calc'!A1", "@sum(1)", "-1+1", "+1")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    """Return the folder of a run, on images whose classes and files have hostile names."""
    root = tmp_path_factory.mktemp("hostile")
    data = make_images(root / "Data", dict.fromkeys(CLASSES, 8), size=16)
    for number, name in enumerate(('"><svg onload=alert(3)>.png', "=1+1.png", "@x.png")):
        (data / CLASSES[number] / "000.png").rename(data / CLASSES[number] / name)
    (data / CLASSES[0] / "<b>bad.jpg").write_bytes(b"")
    succeed([*SMALL, "--epochs", "1", "--data", data, "--output", root / "output"])
    return root / "output" / "001-cnn"


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[str] = []
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes += [name for name, _ in attributes]
        given = dict(attributes)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""


def test_060_html_in_names_stays_text(hostile: Path, tmp_path: Path) -> None:
    """HTML in class and file names: shown as text in the reports of `train` and `audit`, under a security policy."""
    data = hostile.parents[1] / "Data"
    succeed(["audit", "--data", data, "--output", tmp_path, "--device", "cpu", "-j", "1"])
    for page in (hostile / "report.html", tmp_path / "audit" / "audit.html"):
        tags = Tags(page.read_text())
        assert not {"onerror", "onload"} & set(tags.attributes)
        assert "default-src 'none'" in tags.policy and "unsafe" not in tags.policy
        assert "&lt;img src=x onerror=alert(1)&gt;" in page.read_text()


def test_061_class_names_of_a_model_file_are_never_paths(hostile: Path, tmp_path: Path) -> None:
    """A model file with classes like `../../x`: refused, or its classes never leave the folder to sort into."""
    stored = torch.load(hostile / "model.pt", weights_only=True)
    names = ["../../escaped", "/tmp/../escaped", "..", "a/b", "nul", "."]
    stored["classes"] = names
    for path in ("model.pt", "inside/deep/001-x/model.pt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    model = tmp_path / "inside" / "deep" / "001-x" / "model.pt"
    torch.save(stored, model)
    before, target = set(tmp_path.rglob("*")), tmp_path / "inside" / "deep" / "sorted"
    image = hostile.parents[1] / "Data" / CLASSES[3]
    outcome = run(["predict", image, "--run", model, "--sort-into", target])
    assert outcome.code in (0, 2) and "Traceback" not in outcome.err
    assert all(path.is_relative_to(target) for path in set(tmp_path.rglob("*")) - before)
    assert outcome.code or len([path for path in target.rglob("*.png")]) == 8


def test_062_formulas_in_tables_are_neutralised(hostile: Path, tmp_path: Path) -> None:
    """Names that begin with `=`, `+`, `-` or `@`: never a formula in any CSV file that is written."""
    answers, scored = tmp_path / "answers.csv", tmp_path / "scored.csv"
    succeed(["predict", hostile.parents[1] / "Data", "--run", hostile, "--csv", answers])
    succeed(["evaluate", "--run", hostile, "--csv", scored])
    for path in (*hostile.glob("*.csv"), hostile.parent / "runs.csv", answers, scored):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        numbers = table.map(lambda cell: cell.replace(".", "").replace("-", "").replace("e", "").isdigit())
        cells = [*table.columns, *table.mask(numbers, "").to_numpy().flat]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))], path
    assert set(pd.read_csv(hostile / "splits.csv")["class"].str.lstrip("'")) == set(CLASSES)


NUM_MUTATIONS, TIME_LIMIT_S = 2_500, 240

CHILD = f"""
import faulthandler, random, sys
from pathlib import Path
from MLPipeline.images.Fingerprint import UNREADABLE, make_rows
from MLPipeline.decoding.ReadImage import UnreadableImage, decode_image

faulthandler.dump_traceback_later({TIME_LIMIT_S - 20}, exit=True)
seeds = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
draw, outcomes = random.Random(0), [0, 0]
for number in range({NUM_MUTATIONS}):
    data = bytearray(seeds[number % len(seeds)])
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(min(len(data), draw.choice((64, 1000, 10**9))))  # headers matter more than pixels
        kind = draw.randrange(5)
        if kind == 0:
            data[at] = draw.randrange(256)
        elif kind == 1:
            data[at : at + 4] = draw.choice((b"\\xff" * 4, bytes(4), b"\\x7f\\xff\\xff\\xff", b"\\0\\0\\0\\1"))
        elif kind == 2:
            del data[at : at + draw.randint(1, 50)]
        elif kind == 3:
            data[at:at] = draw.randbytes(draw.randint(1, 50))
        else:
            data[at:at] = data[at // 2 : at]
    data = bytes(data or b"x")
    row = make_rows([data])[0][0]
    outcomes[int(bool(row["print"]["flags"] & UNREADABLE))] += 1
    if number % 4 == 0:
        try:
            pixels = decode_image(data).pixels
            assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == "uint8"
            assert pixels.shape[1::-1] == (row["print"]["width"], row["print"]["height"])
        except UnreadableImage:
            assert row["note"]
print(*outcomes)
"""


def test_064_damaged_images_neither_crash_nor_hang(tmp_path: Path) -> None:
    """Random mutations of valid images of every format: each is read or refused; no crash, no hang, no output."""
    for number, data in enumerate(seed_images()):
        (tmp_path / f"{number:02}").write_bytes(data)
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT_S)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == "", "a decoder wrote to the console"
    read, refused = map(int, done.stdout.split())
    assert read + refused == NUM_MUTATIONS and read > 250 and refused > 750
