"""A trained model over its labelled images: the same answers whatever was stored, and what the card learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Classifier import Classifier
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.Evaluate import Scorer, calibrate_and_score, predict_split
from MLPipeline.Features import Dataset, extract
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL, scan_folders
from MLPipeline.images.SplitImages import split_images
from MLPipeline.Predict import ImageClassifier
from MLPipeline.scoring.Calibrate import fit_temperature
from MLPipeline.scoring.Unknown import FeatureCenters
from tests.support.made_up_net import build

SIZE, CLASSES = 16, ("cat", "dog")
CARD = ModelCard("made-up", CLASSES, SIZE, {}, epoch=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("judge") / "Data", {"cat": 60, "dog": 60}, size=24)


def a_model(freeze: str = "backbone") -> Classifier:
    torch.manual_seed(3)
    model = build(2)
    model.head.weight.data *= 10
    model.freeze(freeze)
    return model


def dataset_of(root: Path, model: Classifier) -> Dataset:
    index = split_images(scan_folders(root), 0.4, 0.2, seed=0)
    return extract(model.eval(), index, SIZE, root.parent / "cache", "fp32", workers=1)


def images_of(dataset: Dataset, split: int) -> torch.Tensor:
    paths = [dataset.index.path(position) for position in dataset.index.positions(split).tolist()]
    pixels = np.stack([read_image(path, (SIZE, SIZE)).pixels for path in paths])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("freeze", ["none", "one", "backbone"])
def test_predictions_are_the_models_own_in_eval_mode(root: Path, freeze: str) -> None:
    model = a_model(freeze)
    dataset = dataset_of(root, model)
    model.train()
    modes = [module.training for module in model.head.modules()]
    scored = predict_split(model, dataset, TEST, "fp32")
    assert [module.training for module in model.head.modules()] == modes
    with torch.no_grad():
        expected = model.eval()(images_of(dataset, TEST))
    torch.testing.assert_close(scored.predictions.logits, expected, atol=0.02, rtol=1e-2)
    assert scored.positions.tolist() == dataset.index.positions(TEST).tolist()
    assert scored.predictions.labels.tolist() == dataset.index.labels[scored.positions].tolist()
    assert len(scored.distances) == 0 and scored.unknown is None


@pytest.mark.parametrize("freeze", ["none", "one", "backbone"])
def test_centers_are_the_directions_of_the_mean_features(root: Path, freeze: str) -> None:
    model = a_model(freeze)
    dataset = dataset_of(root, model)
    centers = Scorer(model, dataset, "fp32").class_centers()
    assert centers.dtype == torch.float16
    with torch.no_grad():
        features = model.eval().features(images_of(dataset, TRAIN))
    labels = torch.from_numpy(dataset.index.labels[dataset.index.positions(TRAIN)])
    means = torch.stack([features[labels == label].mean(0) for label in range(2)])
    torch.testing.assert_close(centers.float(), normalize(means, dim=1), atol=3e-3, rtol=0)


def test_large_classes_are_sampled_all_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model()
    dataset = dataset_of(root, model)
    taken: list[int] = []
    take = type(dataset.rows).take
    monkeypatch.setattr("MLPipeline.Evaluate._IMAGES_PER_CENTER", 5)
    monkeypatch.setattr(
        type(dataset.rows), "take", lambda rows, at, *rest: (taken.extend(at.tolist()), take(rows, at))[1]
    )
    Scorer(model, dataset).class_centers()
    train = dataset.index.positions(TRAIN)
    by_class = [[p for p in taken if dataset.index.labels[p] == label] for label in range(2)]
    assert [len(each) for each in by_class] == [5, 5]
    for label, chosen in enumerate(by_class):
        members = train[dataset.index.labels[train] == label].tolist()
        assert chosen == members[:: -(-len(members) // 5)]


def test_the_card_learns_temperature_fingerprint_and_rule_from_validation_images(root: Path) -> None:
    model = a_model()
    dataset = dataset_of(root, model)
    raw = predict_split(model, dataset, VAL, "fp32").predictions
    accuracy = (raw.predicted == raw.labels).double().mean().item()
    card, (val, test) = calibrate_and_score(model, dataset, CARD, "fp32", target_precision=accuracy + 0.05)
    assert (card.model, card.classes, card.epoch) == ("made-up", CLASSES, 3)
    assert card.temperature == fit_temperature(raw) != 1.0
    assert val.predictions.temperature == test.predictions.temperature == card.temperature
    assert card.fingerprint is not None and card.unknown is not None
    assert val.distances.shape == (48,) and (val.distances > card.fingerprint.max_distance).sum() == 1  # 47th of 48 + 1
    assert val.unknown == card.unknown and 0.5 < card.unknown.min_confidence < 1
    answered = ~card.unknown.is_withheld(test.predictions.confidence, card.fingerprint.is_far(test.distances))
    assert test.unknown is not None and test.unknown.coverage == pytest.approx(answered.double().mean().item())
    metrics = test.metrics(CLASSES)
    assert metrics["unknown"]["coverage"] == test.unknown.coverage and metrics["temperature"] == card.temperature
    plain, scored = calibrate_and_score(model, dataset, CARD, "fp32")
    assert plain.unknown is None and scored[1].unknown is None and scored[1].metrics(CLASSES)["unknown"] is None


def test_new_images_get_the_same_answers(root: Path) -> None:
    model = a_model()
    dataset = dataset_of(root, model)
    card, (_, test) = calibrate_and_score(model, dataset, CARD, "fp32", target_precision=0.5)
    assert card.fingerprint is not None and card.unknown is not None
    files = [dataset.index.path(position) for position in test.positions.tolist()]
    answers = list(ImageClassifier(model, card, "fp32").stream(files, 2, workers=1))
    is_far = card.fingerprint.is_far(test.distances)
    is_withheld = card.unknown.is_withheld(test.predictions.confidence, is_far)
    assert [answer.top[0][0] for answer in answers] == [CLASSES[label] for label in test.predictions.predicted.tolist()]
    assert [answer.confidence for answer in answers] == pytest.approx(test.predictions.confidence.tolist(), abs=1e-6)
    assert [answer.is_far for answer in answers] == is_far.tolist()
    assert [answer.is_withheld for answer in answers] == is_withheld.tolist()
    assert 0 < is_withheld.sum() < len(answers)


def test_without_validation_images_nothing_is_learnt_and_every_answer_given(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = a_model()
    index = split_images(scan_folders(root), 0, 0.2, seed=0)
    dataset = extract(model.eval(), index, SIZE, root.parent / "cache", "fp32", workers=1)
    card, (val, _) = calibrate_and_score(model, dataset, CARD, "fp32", target_precision=0.9)
    assert card.temperature == 1.0 and card.unknown is None and len(val.positions) == 0
    assert card.fingerprint is not None and card.fingerprint.max_distance == math.inf
    assert "--target-precision: there are no validation images" in caplog.text


def test_a_fingerprint_of_another_network_is_an_error_not_a_crash(root: Path) -> None:
    from MLPipeline.Errors import DataError

    model = a_model()
    card = ModelCard("made-up", CLASSES, SIZE, {}, fingerprint=FeatureCenters(torch.ones(2, 7).half(), 0.5))
    with pytest.raises(DataError, match="another network"):
        ImageClassifier(model, card).predict(next((root / "cat").iterdir()))
