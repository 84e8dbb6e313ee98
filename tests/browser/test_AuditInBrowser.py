"""The audit page as a person uses it: labels are chosen, with the mouse or the keyboard, and saved for `--fixes`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from MLPipeline.audit.Audit import Audit
from MLPipeline.audit.AuditPage import write_audit_page
from MLPipeline.audit.Judgement import Judgement, Suspects
from MLPipeline.audit.Shortcuts import Giveaway, Shortcuts
from MLPipeline.images.Fixes import Cells, Fix, apply_fixes
from MLPipeline.images.ScanFolders import ImageIndex, scan_folders
from tests.conftest import MakeImages
from tests.support.page_cases import HOSTILE

CLASSES = ("cat", "dog", "=1+1", 'a "quoted", name')


@pytest.fixture
def index(tmp_path: Path, make_images: MakeImages) -> ImageIndex:
    return scan_folders(make_images(tmp_path / "Data", dict.fromkeys(CLASSES, 3)))


def write_page(index: ImageIndex, folder: Path, decided: tuple[Cells, ...] = ()) -> Path:
    """Write the page of an audit in which the first image of each class looks like one of the next class."""
    positions = np.unique(index.labels, return_index=True)[1].tolist()
    names, suggested = (index.classes, (*index.classes[1:], index.classes[0]))
    fixes = [Fix(index.name(k), names[n], names[n], suggested[n], 0.9 - n / 10) for n, k in enumerate(positions)]
    judgement = Judgement(Suspects(np.array(positions), np.zeros(len(positions), int), np.ones(4), 0.9), None)
    typical = "red 103, green 112, blue 120, spread 9"
    giveaways = tuple(Giveaway("bytes per pixel", n, 1, 0, 0.9, typical, typical) for n in range(4))
    shortcuts = Shortcuts(0.9, (0.8, 0.95), 0.25, {"width": 0.9}, giveaways)
    write_audit_page(
        folder / "audit.html", Audit(index, {}, [], shortcuts, judgement, fixes), folder / "fixes.csv", decided
    )
    return folder / "audit.html"


def save(page, file: Path) -> Path:
    with page.expect_download() as download:
        page.click("#save-fixes")
    assert download.value.suggested_filename == "fixes.csv"
    download.value.save_as(file)
    return file


def labels_of(index: ImageIndex) -> dict[str, str]:
    return {index.name(k): index.classes[index.labels[k]] for k in range(len(index))}


def test_what_is_chosen_is_saved_as_fixes_reads_it(open_page, index: ImageIndex, tmp_path: Path) -> None:
    page = open_page(write_page(index, tmp_path))
    selects = page.locator("#suspects select")
    assert selects.count() == 4 and page.locator("#fixes-status").inner_text() == "0 of 4 corrected"
    given = [index.classes[label] for label in sorted(set(index.labels))]
    assert (
        page.eval_on_selector_all("#suspects select", "all => all.map(each => each.value.replace(/^'/, ''))") == given
    )
    for name, label in (("=1+1/000.png", "cat"), ('a "quoted", name/000.png', ""), ("cat/000.png", 'a "quoted", name')):
        select = page.get_by_label(f"Label of {name}").or_(page.get_by_label(f"Label of '{name}"))
        select.select_option(label)
    assert page.locator("#fixes-status").inner_text() == "3 of 4 corrected, not saved"
    assert page.locator("#suspects .decided").count() == 3
    fixed = apply_fixes(index, save(page, tmp_path / "saved.csv"))
    expected = labels_of(index) | {"=1+1/000.png": "cat", "cat/000.png": 'a "quoted", name'}
    del expected['a "quoted", name/000.png']
    assert labels_of(fixed) == expected
    assert page.locator("#fixes-status").inner_text() == "3 of 4 corrected"
    table = pd.read_csv(tmp_path / "saved.csv", dtype=str, keep_default_na=False)
    assert list(table) == ["path", "label", "given", "suggested", "confidence"] and len(table) == 3
    assert set(table["given"]) == {"cat", "'=1+1", 'a "quoted", name'}


def test_the_keyboard_takes_the_suggestion_with_one_key(open_page, index: ImageIndex, tmp_path: Path) -> None:
    page = open_page(write_page(index, tmp_path))
    select = page.get_by_label("Label of cat/000.png")
    page.focus("#save-fixes")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.ariaLabel") == "Label of cat/000.png":
            break
    page.keyboard.press("ArrowDown")
    assert select.input_value() == "dog"
    page.keyboard.press("ArrowUp")
    assert select.input_value() == "cat" and "0 of 4" in page.locator("#fixes-status").inner_text()


def test_earlier_corrections_are_kept(open_page, index: ImageIndex, tmp_path: Path) -> None:
    row = {"path": "dog/002.png", "label": "cat", "given": "dog", "suggested": "cat", "confidence": "0.7"}
    page = open_page(write_page(index, tmp_path, (row, row | {"path": "dog/000.png"})))
    assert page.locator("#fixes-status").inner_text() == "1 of 4 corrected, 1 earlier correction kept"
    assert page.get_by_label("Label of dog/000.png").input_value() == "cat"
    fixed = labels_of(apply_fixes(index, save(page, tmp_path / "saved.csv")))
    assert fixed == labels_of(index) | {"dog/002.png": "cat", "dog/000.png": "cat"}


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_hostile_names_stay_text_and_fit(open_page, index: ImageIndex, tmp_path: Path, width: int, scheme: str) -> None:
    names = HOSTILE[:4]
    page = open_page(write_page(replace(index, classes=names), tmp_path), width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator('[src="x"], [onmouseover]').count() == 0 and page.locator("script").count() == 1
    options = page.locator("#suspects select").first.locator("option").all_inner_texts()
    assert options == [*names, "(leave out)"]
    wide = page.evaluate(
        "[...document.querySelectorAll('#shortcuts .scroll')].some(e => e.scrollWidth > e.clientWidth)"
    )
    assert width == 375 or not wide
