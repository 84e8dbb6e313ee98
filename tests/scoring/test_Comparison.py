"""`compare`: two runs on the same images, what they differ in, and the refusal of anything else."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binomtest

from MLPipeline.Errors import DataError
from MLPipeline.files.CsvFile import write_csv
from MLPipeline.files.RunFolder import Run
from MLPipeline.scoring.Comparison import compare
from MLPipeline.scoring.Intervals import paired_interval, variance_factor, wilson_interval
from tests.support.harness import SMALL, refuse, succeed, train

MakeImages = Callable[..., Path]


def a_run(root: Path, name: str, predicted: dict[str, str], split: str = "test", true: str = "cat") -> Run:
    """Return a run that has answered `predicted` for these paths, all of class `true`."""
    rows = [
        {"path": path, "split": split, "true": true, "predicted": answer, "confidence": 0.5 + place / 1000, "loss": 1.0}
        for place, (path, answer) in enumerate(predicted.items())
    ]
    path = root / name
    write_csv(pd.DataFrame(rows), path / "predictions.csv")
    return Run(path, 1, name)


def paths(*answers: str) -> dict[str, str]:
    return {f"cat/{number:03}.jpg": answer for number, answer in enumerate(answers)}


def test_what_two_runs_get_right_and_which_images_flip(tmp_path: Path) -> None:
    first = a_run(tmp_path, "first", paths("cat", "cat", "dog", "emu", "dog"))
    second = a_run(tmp_path, "second", paths("cat", "dog", "cat", "cat", "emu"))
    result = compare(first, second)
    assert (result.both, result.only_first, result.only_second, result.neither) == (1, 1, 2, 1)
    assert (result.num_images, result.num_right, result.split) == (5, (2, 3), "test")
    assert (*result.accuracies, result.difference) == pytest.approx((0.4, 0.6, 0.2))
    assert result.difference_ci95 == paired_interval(1, 1, 2, 1)
    assert result.p_value == pytest.approx(1.0)
    flips = {flip.path: (flip.predicted, flip.is_won) for flip in result.flips}
    assert flips == {
        "cat/001.jpg": (("cat", "dog"), False),
        "cat/002.jpg": (("dog", "cat"), True),
        "cat/003.jpg": (("emu", "cat"), True),
    }
    assert [flip.path[6] for flip in result.flips] == ["3", "2", "1"]  # the surest first
    assert result.flips[0].confidence == (0.503, 0.503)


@pytest.mark.parametrize(
    ("lost", "won", "verdict"),
    [
        (2, 12, "second is better"),
        (12, 2, "first is better"),
        (3, 9, "may be due to chance"),
        (0, 0, "same images correctly"),
    ],
)
def test_the_verdict_is_that_of_mcnemars_test(tmp_path: Path, lost: int, won: int, verdict: str) -> None:
    same = ["cat"] * 20
    first = a_run(tmp_path, "first", paths(*same, *["cat"] * lost, *["dog"] * won))
    second = a_run(tmp_path, "second", paths(*same, *["dog"] * lost, *["cat"] * won))
    result = compare(first, second)
    assert verdict in result.verdict
    assert result.p_value == pytest.approx(binomtest(lost, lost + won).pvalue if lost + won else 1.0)
    assert (result.p_value < 0.05) == ("better" in result.verdict)


def test_images_are_matched_by_name_and_classes_are_text(tmp_path: Path) -> None:
    first = a_run(tmp_path, "first", {"NA/1.jpg": "NA", "NA/2.jpg": "7"}, true="NA")
    second = a_run(tmp_path, "second", {"NA/2.jpg": "NA", "NA/1.jpg": "NA"}, true="NA")
    result = compare(first, second)
    assert (result.both, result.only_second) == (1, 1)
    assert result.flips[0].predicted == ("7", "NA")


def test_without_test_images_the_validation_images_are_compared(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, name, paths("cat", "dog"), split="val") for name in ("first", "second")]
    assert compare(*runs).split == "val"
    with pytest.raises(DataError, match="no test or validation images in both"):
        compare(runs[0], a_run(tmp_path, "third", paths("cat", "dog"), split="test"))


def test_cross_validated_runs_are_compared_on_all_their_images(tmp_path: Path) -> None:
    """Folds test the validation images too, and their intervals are wider."""
    runs = []
    for name, answer, number in (("first", "cat", 5), ("second", "dog", 2)):
        run = a_run(tmp_path, name, paths(*["cat"] * 34, *[answer] * 6))
        rows = pd.read_csv(run.path / "predictions.csv")
        validated = rows[:4].assign(split="val", predicted="dog")  # by the model of the run
        pd.concat([validated, rows]).to_csv(run.path / "predictions.csv", index=False)
        (run.path / "metrics.json").write_text(json.dumps({"folds": {"number": number}}), encoding="utf-8")
        runs.append(run)
    result = compare(*runs)
    assert (result.num_images, result.num_right, result.split) == (40, (40, 34), "cross-validated")
    low, high = wilson_interval(34, 40)
    scale = variance_factor(2) ** 0.5
    assert result.intervals[1] == pytest.approx((0.85 - scale * (0.85 - low), 0.85 + scale * (high - 0.85)))
    assert result.intervals[0] == pytest.approx((1 - 1.8**0.5 * (1 - wilson_interval(40, 40)[0]), 1))
    low, high = paired_interval(34, 6, 0, 0)
    assert result.difference_ci95 == pytest.approx((-0.15 - 1.8**0.5 * (-0.15 - low), -0.15 + 1.8**0.5 * (high + 0.15)))
    assert high < 0 < result.difference_ci95[1] and result.p_value < 0.05  # as of independent predictions
    assert "may be due to chance" in result.verdict and "folds" in result.evidence
    for run in runs:
        (run.path / "metrics.json").write_text('{"folds": {"number": -1e99}}', encoding="utf-8")
    assert compare(*runs).num_folds == (1, 1) and "first is better" in compare(*runs).verdict


def test_other_images_or_classes_are_refused_with_their_number(tmp_path: Path) -> None:
    first = a_run(tmp_path, "first", paths("cat", "cat", "cat"))
    with pytest.raises(
        DataError, match="fewer: was not evaluated on the images of .*first: 1 of 3 test images are in one"
    ):
        compare(first, a_run(tmp_path, "fewer", paths("cat", "cat")))
    with pytest.raises(DataError, match="0 of 3 test images are in one of them only, 3 changed class"):
        compare(first, a_run(tmp_path, "moved", paths("cat", "cat", "cat"), true="dog"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty/predictions.csv: cannot be read as a table of predictions"):
        compare(first, Run(tmp_path / "empty", 2, "empty"))
    (tmp_path / "empty" / "predictions.csv").write_bytes(b"\xff\x00,\n")
    with pytest.raises(DataError, match="cannot be read as a table of predictions"):
        compare(first, Run(tmp_path / "empty", 2, "empty"))


def test_other_files_of_the_same_names_are_refused(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, name, paths("cat", "dog", "dog")) for name in ("first", "second", "third")]
    for run, contents in zip(runs, (["a1", "b2", "c3"], ["a1", "b2", "c3"], ["a1", "b9", "c9"]), strict=True):
        table = pd.DataFrame({"path": list(paths("", "", "")), "class": "cat", "split": "test", "digest": contents})
        write_csv(table, run.path / "splits.csv")
    assert compare(runs[0], runs[1]).both == 1
    with pytest.raises(DataError, match="0 changed class, 2 are other files of the same name"):
        compare(runs[0], runs[2])
    assert compare(runs[0], a_run(tmp_path, "without a record", paths("cat", "cat", "cat"))).only_second == 2


def test_the_command_line(tmp_path: Path, make_images: MakeImages) -> None:
    data, output = tmp_path / "Data", tmp_path / "output"
    train(data, output, make_images)
    succeed([*SMALL, "--data", data, "--output", output, "--epochs", "1", "--name", "short"])
    outcome = succeed(["compare", "1", "short", "--output", output])
    lines = outcome.out.splitlines()
    assert lines[0].endswith("accuracy on 4 test images (95 % interval)")
    assert [line.split()[0] for line in lines[1:4]] == ["001-cnn", "002-short", "difference"]
    assert lines[5].startswith("verdict  ") and "McNemar's test: p = " in lines[5]
    table = [pd.read_csv(output / name / "predictions.csv") for name in ("001-cnn", "002-short")]
    right = [(each["true"] == each["predicted"])[each["split"] == "test"] for each in table]
    flipped = right[0].to_numpy() != right[1].to_numpy()
    assert sum(": " in line and line.startswith("    ") for line in lines[6:]) == flipped.sum()
    assert (
        "both classify the same images correctly"
        in succeed(["compare", "1", output / "001-cnn", "--output", output]).out
    )

    succeed([*SMALL, "--data", data, "--output", output, "--epochs", "1", "--seed", "5", "--name", "other"])
    refuse(["compare", "1", "other", "--output", output], 2, "003-other: was not evaluated on the images of", "--data")
    refuse(["compare", "1", "--output", output], 2, "1 runs given, expected two", "compare 1 2")
    refuse(["compare", "1", "9", "--output", output], 2, "9: no such run", "001-cnn")
    (output / "001-cnn" / "predictions.csv").unlink()
    refuse(["compare", "1", "2", "--output", output], 2, "predictions.csv: cannot be read")


def test_long_lists_of_flips_are_cut(tmp_path: Path) -> None:
    from MLPipeline.commands.CompareRuns import comparison_lines

    runs = [a_run(tmp_path, name, paths(*[answer] * 31)) for name, answer in (("first", "dog"), ("second", "cat"))]
    lines = comparison_lines(compare(*runs))
    assert len([line for line in lines if "second  cat, not dog: cat/" in line]) == 20
    assert lines[-1].strip() == "and 11 more"


def test_runs_on_composed_and_decomposed_names_are_compared(tmp_path: Path) -> None:
    """One run may have read an archive of a system that decomposes accents, the other a copy from elsewhere."""
    runs = []
    for number, form in enumerate(("NFC", "NFD")):
        cafe = unicodedata.normalize(form, "Caf\u00e9")
        rows = [[f"{cafe}/1.jpg", "test", cafe, (cafe, "t")[number], 0.9], ["t/1.jpg", "test", "t", "t", 0.9]]
        folder = tmp_path / f"00{number}-{form}"
        folder.mkdir()
        columns = ["path", "split", "true", "predicted", "confidence"]
        pd.DataFrame(rows, columns=columns).to_csv(folder / "predictions.csv", index=False)
        runs.append(Run(folder, number, form))
    comparison = compare(*runs)
    assert (comparison.both, comparison.only_first, comparison.only_second, comparison.neither) == (1, 1, 0, 0)
    assert comparison.flips[0].true == "Caf\u00e9"
