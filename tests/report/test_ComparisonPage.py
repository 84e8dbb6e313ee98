"""The page of two runs: figures, and the images only one of them gets right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from MLPipeline.report import ComparisonPage
from MLPipeline.report.ComparisonPage import write_comparison
from MLPipeline.report.Thumbnails import FRAME_BYTES
from MLPipeline.scoring.Comparison import Comparison, Flip
from tests.support.page_cases import index_of


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    index = index_of(tmp_path / "Data", ("cat", "dog"), (0, 0, 12))
    flips = [Flip(index.name(n), "cat", ("dog", "cat"), (0.9, 0.8)) for n in range(11)]
    flips.append(Flip(index.name(11), "cat", ("cat", "<dog>"), (0.7, 0.6)))
    return Comparison(("001-old", "002-new"), "test", 10, 1, 11, 2, tuple(flips))


def words(page: Path) -> str:
    text = re.sub(r"<(style|script)>.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).replace("\N{NO-BREAK SPACE}", " ").split())


def test_it_says_which_run_is_better_and_where(comparison: Comparison, tmp_path: Path) -> None:
    page = tmp_path / "comparison.html"
    write_comparison(page, comparison, tmp_path / "Data")
    text = words(page)
    assert "001-old and 002-new on the same 24 test images +41.7 points of accuracy" in text
    assert "002-new is better." in text and "McNemar's test p = 0.0063" in text.replace("&#39;", "'")
    assert "Both runs classify 10 images correctly; neither does for 2." in text
    lost, won = text.split("Correct only in ")[1:]
    assert lost.startswith("001-old 1 image") and "cat not &lt;dog&gt; 60 %" in lost
    assert won.startswith("002-new 11 images") and won.count("cat not dog 90 %") == 11
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 12


def test_what_has_no_room_is_counted(comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ComparisonPage, "MAX_BYTES", 2 * FRAME_BYTES)
    write_comparison(tmp_path / "comparison.html", comparison, tmp_path / "nowhere")
    text = words(tmp_path / "comparison.html")
    assert "10 images left out to keep this page small." in text and text.count("file not found") == 2
