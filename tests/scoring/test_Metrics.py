"""Metrics against scikit-learn, and the cases where a metric is undefined."""

import copy
import json
import math
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import dummy, metrics
from torch import nn

from MLPipeline.Classifier import Classifier
from MLPipeline.report.RunPage import write_report
from MLPipeline.scoring.Metrics import (
    METRICS,
    Metric,
    Scored,
    baseline,
    evaluate,
    macro_auroc,
    metrics_document,
    shown_metrics,
    title_of,
)
from MLPipeline.scoring.Predictions import Predictions, predict_batches, worst_mistakes
from MLPipeline.scoring.PredictionsTable import predictions_table
from tests.docs import METRICS_PAGE, metrics_page
from tests.support.page_cases import content_of, index_of

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
def test_metrics_equal_scikit_learns(predictions: Predictions) -> None:
    num_classes = predictions.logits.shape[1]
    labels, predicted = predictions.labels.numpy(), predictions.predicted.numpy()
    ours = evaluate(predictions, names(num_classes))
    everything = list(range(num_classes))
    present = sorted({*labels.tolist()})
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
        known = np.isin(everything, present) | (key == "support")  # a class without images has no figures
        np.testing.assert_allclose(mine, np.where(known, theirs, np.nan), atol=1e-9, rtol=0)
    assert ours["classes_without_images"] == [f"class{label}" for label in everything if label not in present]
    if num_classes > 1:
        loss = metrics.log_loss(labels, predictions.probabilities.numpy(), labels=everything)
        assert ours["loss"] == pytest.approx(loss, abs=1e-9)
    assert ours["ece"] == pytest.approx(calibration_error_in_words(predictions), abs=1e-9)
    json.dumps(ours, allow_nan=False)


@given(any_predictions(), st.floats(0.05, 20))
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
    for scores, area in ((logits, 0.75), (torch.zeros(4, 2), 0.5)):
        predictions = Predictions(scores, torch.tensor([0, 0, 1, 1]))
        assert macro_auroc(Scored(predictions, names(2))) == pytest.approx(area)


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


def test_a_class_without_images_is_left_out_of_every_mean() -> None:
    """Its 3 wrong answers cost the class they were given to nothing: that has no images to be right about."""
    result = evaluate(predictions_of([0, 0, 2, 1, 1, 2], [0, 0, 0, 1, 1, 1], 3), ["cat", "dog", "emu"])
    assert result["classes_without_images"] == ["emu"]
    assert result["balanced_accuracy"] == pytest.approx(2 / 3) and result["macro_f1"] == pytest.approx(0.8)
    assert result["per_class"]["emu"]["precision"] is None and result["per_class"]["emu"]["f1"] is None
    assert title_of("macro_f1", result) == "Macro F1 over 2 of 3 classes" and title_of("loss", result) == "Loss"
    whole = evaluate(predictions_of([0, 1], [0, 1], 2), ["cat", "dog"])
    assert title_of("macro_f1", whole) == "Macro F1" and whole["classes_without_images"] == []


@given(st.lists(st.integers(0, 4), min_size=1), st.lists(st.integers(0, 4), min_size=1))
def test_baseline_accuracy_equals_the_dummy_classifiers(train: list[int], test: list[int]) -> None:
    """Fitted on the images of the classes that the test split has; it predicts the largest of them."""
    shared = [label for label in train if label in test]
    found = baseline(torch.tensor(train), torch.tensor(test))
    if not shared:
        assert found is None
        return
    assert found is not None and found[0] > 0
    always_largest = dummy.DummyClassifier(strategy="most_frequent").fit(np.zeros((len(shared), 1)), shared)
    assert found[0] == pytest.approx(always_largest.score(np.zeros((len(test), 1)), test))
    assert found[1] == always_largest.predict([[0]])[0]


def test_the_baseline_is_of_the_largest_class_that_the_split_has() -> None:
    """Class 0 is the largest and has no test images: always predicting it would score 0 %."""
    assert baseline(torch.tensor([0] * 9 + [1] * 5 + [2] * 3), torch.tensor([1, 2, 2, 2])) == (0.25, 1)


def test_baseline_accuracy_of_nothing_is_none() -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    assert baseline(torch.tensor([0]), nothing) is None
    assert baseline(nothing, torch.tensor([0])) is None


