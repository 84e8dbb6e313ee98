"""Metrics against scikit-learn, and the cases where a metric is undefined."""

import copy
import json
import math
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import dummy, metrics
from torch import nn

from MLPipeline.Classifier import Classifier
from MLPipeline.scoring.Metrics import baseline_accuracy, evaluate, macro_auroc
from MLPipeline.scoring.Predictions import Predictions, predict_batches, predictions_table, worst_mistakes

CPU = torch.device("cpu")


def names(num_classes: int) -> list[str]:
    return [f"class{index}" for index in range(num_classes)]


def predictions_of(predicted: list[int], labels: list[int], num_classes: int) -> Predictions:
    logits = 4 * torch.nn.functional.one_hot(torch.tensor(predicted, dtype=torch.int64), num_classes).float()
    return Predictions(logits.view(-1, num_classes), torch.tensor(labels, dtype=torch.int64))


@st.composite
def any_predictions(draw: st.DrawFn) -> Predictions:
    """Random logits and labels: one class, one image, classes without images or never predicted included."""
    num_classes, num_images = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    used = draw(st.integers(1, num_classes))
    bias = draw(st.floats(0, 8)) * torch.rand(num_classes, generator=generator)
    logits = 2 * torch.randn(num_images, num_classes, generator=generator) + bias
    return Predictions(logits, torch.randint(0, used, (num_images,), generator=generator))


