"""What `predict` does with answers: keep some to itself, copy, draw, stream, and warn of images unlike training's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from MLPipeline.Checkpoint import load_checkpoint, save_checkpoint
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.scoring.Unknown import FeatureCenters, UnknownRule
from tests.support.harness import Outcome, content, refuse, succeed, train

MakeImages = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    return train(root / "Data", root / "output", make_images)


@pytest.fixture(scope="module")
def images(trained: Path) -> list[Path]:
    return sorted((trained.parents[1] / "Data").glob("*/*.png"))


@pytest.fixture(scope="module")
def confidences(trained: Path, images: list[Path]) -> list[float]:
    out = succeed(["predict", *images, "--output", trained.parent, "--json"]).out
    return [json.loads(line)["confidence"] for line in out.splitlines()]


@pytest.fixture
def careful(trained: Path, confidences: list[float], tmp_path: Path) -> Path:
    """Return a run whose model answers only the surer half of its images."""
    model, card = load_checkpoint(trained / "model.pt")
    middle = float(np.median(confidences))
    everywhere = FeatureCenters(torch.ones(2, 32 * 16).half(), 3.0)
    rule = UnknownRule(0.9, middle, 0.5, 0.9, (0.7, 1.0))
    save_checkpoint(tmp_path / "careful" / "model.pt", model, replace(card, fingerprint=everywhere, unknown=rule))
    return tmp_path / "careful"


def predict(run: Path, *flags: object) -> Outcome:
    return succeed(["predict", "--run", run, "-j", "1", *map(str, flags)])


def with_fingerprint(trained: Path, tmp_path: Path, max_distance: float) -> Path:
    model, card = load_checkpoint(trained / "model.pt")
    directions = torch.nn.functional.normalize(torch.ones(2, 32 * 16), dim=1).half()
    save_checkpoint(
        tmp_path / "run" / "model.pt", model, replace(card, fingerprint=FeatureCenters(directions, max_distance))
    )
    return tmp_path / "run"


def test_answers_below_the_threshold_are_unknown_everywhere(
    careful: Path, images: list[Path], confidences: list[float], tmp_path: Path
) -> None:
    expected = [share < np.median(confidences) for share in confidences]
    assert sum(expected) == 10
    lines = [json.loads(line) for line in predict(careful, *images, "--json").out.splitlines()]
    assert [not line["answered"] for line in lines] == expected
    assert all(line["predicted"] == line["top"][0]["class"] in ("cat", "dog") for line in lines)
    assert [line["confidence"] for line in lines] == confidences
    for text, is_withheld in zip(predict(careful, *images).out.splitlines(), expected, strict=True):
        assert text.endswith("  (withheld: confidence below the threshold)") == is_withheld
    predict(careful, *images, "--csv", tmp_path / "answers.csv")
    table = pd.read_csv(tmp_path / "answers.csv", dtype=str)
    assert (table["answered"] == "false").tolist() == expected and set(table["answered"]) == {"true", "false"}
    assert table["predicted"].tolist() == [line["predicted"] for line in lines]


def test_a_class_called_unknown_is_just_a_class(
    careful: Path, images: list[Path], confidences: list[float], tmp_path: Path
) -> None:
    """Withheld answers and those of the class are told apart in text, JSON, CSV and folders."""
    model, card = load_checkpoint(careful / "model.pt")
    save_checkpoint(tmp_path / "run" / "model.pt", model, replace(card, classes=("unknown", "_unsure")))
    run, withheld = tmp_path / "run", [share < np.median(confidences) for share in confidences]
    lines = [json.loads(line) for line in predict(run, *images, "--json").out.splitlines()]
    assert [not line["answered"] for line in lines] == withheld
    assert {line["predicted"] for line in lines} == {"unknown", "_unsure"}
    predict(run, *images, "--csv", tmp_path / "answers.csv", "--sort-into", tmp_path / "sorted")
    table = pd.read_csv(tmp_path / "answers.csv", dtype=str)
    assert table["predicted"].tolist() == [line["predicted"] for line in lines]
    assert (table["answered"] == "false").tolist() == withheld
    numbers = {folder.name: len(list(folder.iterdir())) for folder in (tmp_path / "sorted").iterdir()}
    assert numbers["_unsure"] == sum(withheld) == 10
    answered = [line["predicted"] for line in lines if line["answered"]]
    assert numbers.get("unknown", 0) == answered.count("unknown")
    assert numbers.get("_unsure-2", 0) == answered.count("_unsure")


def test_images_are_copied_by_class_and_the_unknown_apart(careful: Path, images: list[Path], tmp_path: Path) -> None:
    answers = [json.loads(line) for line in predict(careful, *images, "--json").out.splitlines()]
    predict(careful, *images, "--sort-into", tmp_path / "sorted")
    for answer in answers:
        folder = answer["predicted"] if answer["answered"] else "_unsure"
        original = Path(answer["path"])
        copies = [path.read_bytes() for path in (tmp_path / "sorted" / folder).glob(f"{original.stem}*.png")]
        assert original.read_bytes() in copies
    assert len(list((tmp_path / "sorted").rglob("*.png"))) == 20
    before = content(tmp_path / "sorted")
    predict(careful, images[0], "--sort-into", tmp_path / "sorted")
    after = content(tmp_path / "sorted")
    assert len(after) == len(before) + 1 and before.items() <= after.items()


def test_without_a_rule_what_is_more_likely_wrong_than_right_goes_apart(
    trained: Path, images: list[Path], confidences: list[float], tmp_path: Path
) -> None:
    model, card = load_checkpoint(trained / "model.pt")
    head = torch.nn.Linear(512, 3)  # of two classes one always has 50 %
    model.head[-1] = head
    head.weight.data.zero_()
    head.bias.data = torch.tensor([0.1, 0.0, 0.0])
    three = replace(card, classes=("cat", "dog", "../../emu"), fingerprint=None, unknown=None)
    save_checkpoint(tmp_path / "run" / "model.pt", model, three)
    predict(tmp_path / "run", images[0], "--sort-into", tmp_path / "sorted")
    assert [path.relative_to(tmp_path / "sorted") for path in (tmp_path / "sorted").rglob("*.png")] == [
        Path("_unsure") / images[0].name
    ]
    head.bias.data = torch.tensor([0.0, 0.0, 5.0])
    save_checkpoint(tmp_path / "run" / "model.pt", model, three)
    predict(tmp_path / "run", images[0], "--sort-into", tmp_path / "deep" / "er" / "sorted")
    assert (tmp_path / "deep" / "er" / "sorted" / "_.._emu" / images[0].name).is_file()  # row 61


def test_copies_may_not_join_images(trained: Path, images: list[Path], tmp_path: Path) -> None:
    data = trained.parents[1] / "Data"
    for folder in (data, data / "new", data / "cat"):
        refuse(["predict", images[0], "--run", trained, "--sort-into", folder], 2, "--sort-into", "lies inside")
    (tmp_path / "new").mkdir()
    refuse(
        ["predict", tmp_path / "new", images[0], "--run", trained, "--sort-into", tmp_path / "new" / "x"], 2, "inside"
    )


def test_heat_maps_are_drawn_beside_the_runs(trained: Path, images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("<html>")
    flags = [images[0], tmp_path / "bad.jpg", images[15], "--heatmap", "--output", trained.parent]
    outcome = succeed(["predict", *flags])
    folder = trained.parent / "heatmaps" / "001-cnn"
    assert outcome.notes[-1] == f"heat maps in {folder}"
    assert sorted(path.name for path in folder.iterdir()) == ["00001-000.jpg", "00002-005.jpg"]
    for path in folder.iterdir():
        picture = read_image(path).pixels
        assert picture.shape == (16, 16, 3) and picture.std() > 1
    succeed(["predict", *flags])
    assert (trained.parent / "heatmaps" / "001-cnn-2").is_dir()  # never over older ones
    plain = succeed(["predict", *flags[:3], "--output", trained.parent]).out
    assert outcome.out == plain


def test_the_table_streams_and_memory_stays(trained: Path, images: list[Path], tmp_path: Path, monkeypatch) -> None:
    """Answers are written as they come, and of 200 only those of the batches under way are kept."""
    kept: list[int] = []
    from MLPipeline.commands import PredictImages

    def watched(*args: object) -> object:
        import gc

        for number, answer in enumerate(genuine(*args)):
            if number % 8 == 0:
                kept.append(sum(type(each) is PredictImages.Answer for each in gc.get_objects()))
            yield answer

    genuine = PredictImages.ImageClassifier.stream
    monkeypatch.setattr(PredictImages.ImageClassifier, "stream", watched)
    for number in range(10):
        for image in images:
            (tmp_path / "many" / str(number)).mkdir(parents=True, exist_ok=True)
            (tmp_path / "many" / str(number) / f"{image.parent.name}-{image.name}").symlink_to(image)
    predict(trained, tmp_path / "many", "--follow-links", "--csv", tmp_path / "answers.csv")
    assert len(pd.read_csv(tmp_path / "answers.csv")) == 200
    assert max(kept) <= 96  # three batches of such small images


@pytest.mark.parametrize(("max_distance", "warns"), [(0.0, True), (2.0, False)])
def test_images_unlike_those_of_training_are_noted_in_one_line(
    trained: Path, images: list[Path], tmp_path: Path, max_distance: float, warns: bool
) -> None:
    outcome = predict(with_fingerprint(trained, tmp_path, max_distance), *images)
    notes = [note for note in outcome.notes if "look unlike" in note]
    assert notes == (
        ["20 of 20 images look unlike those the model was trained on: " + notes[0].split(": ")[1]] if warns else []
    )
    assert "unknown" not in outcome.out  # no rule, no withheld answers
    assert not [note for note in predict(tmp_path / "run", images[0]).notes if "look unlike" in note]  # one is no proof
