"""`tune`: from folders of images to the command that trains with what was found, without a look at the test images."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from MLPipeline.commands import TuneHead
from MLPipeline.commands.CommandLine import parse
from MLPipeline.commands.TuneHead import training_command
from MLPipeline.Config import Config
from MLPipeline.Features import Dataset, extract
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL
from MLPipeline.tuning.Tune import Search
from tests.support.harness import Outcome, refuse, run, succeed

MakeImages = Callable[..., Path]
LITE = ["--model", "efficientnet_lite0"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    return make_images(tmp_path_factory.mktemp("tune") / "Data", {"bird": 12, "cat": 12, "dog": 12}, size=200)


@pytest.fixture(scope="module")
def flags(images: Path) -> list[str]:
    return ["--data", str(images), "--output", str(images.parent / "output"), "-j", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def given() -> list[Dataset]:
    """What the search was given."""
    return []


@pytest.fixture(scope="module")
def tuned(flags: list[str], given: list[Dataset]) -> Iterator[Outcome]:
    def watched(*arguments: Any, **named: Any) -> Dataset:
        given.append(extract(*arguments, **named))
        return given[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TuneHead, "extract", watched)
        yield succeed(["tune", *LITE, *flags, "--minutes", "0.1"], paints=True)


def heads_of(tuned: Outcome) -> dict[str, float]:
    """The validation loss of each head in closed form, by its flag, as printed."""
    return {kind: float(loss) for kind, loss in re.findall(r"^[h ]\S* +(\w+): ([\d.]+), ", tuned.out, re.MULTILINE)}


def test_heads_in_closed_form_are_compared_with_the_trials(tuned: Outcome, flags: list[str]) -> None:
    heads, trials = heads_of(tuned), found(flags)[1]
    assert heads.keys() == {"ridge", "logistic", "auto"}
    best = trials[~trials["is_pruned"]]["val_loss"].min()
    (line,) = (line for line in tuned.out.splitlines() if line.startswith("next "))
    assert ("--head" in line) == (min(heads.values()) < best) == ("better   --head " in tuned.out)


def found(flags: list[str]) -> tuple[Path, pd.DataFrame]:
    """The folder of the only search, and its trials."""
    (folder,) = (Path(flags[3]) / "tune").glob("efficientnet_lite0-*")
    return folder, pd.read_csv(folder / "trials.csv")


def test_it_says_what_is_searched_and_what_stays_unseen(tuned: Outcome, given: list[Dataset]) -> None:
    assert "24 training, 6 validation; 6 test images are not used" in tuned.out
    (dataset,) = given
    assert [len(dataset.index.positions(split)) for split in (TRAIN, VAL, TEST)] == [24, 6, 0]
    assert (dataset.rows.numbers[:, 0] >= 0).sum() == 30  # it knows where the row of no test image is


def test_ten_trials_are_shown_the_best_first(tuned: Outcome, flags: list[str]) -> None:
    folder, trials = found(flags)
    assert (folder / "tune.png").stat().st_size > 10_000
    lines = tuned.out.splitlines()
    table = lines[[place for place, line in enumerate(lines) if line.startswith(" trial")][-1] + 1 :]
    shown = [int(line.split()[0]) for line in table[: table.index("")]]
    complete = trials[~trials["is_pruned"]].sort_values("val_loss", kind="stable")
    assert shown == complete["trial"].tolist()[:10]
    assert trials["trial"].tolist() == list(range(1, len(trials) + 1))


@pytest.mark.slow
def test_the_printed_command_trains_to_the_same_validation_loss(tuned: Outcome, flags: list[str]) -> None:
    """Whatever the winner is; so that its head is changed in every way, the best trial with a hidden layer, too."""
    trials = found(flags)[1]
    (line,) = (line for line in tuned.out.splitlines() if line.startswith("next "))
    words = shlex.split(line.removeprefix("next"))
    assert words[:2] == ["python", "Engine.py"]
    best = min(trials[~trials["is_pruned"]]["val_loss"].min(), *heads_of(tuned).values())
    assert trained_loss(words[2:]) == pytest.approx(best, abs=1e-4)


@pytest.mark.slow
def test_so_does_the_command_of_a_trial_with_a_hidden_layer(tuned: Outcome, flags: list[str]) -> None:
    trials = found(flags)[1]
    row = trials[~trials["is_pruned"] & (trials["hidden"] > 0) & (trials["dropout"] > 0)].iloc[0]
    settings = {name: row[name] for name in ("lr", "optimizer", "batch_size", "weight_decay", "label_smoothing")}
    settings |= {"dropout": row["dropout"], "hidden": int(row["hidden"])}
    _, config = parse(["tune", *LITE, *flags])
    words = shlex.split(training_command(config, settings))
    assert trained_loss(words[2:]) == pytest.approx(row["val_loss"], abs=1e-6)
    newest = sorted(Path(flags[3]).glob("[0-9]*"))[-1]
    again = succeed(["evaluate", "--run", newest, "--split", "val", *flags[2:]])  # the checkpoint has the same head
    assert f"{100 * row['val_accuracy']:.1f} %" in again.out


def trained_loss(words: list[str]) -> float:
    """The lowest validation loss of a training run with these flags."""
    outcome = succeed(words)
    (run_folder,) = (line.split()[1] for line in outcome.out.splitlines() if line.startswith("run "))
    return float(pd.read_csv(Path(run_folder) / "history.csv")["val_loss"].min())


def test_the_same_command_goes_on(tuned: Outcome, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by Ctrl-C in its second trial, it still reports what was found."""
    before, calls = len(found(flags)[1]), []

    def next_trial(self: Search, *keep: Callable) -> object:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *keep)

    original = Search.next_trial
    monkeypatch.setattr(Search, "next_trial", next_trial)
    outcome = run(["tune", *LITE, *flags])
    assert outcome.code == 130, outcome.err
    assert f"resumed  {before:,} trials from earlier searches" in outcome.out
    assert f"trials   1 in this search, {before + 1:,} in total" in outcome.out
    assert "next     python Engine.py" in outcome.out
    assert len(found(flags)[1]) == before + 1


