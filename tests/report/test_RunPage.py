"""What the report says of a run, and how large it gets; how it is used is in tests/browser."""

from __future__ import annotations

import html
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from MLPipeline.decoding.ReadImage import cv2
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.report.RunPage import ReportContent, write_report
from MLPipeline.scoring.Unknown import UnknownRule
from tests.support.page_cases import NO_WEIGHTS, content_of, index_of, records

THREE = ("cat", "dog", "emu")


def text_of(content: ReportContent, folder: Path) -> str:
    """Return the words of a report, one space apart."""
    page = write_report(folder, content, {"total_s": 75.4, "features_s": 60.1}).read_text(encoding="utf-8")
    page = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", page).replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.fixture
def content(tmp_path: Path) -> ReportContent:
    return content_of(index_of(tmp_path / "Data", THREE, (2, 2, 9)), {0: 1})


def test_the_first_words_answer_how_good_and_how_sure(content: ReportContent, tmp_path: Path) -> None:
    text = text_of(content, tmp_path)
    assert "88.9 % of 27 test images are classified correctly" in text
    assert "95 % interval 71.9 % to 96.1 %" in text and "majority-class baseline 33.3 %" in text
    assert "Weakest class cat recall 67 %, most often confused with dog" in text
    assert "Initial weights ImageNet a package" in text and "Trained on 6 images 3 classes" in text
    assert "Total time 1 min 15 s 1 min 0 s of it for reading images and computing the frozen layers" in text
    assert "Trained from scratch" not in text and "not finished" not in text


def test_from_scratch_is_said_loudly(content: ReportContent, tmp_path: Path) -> None:
    text = text_of(replace(content, weights=NO_WEIGHTS), tmp_path)
    assert f"Trained from scratch. No pretrained weights were used: {NO_WEIGHTS.note}." in text


def test_suggestions_come_with_their_estimate_and_their_command(content: ReportContent, tmp_path: Path) -> None:
    steps = [
        {
            "what": "80 more <b>images</b>",
            "command": "python Engine.py label 'a b'",
            "gain": [0.01, 0.025],
            "basis": "c",
        },
        {"what": "compare backbones", "command": "python Engine.py choose", "gain": None, "basis": ""},
    ]
    curve = {"num_images": [10, 20, 40], "accuracy": [0.5, 0.6, 0.7], "next_images": 20, "gain": 0.05}
    metrics = {**content.metrics, "next_steps": steps, "learning_curve": curve}
    text = html.unescape(text_of(replace(content, metrics=metrics), tmp_path))
    assert "80 more <b>images</b>: +1.0 to +2.5 points (c) python Engine.py label 'a b' Copy" in text
    assert "Compare backbones python Engine.py choose Copy" in text
    assert "training images 40: out of fold 70.0 %" in text and "training images 60: estimate 75.0 %" in text
    assert "Suggestions" in text.split("Metrics")[0]


def test_an_interrupted_run_shows_what_exists(content: ReportContent, tmp_path: Path) -> None:
    stopped = replace(content, scored=(), metrics={}, history=records(2), interrupted="stopped by Ctrl-C")
    text = text_of(stopped, tmp_path)
    assert "This run was not finished: stopped by Ctrl-C. 2 epochs of 3 completed" in text
    assert "75.0 % of 6 validation images are classified correctly" in text  # of the best epoch
    assert f"python Engine.py --resume {tmp_path}" in text and "Confusion" not in text
    nothing = text_of(replace(stopped, history=[]), tmp_path)
    assert "Not evaluated" in nothing and "predict IMAGE_OR_FOLDER" not in nothing


def test_commands_can_be_pasted_whatever_the_folder_is_called(content: ReportContent, tmp_path: Path) -> None:
    folder = tmp_path / "my runs; rm"
    folder.mkdir()
    assert f"--run '{folder}'" in text_of(content, folder).replace("&#39;", "'")


def test_skipped_and_odd_files_are_listed(content: ReportContent, tmp_path: Path) -> None:
    skipped = tuple(Skipped(f"{number}.heic", "HEIC: convert to JPEG or PNG") for number in range(300))
    odd = (Skipped("a.jpg", "end marker missing"), Skipped("b.jpg", "end marker missing"))
    text = text_of(replace(content, index=replace(content.index, skipped=skipped), notes=odd), tmp_path)
    assert "300 files not used 300 x HEIC" in text and "199.heic" in text and "200.heic" not in text
    assert "All of them are listed in skipped.csv." in text and "2 files: end marker missing" in text


def test_calibration_and_withheld_answers_are_shown_where_they_exist(content: ReportContent, tmp_path: Path) -> None:
    assert "Withheld answers" not in text_of(content, tmp_path)
    rule = UnknownRule(0.98, 0.7, 0.75, 0.99, (0.9, 1.0))
    withheld = torch.arange(27) == 0
    scored = [*content.scored[:1], replace(content.scored[1], unknown=rule, is_withheld=withheld)]
    changed = {"temperature": 1.5, "ece_unscaled": 0.125, "unknown": asdict(rule)}
    metrics = {**content.metrics, "test": content.metrics["test"] | changed}
    text = text_of(replace(content, scored=scored, metrics=metrics), tmp_path)
    assert re.search("Calibration error before temperature scaling [a-z ;]+ 12.5 %", text)
    assert re.search("Temperature divides [a-z ;,1]+ 1.50", text)
    assert f"Withheld answers. At the threshold for the target precision the model {rule.to_text()}" in text
    assert text.count(" · withheld · ") == 1


@pytest.mark.parametrize("num_classes", [53, 100, 101])
def test_past_a_hundred_classes_pairs_stand_for_the_matrix(tmp_path: Path, num_classes: int) -> None:
    names = tuple(f"class {number}" for number in range(num_classes))
    index = index_of(tmp_path / "Data", names, (1, 1, 4), "same.png")
    page = write_report(tmp_path, content_of(index, {0: 1, 7: 3})).read_text(encoding="utf-8")
    assert page.count('<td class="recall">') == (num_classes if num_classes <= 100 else 0)
    assert page.count('<li><button type="button" data-show="pair"') == 2
    assert page.count("<td") < 2 * num_classes**2


@pytest.mark.slow
def test_the_report_on_a_hundred_thousand_images_can_be_sent(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(100))
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)  # nothing compresses worse
    (tmp_path / "Data").mkdir()
    (tmp_path / "Data" / "noise.png").write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    index = index_of(tmp_path / "Data", names, (1, 1, 1000), "noise.png")
    start = time.monotonic()
    page = write_report(tmp_path, content_of(index, {number: (number + 1) % 100 for number in range(0, 100, 2)}))
    assert page.stat().st_size < 15_000_000
    text = page.read_text(encoding="utf-8")
    assert re.search(r"[\d,]+\s*images of 100,000 to stay small", text.replace("\N{NO-BREAK SPACE}", " "))
    assert time.monotonic() - start < 120
