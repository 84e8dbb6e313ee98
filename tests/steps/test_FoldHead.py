"""`--folds`: what the console, metrics.json, the report and the splits say; what it cannot be combined with."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.scoring.Unknown import UnknownRule
from MLPipeline.steps.CrossValidateRun import fold_lines
from tests.support.harness import Outcome, refuse, succeed

MakeImages = Callable[..., Path]
LITE = ["--model", "efficientnet_lite0", "--image-size", "32", "-j", "1", "--precision", "fp32"]
RIDGE = [*LITE, "--head", "ridge"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "Data", {"cat": 12, "dog": 12, "owl": 3})


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def folded(data: Path, output: Path) -> Outcome:
    flags = [*RIDGE, "--data", data, "--output", output, "--folds", "4", "--ensemble"]
    return succeed([*flags, "--name", "folded"])


def content(output: Path, name: str) -> dict[str, Any]:
    (path,) = output.glob(f"*-{name}/metrics.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_all_images_are_tested(folded: Outcome, output: Path) -> None:
    found = content(output, "folded")
    figures = {"number": 4, "num_images": 27, "classes_of_fewer_folds": {"owl": 3}, "of": "head", "ensemble": None}
    assert found["folds"] == figures
    assert (found["test"]["n"], found["test"]["per_class"]["owl"]["support"]) == (27, 3)
    assert "folds    27 images tested once each, in 4 folds" in folded.out
    assert "class owl has too few images that are not copies: only 3 folds test it" in folded.out
    assert f"cross-validated accuracy {100 * found['test']['accuracy']:.1f} %" in folded.out
    assert "--folds" not in folded.out.split("improve  ")[-1]


def test_the_saved_model_knows_all_images_but_those_of_validation(folded: Outcome, output: Path) -> None:
    splits = pd.read_csv(output / "001-folded" / "splits.csv")["split"].value_counts().to_dict()
    assert splits == {"train": 27 - splits["val"], "val": splits["val"]}
    refuse(["evaluate", "--run", output / "001-folded", "--output", output], 2, "no test images of the run")


def test_the_report_says_what_the_figures_are_of(folded: Outcome, output: Path) -> None:
    page = (output / "001-folded" / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "of 27 cross-validated images" in page
    assert "each classified once by a head fitted without its fold (4 folds)" in page
    card = (output / "001-folded" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "## Figures on the cross-validated images" in card


def test_the_better_of_the_head_and_the_average_is_kept(folded: Outcome, output: Path, data: Path) -> None:
    found = content(output, "folded")["head"]["ensemble"]
    assert found["is_kept"] == (found["loss"] < found["alone"])
    assert "validation loss" in folded.out.split("epoch  train loss")[0]
    succeed([*RIDGE, "--data", data, "--output", output, "--folds", "4", "--name", "alone"])
    weights = [load_checkpoint(output / name / "model.pt")[0].head[-1].weight for name in ("001-folded", "002-alone")]
    assert torch.equal(*weights) != found["is_kept"]
    assert content(output, "alone")["test"] == content(output, "folded")["test"]


def test_a_run_with_few_test_images_recommends_folds(folded: Outcome, output: Path, data: Path) -> None:
    said = succeed([*RIDGE, "--data", data, "--output", output, "--name", "few"]).out
    number = content(output, "few")["test"]["n"]
    assert f"there are only {number} test images: test every image once, for a narrower interval" in said
    assert "--folds 5\n" in said
    page = next(output.glob("*-few/report.html")).read_text(encoding="utf-8").replace("\u00a0", " ")
    assert f"There are only {number} test images: test every image once" in page


def test_an_ensemble_needs_folds(data: Path, tmp_path: Path) -> None:
    refuse([*LITE, "--data", data, "--output", tmp_path, "--ensemble"], 2, "--ensemble: averages")


def test_many_short_classes_are_counted() -> None:
    lines = fold_lines(5, 1, {f"c{number}": 1 + number % 2 for number in range(7)})
    assert lines[0] == "folds    1 image tested once each, in 5 folds"
    assert lines[1].endswith("it is not tested, as it has nothing else") and "2 folds test it" in lines[2]
    assert lines[-1] == "         and 2 more classes"


def test_no_temperature_is_stated_of_folds_that_have_one_each(data: Path, output: Path) -> None:
    """The predictions of a fold are calibrated inside it, so the saved model's temperature is not theirs."""
    flags = [*LITE, "--head", "linear", "--epochs", "2", "--data", data, "--output", output, "--folds", "3"]
    succeed([*flags, "--name", "own-temperatures"])
    found = content(output, "own-temperatures")
    assert found["temperature"] == found["val"]["temperature"] != 1 and found["val"]["ece_unscaled"] is not None
    assert (found["test"]["temperature"], found["test"]["ece_unscaled"]) == (None, None)
    page = next(output.glob("*-own-temperatures/report.html")).read_text(encoding="utf-8")
    assert "Expected calibration error" in page and "Calibration error before temperature scaling" not in page


def test_the_rule_for_withholding_is_measured_on_the_validation_images(data: Path, output: Path) -> None:
    flags = [*RIDGE, "--data", data, "--output", output, "--folds", "4", "--target-precision", "0.9"]
    out, run = succeed([*flags, "--name", "withholding"]).out, next(output.glob("*-withholding"))
    table = pd.read_csv(run / "predictions.csv", keep_default_na=False, dtype=str)
    tested, answers = table[table["split"] == "test"], table.groupby("split")["answered"].unique()
    assert list(answers["test"]) == [""] and set(answers["val"]) <= {"true", "false"}
    shares = tested[["p_cat", "p_dog", "p_owl"]].astype(float)  # each under the name of its class
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert (shares.idxmax(axis=1) == "p_" + tested["predicted"]).all()
    rule = UnknownRule(**content(output, "withholding")["val"]["unknown"]).to_text("validation images")
    assert rule.startswith("answered ") and " of the validation images" in rule
    card, page = ((run / name).read_text(encoding="utf-8") for name in ("MODEL_CARD.md", "report.html"))
    assert rule in out and rule in card and rule in html.unescape(page)
