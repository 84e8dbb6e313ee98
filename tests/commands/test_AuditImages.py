"""The verb `audit` end to end: what is planted is printed, shown and written, and the images stay as they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from MLPipeline.audit.AuditPage import curve_chart
from MLPipeline.audit.LearningCurve import learning_curve
from MLPipeline.commands import AuditImages
from MLPipeline.Config import Config
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.ScanFolders import ImageIndex
from tests.conftest import MakeImages
from tests.support.audit_cases import alone, clusters
from tests.support.harness import refuse, succeed

pytest.importorskip("cleanlab")


@pytest.fixture(autouse=True)
def features(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Features by class, as a network would give them, but for image 0, which looks like class 1; counts the calls."""
    calls: list[int] = []

    def make(_: Config, index: ImageIndex, inspection: Inspection) -> tuple[np.ndarray, np.ndarray]:
        usable = np.flatnonzero(inspection.is_readable)
        calls.append(len(usable))
        looks = index.labels[usable].copy()
        looks[0] = 1
        corners = 4 * np.eye(8)[looks]
        return usable, (corners + np.random.default_rng(0).normal(size=corners.shape)).astype(np.float16)

    monkeypatch.setattr(AuditImages, "_features", make)
    return calls


@pytest.fixture
def data(tmp_path: Path, make_images: MakeImages) -> Path:
    return make_images(tmp_path / "Data", {"cat": 40, "dog": 40, "emu": 40})


def audit(data: Path) -> list:
    return ["audit", "--data", data, "--output", data.parent / "output", "-j", "1"]


def copy(data: Path, source: str, target: str) -> None:
    (data / target).write_bytes((data / source).read_bytes())


def test_clean_images_pass_the_gate_and_a_wrong_label_is_named(data: Path, features: list[int]) -> None:
    said = succeed([*audit(data), "--strict"]).out
    assert "120 in 3 classes" in said and "120 PNG" in said and "SERIOUS" not in said
    assert "1 of 120 labels looks wrong" in said and "cat/000.png: labelled cat, more likely dog" in said
    assert "with twice as many images: accuracy 99." in said
    folder = data.parent / "output" / "audit"
    assert sorted(each.name for each in folder.iterdir()) == ["audit.csv", "audit.html", "fixes.csv", "summary.json"]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    table = pd.read_csv(folder / "audit.csv")
    giveaways = table[table["finding"] == "shortcut"]["what"].tolist()
    assert giveaways and giveaways[0].split(":")[0].endswith(" by mean colour")
    assert summary == {"data": str(data.resolve()), "images": 120, "shortcuts": giveaways, "label_suspects": 1}
    assert pd.read_csv(folder / "fixes.csv")[["path", "label", "suggested"]].values.tolist() == [
        ["cat/000.png", "cat", "dog"]
    ]
    assert features == [120]


def test_what_is_known_is_not_judged_again_until_a_label_changes(data: Path, features: list[int]) -> None:
    first, second = succeed(audit(data)).out, succeed(audit(data)).out
    assert first == second and features == [120]
    fixes = data.parent / "output" / "audit" / "fixes.csv"
    rows = pd.read_csv(fixes)
    rows["label"] = "dog"
    rows.to_csv(fixes, index=False)
    said = succeed([*audit(data), "--fixes", fixes]).out
    assert features == [120, 120] and "0 of 120 labels look wrong" in said and "1 rows of yours kept" in said
    assert pd.read_csv(fixes)["label"].tolist() == ["dog"]


def test_labels_corrected_before_an_audit_are_in_its_table_which_training_takes(
    data: Path, features: list[int]
) -> None:
    earlier, fixes = data.parent / "earlier.csv", data.parent / "output" / "audit" / "fixes.csv"
    earlier.write_text("path,label\ncat/000.png,emu\nemu/007.png,cat\nemu/008.png,\n")
    assert "cat/000.png: labelled emu, more likely dog" in succeed([*audit(data), "--fixes", earlier]).out
    rows = pd.read_csv(fixes, keep_default_na=False)
    assert rows[["path", "label", "given"]].values.tolist() == [
        ["cat/000.png", "emu", "cat"], ["emu/007.png", "cat", "emu"], ["emu/008.png", "", "emu"]
    ]  # fmt: skip
    page = (fixes.parent / "audit.html").read_text(encoding="utf-8")
    assert 'data-path="cat/000.png" data-label="emu" data-given="cat"' in page
    said = succeed([*audit(data), "--fixes", fixes]).out
    assert "119 in 3 classes" in said and "3 rows of yours kept" in said
    assert pd.read_csv(fixes, keep_default_na=False).equals(rows)