def test_every_metric_has_an_entry_and_a_row_in_the_documentation() -> None:
    result = evaluate(predictions_of([0, 1], [0, 1], 2), ["a", "b"])
    document = metrics_document()
    for name, metric in METRICS.items():
        assert name in result and (f"{name}_ci95" in result) == bool(metric.interval)
        assert f"`{name}`" in document and metric.title in document


def test_the_documentation_of_the_metrics_is_up_to_date() -> None:
    assert METRICS_PAGE.read_text(encoding="utf-8") == metrics_page(), "run python -m tests.docs"


def test_shown_metrics_leave_out_what_is_undefined() -> None:
    empty = evaluate(Predictions(torch.empty(0, 2), torch.empty(0, dtype=torch.int64)), ["a", "b"])
    assert [each["title"] for each in shown_metrics(empty)] == ["Temperature"]
    shown = {each["title"]: each for each in shown_metrics(evaluate(predictions_of([0, 1], [0, 0], 2), ["a", "b"]))}
    assert "Top-5 accuracy" not in shown and "AUROC" not in shown  # two classes; one class has images
    assert (shown["Accuracy"]["value"], shown["Accuracy"]["interval"]) == ("50.0 %", "9.5 to 90.5 %")
    assert shown["Balanced accuracy over 1 of 2 classes"]["value"] == "50.0 %"
    assert shown["Temperature"]["value"] == "1.00" and shown["Temperature"]["interval"] == ""


def test_one_function_and_one_row_add_a_metric_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To metrics.json, to the page and to the documentation, without another file being touched."""

    def largest_confidence(scored: Scored) -> float | None:
        return float(scored.predictions.confidence.max())

    metric = Metric("Largest confidence", "of any image", largest_confidence, interval=lambda scored: (0.25, 1.0))
    monkeypatch.setitem(METRICS, "largest_confidence", metric)
    content = content_of(index_of(tmp_path / "images", ("cat", "dog"), (3, 2, 4)))
    figures = content.metrics["test"]
    assert 0.5 < figures["largest_confidence"] < 1 and figures["largest_confidence_ci95"] == [0.25, 1.0]
    page = write_report(tmp_path, content).read_text(encoding="utf-8")
    value = f"{100 * figures['largest_confidence']:.1f} %"
    assert (
        '<th scope="row">Largest confidence<span class="small soft">of any image; higher is better</span></th>' in page
    )
    assert f"</th><td>{value}</td><td>25.0 to 100.0 %</td>" in page
    assert "| `largest_confidence`, `largest_confidence_ci95` | Largest confidence |" in metrics_document()


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
    assert list(table) == ["path", "split", "true", "predicted", "confidence", "loss", "p_cat", "p_=dog"]
    assert list(zip(*table.values(), strict=True)) == [
        ("a.jpg", "test", "cat", "cat", 0.5, 0.693147, 0.5, 0.5),
        ("\udcff.jpg", "test", "cat", "=dog", 0.75, 1.386294, 0.25, 0.75),
    ]


def test_predictions_table_of_no_images_has_its_columns() -> None:
    table = predictions_table(predict_batches(nn.Identity(), [], CPU, 2), [], "test", ["a", "b"])
    assert list(table) == ["path", "split", "true", "predicted", "confidence", "loss", "p_a", "p_b"]
    assert not any(table.values())


def test_with_many_classes_the_table_has_the_ten_most_probable() -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = Predictions(torch.randn(3, 101, generator=generator), torch.tensor([0, 1, 100]), temperature=0.5)
    names = [f"class {number}" for number in range(101)]
    table = predictions_table(predictions, ["a", "b", "c"], "test", names)
    places = [f"{kind}_{place}" for place in range(2, 11) for kind in ("class", "confidence")]
    assert list(table) == ["path", "split", "true", "predicted", "confidence", "loss", *places]
    rows = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    for row, shares in zip(rows, predictions.probabilities, strict=True):
        order = shares.argsort(descending=True).tolist()[:10]
        assert [row["predicted"], *(row[f"class_{place}"] for place in range(2, 11))] == [names[k] for k in order]
        figures = [row["confidence"], *(row[f"confidence_{place}"] for place in range(2, 11))]
        assert figures == [round(shares[k].item(), 6) for k in order]
    assert "p_class 0" in predictions_table(
        Predictions(torch.zeros(1, 100), torch.tensor([0])), ["a"], "test", names[:100]
    )