@given(any_predictions())
@settings(deadline=None)
def test_metrics_equal_scikit_learns(predictions: Predictions) -> None:
    num_classes = predictions.logits.shape[1]
    labels, predicted = predictions.labels.numpy(), predictions.predicted.numpy()
    ours = evaluate(predictions, names(num_classes))
    everything = list(range(num_classes))
    present = sorted({*labels.tolist(), *predicted.tolist()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of every undefined figure
        assert ours["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-9)
        assert ours["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, predicted), abs=1e-9)
        assert ours["macro_f1"] == pytest.approx(
            metrics.f1_score(labels, predicted, average="macro", labels=present, zero_division=0), abs=1e-9
        )
        scores = metrics.precision_recall_fscore_support(labels, predicted, labels=everything, zero_division=np.nan)
        confusion = metrics.confusion_matrix(labels, predicted, labels=everything)
    assert ours["confusion_matrix"] == confusion.tolist()
    for key, theirs in zip(("precision", "recall", "f1", "support"), scores, strict=True):
        mine = [math.nan if value[key] is None else value[key] for value in ours["per_class"].values()]
        np.testing.assert_allclose(mine, theirs, atol=1e-9, rtol=0)
    if num_classes > 1:
        loss = metrics.log_loss(labels, predictions.probabilities.numpy(), labels=everything)
        assert ours["loss"] == pytest.approx(loss, abs=1e-9)
    assert ours["ece"] == pytest.approx(calibration_error_in_words(predictions), abs=1e-9)
    json.dumps(ours, allow_nan=False)


@given(any_predictions(), st.floats(0.05, 20))
@settings(deadline=None)
def test_figures_of_the_probabilities_equal_scikit_learns(predictions: Predictions, temperature: float) -> None:
    predictions = predictions.scaled(temperature)
    num_classes = predictions.logits.shape[1]
    labels, probabilities = predictions.labels.numpy(), predictions.probabilities.numpy()
    one_hot = np.eye(num_classes)[labels]
    ours = evaluate(predictions, names(num_classes))
    areas = [
        metrics.roc_auc_score(one_hot[:, label], probabilities[:, label])
        for label in range(num_classes)
        if 0 < one_hot[:, label].sum() < len(labels)
    ]
    assert ours["auroc"] == (pytest.approx(np.mean(areas), abs=1e-9) if areas else None)
    squared = num_classes * metrics.mean_squared_error(one_hot, probabilities)
    assert ours["brier"] == pytest.approx(squared, abs=1e-9)
    if num_classes == 2:  # where scikit-learn's looks at one of the two probabilities
        assert ours["brier"] == pytest.approx(
            2 * metrics.brier_score_loss(one_hot[:, 1], probabilities[:, 1]), abs=1e-9
        )
    if num_classes > 5:
        scores = predictions.logits.numpy()
        top5 = metrics.top_k_accuracy_score(labels, scores, k=5, labels=range(num_classes))
        assert ours["top5_accuracy"] == pytest.approx(top5, abs=1e-9)
    else:
        assert ours["top5_accuracy"] is None
    assert ours["temperature"] == temperature
    assert ours["ece_unscaled"] == evaluate(predictions.scaled(1.0), names(num_classes))["ece"]


def test_ties_count_half_in_the_auroc() -> None:
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert macro_auroc(Predictions(logits, torch.tensor([0, 0, 1, 1]))) == pytest.approx(0.75)
    assert macro_auroc(Predictions(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))) == pytest.approx(0.5)


def calibration_error_in_words(predictions: Predictions) -> float:
    """Guo et al., equation 3, word for word: bins ((m - 1) / 15, m / 15]."""
    confidence = predictions.logits.double().softmax(1).amax(1).tolist()
    correct = (predictions.predicted == predictions.labels).tolist()
    total = 0.0
    for upper in range(1, 16):
        members = [i for i, c in enumerate(confidence) if (upper - 1) / 15 < c <= upper / 15]
        if members:
            gap = np.mean([correct[i] for i in members]) - np.mean([confidence[i] for i in members])
            total += len(members) / len(confidence) * abs(gap)
    return total


def test_a_worked_example() -> None:
    result = evaluate(predictions_of([0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 2], 4), ["cat", "dog", "emu", "fox"])
    assert result["n"] == 6
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert result["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)  # fox has no images
    assert result["macro_f1"] == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert result["confusion_matrix"] == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert (result["weakest_class"], result["weakest_class_taken_for"]) == ("emu", "cat")
    assert result["per_class"]["fox"] == {
        "precision": None,
        "recall": None,
        "f1": None,
        "support": 0,
        "recall_ci95": [0.0, 1.0],
    }


def test_weakest_class_is_the_larger_of_two_equally_weak_ones() -> None:
    result = evaluate(predictions_of([1, 0, 0, 2], [0, 1, 1, 2], 3), ["a", "b", "c"])
    assert (result["weakest_class"], result["weakest_class_taken_for"]) == ("b", "a")


def test_without_mistakes_the_weakest_class_is_taken_for_nothing() -> None:
    result = evaluate(predictions_of([0, 1, 1], [0, 1, 1], 2), ["a", "b"])
    assert (result["weakest_class"], result["weakest_class_taken_for"]) == ("b", None)


def test_no_images_give_none_not_nan() -> None:
    result = evaluate(predict_batches(nn.Identity(), [], CPU, num_classes=2), ["a", "b"])
    undefined = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "ece", "auroc", "brier", "top5_accuracy")
    undefined += ("balanced_accuracy_ci95", "macro_f1_ci95", "weakest_class", "weakest_class_taken_for")
    assert [result[key] for key in undefined] == [None] * len(undefined)
    assert (result["n"], result["accuracy_ci95"]) == (0, [0.0, 1.0])
    assert result["confusion_matrix"] == [[0, 0], [0, 0]]


def test_a_diverged_model_still_gives_valid_json() -> None:
    result = evaluate(Predictions(torch.full((3, 2), torch.nan), torch.tensor([0, 1, 1])), ["a", "b"])
    assert [result[key] for key in ("loss", "ece", "auroc", "brier")] == [None] * 4
    json.dumps(result, allow_nan=False)


@given(st.lists(st.integers(0, 4), min_size=1), st.lists(st.integers(0, 4), min_size=1))
def test_baseline_accuracy_equals_the_dummy_classifiers(train: list[int], test: list[int]) -> None:
    always_largest = dummy.DummyClassifier(strategy="most_frequent").fit(np.zeros((len(train), 1)), train)
    expected = always_largest.score(np.zeros((len(test), 1)), test)
    assert baseline_accuracy(torch.tensor(train), torch.tensor(test)) == pytest.approx(expected)


def test_baseline_accuracy_of_nothing_is_none() -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    assert baseline_accuracy(torch.tensor([0]), nothing) is None
    assert baseline_accuracy(nothing, torch.tensor([0])) is None


def tiny_model() -> Classifier:
    """Dropout and BatchNorm show at once whether the model ran in eval mode."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    return Classifier(nn.Sequential(OrderedDict(body=body)), nn.Linear(4, 3))


@pytest.mark.parametrize("training", [True, False])
def test_predict_batches_runs_in_eval_mode_and_restores_the_mode(training: bool) -> None:
    torch.manual_seed(0)
    model = tiny_model().train(training)
    images = torch.randint(0, 256, (5, 3, 2, 2), dtype=torch.uint8)
    targets = torch.eye(3)[[2, 0, 1, 1, 0]]
    before = copy.deepcopy(model.state_dict())
    result = predict_batches(model, [(images[:4], targets[:4]), (images[4:], targets[4:])], CPU, 3)
    assert model.training is training and model.head.training is training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert result.labels.tolist() == [2, 0, 1, 1, 0]
    assert not result.logits.is_inference() and not result.logits.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(result.logits, model.eval()(images))


def test_predict_batches_restores_the_mode_after_an_error() -> None:
    def broken() -> Any:
        yield torch.zeros(1, 4), torch.eye(3)[:1]
        raise RuntimeError("the loader died")

    head = nn.Linear(4, 3)
    with pytest.raises(RuntimeError, match="the loader died"):
        predict_batches(head, broken(), CPU, 3)
    assert head.training


def test_predict_batches_runs_a_frozen_models_head_on_features() -> None:
    head = nn.Linear(4, 3)
    features = torch.randn(2, 4)
    result = predict_batches(head, [(features, torch.eye(3)[:2])], CPU, 3)
    torch.testing.assert_close(result.logits, head(features).detach())


def test_worst_mistakes_are_the_highest_losses_among_the_wrong() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, 1.0], [0.0, 3.0]])
    predictions = Predictions(logits, torch.tensor([0, 0, 0, 0]))
    assert worst_mistakes(predictions, 16) == [1, 3, 2]
    assert worst_mistakes(predictions, 2) == [1, 3]


def test_predictions_table_names_and_figures() -> None:
    predictions = Predictions(torch.tensor([[0.0, 0.0], [0.0, math.log(3)]]), torch.tensor([0, 0]))
    table = predictions_table(predictions, ["a.jpg", "\udcff.jpg"], "test", ["cat", "=dog"])
    assert list(table.columns) == ["path", "split", "true", "predicted", "confidence", "loss", "p_cat", "p_=dog"]
    assert table.to_numpy().tolist() == [
        ["a.jpg", "test", "cat", "cat", 0.5, 0.693147, 0.5, 0.5],
        ["\udcff.jpg", "test", "cat", "=dog", 0.75, 1.386294, 0.25, 0.75],
    ]


def test_predictions_table_of_no_images_has_its_columns() -> None:
    table = predictions_table(predict_batches(nn.Identity(), [], CPU, 2), [], "test", ["a", "b"])
    assert list(table.columns) == ["path", "split", "true", "predicted", "confidence", "loss", "p_a", "p_b"]
    assert len(table) == 0