def test_strict_refuses_what_is_serious(data: Path) -> None:
    copy(data, "cat/001.png", "dog/001.png")
    (data / "emu" / "007.png").write_bytes(b"")
    said = succeed(audit(data)).out
    assert "cat/001.png = dog/001.png: cat or dog?" in said and "emu/007.png: empty file" in said
    refuse([*audit(data), "--strict"], 5, "1 x the same picture under two labels", "1 x files that cannot be read")
    table = pd.read_csv(data.parent / "output" / "audit" / "audit.csv", keep_default_na=False)
    assert table[table["serious"]][["finding", "path", "other_path"]].values.tolist() == [
        ["unreadable", "emu/007.png", ""],
        ["conflict", "cat/001.png", "dog/001.png"],
    ]
    page = (data.parent / "output" / "audit" / "audit.html").read_text(encoding="utf-8")
    assert "cat or dog?" in page and page.count('src="data:image/jpeg;base64,') == 3  # the pair and the suspect


def test_names_are_text_on_the_page(tmp_path: Path, make_images: MakeImages) -> None:
    evil = "<img src=x onerror=alert(1)>"
    data = make_images(tmp_path / "Data", {evil: 30, "dog": 30})
    copy(data, "dog/000.png", f"{evil}/001.png")
    succeed(audit(data))
    page = (tmp_path / "output" / "audit" / "audit.html").read_text(encoding="utf-8")
    assert evil not in page and "&lt;img src=x onerror=alert(1)&gt;" in page


def test_without_cleanlab_the_rest_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch, features: list[int]) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    done = succeed(audit(data))
    assert done.notes == ["label suspects need cleanlab. pip install 'cleanlab>=2.7'"]
    assert "twice as many images" in done.out and " wrong" not in done.out
    folder = data.parent / "output" / "audit"
    assert sorted(each.name for each in folder.iterdir()) == ["audit.csv", "audit.html", "summary.json"]
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["label_suspects"] is None
    monkeypatch.delitem(sys.modules, "cleanlab")  # installed now: labels are checked, no partial result is kept
    assert "1 of 120 labels looks wrong" in succeed(audit(data)).out


def test_a_shortcut_is_said(tmp_path: Path, make_images: MakeImages) -> None:
    data = make_images(make_images(tmp_path / "Data", {"cat": 60}, size=40), {"dog": 60}, size=48)
    said = succeed(audit(data)).out
    assert (
        "SHORTCUT" in said
        and "cat by width: recall 100 %, 0 % of the others confused with it (typically 40; others 48)" in said
    )


@pytest.mark.parametrize("inside", [".", "cat", "new/deep"])
def test_output_inside_the_images_is_refused(data: Path, inside: str) -> None:
    refuse(["audit", "--data", data, "--output", data / inside], 2, "--output", "lies inside the images")


def test_a_table_of_fixes_that_is_not_there_is_refused(data: Path) -> None:
    refuse([*audit(data), "--fixes", data / "none.csv"], 2, "--fixes", "none.csv")


def test_a_handful_of_images(tmp_path: Path, make_images: MakeImages) -> None:
    said = succeed(audit(make_images(tmp_path / "Data", {"cat": 1, "dog": 2, "emu": 1}))).out
    assert "cat: 1\n" in said and "0 of 4 labels look wrong" in said and "twice as many" not in said


def test_no_images_at_all(tmp_path: Path) -> None:
    refuse(["audit", "--data", tmp_path / "none", "--output", tmp_path / "output"], 2, "none")


def test_the_curve_is_drawn_within_its_frame() -> None:
    points, labels = clusters(400, noise=2)
    curve = learning_curve(points, labels, alone(labels))
    assert curve
    chart = curve_chart(curve)
    xs, ys, texts = zip(*chart.dots, strict=True)
    assert list(xs) == sorted(xs) and min(xs) > 44 and max(xs) < 390
    assert list(ys) == sorted(ys, reverse=True) and min(ys) >= 12 and max(ys) <= 196  # it gets better to the right
    assert texts[-1].startswith("640 images: ") and len(texts) == len(curve.num_images) + 1
    assert [tick["at"] for tick in chart.y_ticks] == sorted((tick["at"] for tick in chart.y_ticks), reverse=True)
    assert chart.measured.split()[-1] == chart.forecast.split()[0]