def test_the_command_repeats_what_was_stated() -> None:
    config = Config(data=Path("My Data"), model="resnet18", seed=3, verify=True, val_fraction=0.2)
    settings = {"lr": 0.00123, "optimizer": "sgd", "batch_size": 64, "weight_decay": 1e-05, "hidden": 0}
    words = shlex.split(training_command(config, settings))
    assert words[:4] == ["python", "Engine.py", "--model", "resnet18"] and "--hidden" not in words
    verb, parsed = parse(words[2:])
    assert verb == "train"
    for name in ("data", "model", "seed", "verify", "val_fraction"):
        assert getattr(parsed, name) == getattr(config, name)
    assert (parsed.lr, parsed.optimizer, parsed.batch_size, parsed.weight_decay) == (0.00123, "sgd", 64, 1e-05)
    assert (parsed.freeze, parsed.augment) == (None, None)  # the model's own


def test_a_model_that_is_fine_tuned_by_default_gets_its_backbone_frozen() -> None:
    words = shlex.split(training_command(Config(model="efficientnet_b0"), {"lr": 0.001}))
    assert words[4:] == ["--freeze", "backbone", "--lr", "0.001"]


@pytest.mark.parametrize("words", [["--model", "cnn"], ["--model", "resnet18", "--weights", "none"]])
def test_without_features_worth_storing_it_names_a_model_that_has_some(flags: list[str], words: list[str]) -> None:
    refuse(["tune", *words, *flags], 2, f"--model {words[1]}", "efficientnet_lite0")


def test_without_validation_images_there_is_nothing_to_choose_by(flags: list[str]) -> None:
    refuse(["tune", *LITE, *flags, "--val-fraction", "0"], 2, "--val-fraction")


def test_without_optuna_the_mend_is_named(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, module)
    for module in ("tuning.Study", "tuning.Tune", "report.TunePlot", "commands.TuneHead"):
        monkeypatch.delitem(sys.modules, f"MLPipeline.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    refuse(["tune", *LITE, *flags], 3, "Optuna", "pip install 'optuna>=4'")
