"""What the figures say, read from their objects; and that any class name can be drawn and saved."""

import itertools
import os
import warnings
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from MLPipeline.Errors import ResourceError
from MLPipeline.report.Fonts import figure_names
from MLPipeline.report.Names import drawable
from MLPipeline.report.Plots import (
    confusion_figure,
    history_figure,
    mistakes_figure,
    plot_history,
    plot_mistakes,
    plot_samples,
    samples_figure,
)
from MLPipeline.report.PlotStyle import BLUES, ORANGES, save_figure
from tests.support.figure_texts import assert_apart, parts_of

HOSTILE = [
    "$\\frac{$",
    "_under",
    "new\nline",
    "\U0001f600",
    "<img src=x>",
    "=cmd",
    "\udcff",
    "x" * 300,
    " ",
    "猫",
    "\0",
]
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 12), dtype=np.uint8)


def history(val_loss: list[float]) -> pd.DataFrame:
    epochs = np.arange(1, len(val_loss) + 1)
    losses = np.array(val_loss)
    accuracy = {"train_accuracy": 0.5 + epochs / 1000, "val_accuracy": np.where(np.isnan(losses), np.nan, 0.75)}
    return pd.DataFrame({"epoch": epochs, "train_loss": 1 / epochs, "val_loss": losses, **accuracy})


def curves(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Return the labelled lines of `axes`: label -> (x, y)."""
    lines = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    return {label: (list(line.get_xdata()), list(line.get_ydata())) for label, line in lines.items()}


def saved_image(path: Path) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def captions(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts[1:]]  # the title is the first


def test_history_draws_the_curves_and_marks_the_lowest_validation_loss() -> None:
    figure = history_figure(history([0.9, 0.4, 0.6]))
    loss, accuracy = figure.axes
    assert curves(loss) == {"training": ([1, 2, 3], [1, 1 / 2, 1 / 3]), "validation": ([1, 2, 3], [0.9, 0.4, 0.6])}
    assert curves(accuracy)["validation"] == ([1, 2, 3], [0.75] * 3)
    ring = loss.lines[-1]
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([2], [0.4])
    assert loss.get_title(loc="right") == "best epoch 2: validation 0.4000"
    assert accuracy.get_title(loc="right") == "best epoch 2: validation 75.0 %"
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Accuracy"]
    assert accuracy.get_ylim()[1] <= 1


def test_history_without_validation_draws_training_alone(tmp_path: Path) -> None:
    figure = history_figure(history([np.nan] * 4))
    assert [list(curves(axes)) for axes in figure.axes] == [["training"], ["training"]]
    assert [axes.get_title(loc="right") for axes in figure.axes] == ["", ""]
    plot_history(history([np.nan] * 4), tmp_path / "history.png")
    saved_image(tmp_path / "history.png")


def test_history_never_calls_a_diverged_epoch_the_best() -> None:
    loss = history_figure(history([np.nan, np.inf, 0.5, 0.7])).axes[0]
    assert loss.get_title(loc="right") == "best epoch 3: validation 0.5000"
    assert np.ma.getmaskarray(loss.lines[1].get_ydata(orig=True)).tolist() == [True, True, False, False]


@pytest.mark.parametrize(("num_epochs", "marker"), [(1, "o"), (30, "o"), (300, "None")])
def test_history_shows_one_epoch_and_three_hundred(tmp_path: Path, num_epochs: int, marker: str) -> None:
    table = history(list(np.linspace(2, 1, num_epochs)))
    assert history_figure(table).axes[0].lines[0].get_marker() == marker
    plot_history(table, tmp_path / "history.png")
    height, width, _ = saved_image(tmp_path / "history.png").shape
    assert (1200 < width < 1500) and (450 < height < 650)


def test_confusion_matrix_shows_counts_shares_and_recall() -> None:
    axes, *_ = confusion_figure([[3, 1, 0], [0, 500, 1], [0, 0, 0]], ["cat", "dog", "emu"]).axes
    cells, names, answers, recalls = parts_of(axes, 3)
    assert {text.get_position(): text.get_text() for text in cells} == {
        (0, 0): "3",
        (1, 0): "1",
        (1, 1): "500",
        (2, 1): "1",
    }
    pixels = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(pixels.diagonal().T, BLUES([0.75, 500 / 501, 0]))
    np.testing.assert_allclose(pixels[0], [BLUES(0.75), ORANGES(0.5), ORANGES(0.0)])  # the root of 25 %
    assert [label.get_text() for label in names] == [label.get_text() for label in answers] == ["cat", "dog", "emu"]
    assert [label.get_text() for label in recalls] == ["75 % of 4", "99.8 % of 501", "–"]


@pytest.mark.parametrize("num_classes", [1, 2, 10, 53, pytest.param(100, marks=pytest.mark.slow)])
def test_confusion_matrix_is_legible(num_classes: int) -> None:
    names = [f"seven of diamonds {index}" for index in range(num_classes)]
    figure = confusion_figure((np.eye(num_classes, dtype=int) * 12345).tolist(), names)
    assert_apart(figure)
    axes = figure.axes[0]
    cell = axes.transData.transform([(0, 0), (1, 1)])
    side = abs(cell[1] - cell[0]).min()
    cells, names, answers, recalls = parts_of(axes, num_classes)
    for labels in (names, recalls):
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) == num_classes
        assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(boxes))
        assert min(box.height for box in boxes) >= 12  # pixels
    assert len(cells) == (num_classes if num_classes <= 60 else 0)
    assert all(text.get_window_extent().width <= side for text in cells)
    boxes = [each.get_window_extent() for each in answers]
    assert all(right.x0 >= left.x1 - 1 for left, right in itertools.pairwise(boxes))


def test_confusion_matrix_of_a_thousand_classes_stays_a_picture(tmp_path: Path) -> None:
    figure = confusion_figure(np.eye(1000, dtype=int).tolist(), [str(index) for index in range(1000)])
    assert max(figure.get_size_inches()) < 30
    assert len(figure.axes[0].texts) < 3 * 160


def test_samples_are_shown_pixel_for_pixel(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 100, 200), dtype=np.uint8)  # as wide as they are drawn
    figure = samples_figure(torch.from_numpy(images), [f"class{index}" for index in range(16)])
    assert captions(figure) == [f"class{index}" for index in range(16)]
    plot_samples(images, ["class"] * 16, tmp_path / "samples.png")
    page = saved_image(tmp_path / "samples.png")
    places = []
    for image in images:
        wanted = image[::-1].transpose(1, 2, 0)  # blue first
        _, _, (x, y), _ = cv2.minMaxLoc(cv2.matchTemplate(page, wanted.copy(), cv2.TM_SQDIFF))
        assert np.array_equal(page[y : y + 100, x : x + 200], wanted)
        places.append((y, x))
    assert places == sorted(places)
    assert len({y for y, _ in places}) == len({x for _, x in places}) == 4


def test_mistakes_name_truth_answer_and_confidence() -> None:
    figure = mistakes_figure(IMAGES[:2], ["cat", "dog"], ["dog", "emu"], [0.968, 1.0], num_images=1234)
    assert captions(figure) == ["cat\n→ dog 97 %", "dog\n→ emu 100 %"]
    assert figure.axes[0].texts[0].get_text() == "The worst mistakes among 1,234 images: true → predicted, confidence"


def test_no_mistakes_are_a_page_that_says_so(tmp_path: Path) -> None:
    figure = mistakes_figure(IMAGES[:0], [], [], [], num_images=1234)
    assert [text.get_text() for text in figure.axes[0].texts] == ["No mistakes among 1,234 images"]
    plot_mistakes(IMAGES[:0], [], [], [], 1234, tmp_path / "mistakes.png")
    assert saved_image(tmp_path / "mistakes.png").shape[1] > 600


def test_every_figure_draws_hostile_names(tmp_path: Path) -> None:
    images, count = IMAGES[: len(HOSTILE)], len(HOSTILE)
    names = list(figure_names(HOSTILE).values())  # by number, where no font of this system has their characters
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(confusion_figure(np.eye(count, dtype=int).tolist(), names), tmp_path / "confusion_matrix.png")
        plot_samples(images, names, tmp_path / "samples.png")
        plot_mistakes(images, names, names[::-1], [0.5] * count, count, tmp_path / "mistakes.png")
    for name in ("confusion_matrix.png", "samples.png", "mistakes.png"):
        image = saved_image(tmp_path / name)
        assert min(image.shape[:2]) > 300 and image.std() > 10
    assert captions(samples_figure(images, HOSTILE))[:3] == ["$\\frac{$", "_under", "new line"]


@given(st.text(st.characters()), st.integers(1, 40))
def test_drawable_is_one_printable_line_of_bounded_length(name: str, max_length: int) -> None:
    text = drawable(name, max_length)
    assert (text == "" or text.isprintable()) and len(text) <= max_length


def test_drawable_keeps_both_ends_of_a_long_name() -> None:
    assert drawable("a_very_long_class_name_1", 11) == "a_ver…ame_1"
    assert drawable("short", 5) == "short"
    assert drawable("tab\tnew\nline \x00\udcff", 24) == "tab new line \ufffd\ufffd"


def test_drawing_leaves_matplotlibs_settings_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    plot_samples(IMAGES, ["cat"] * 20, tmp_path / "samples.png")
    assert dict(matplotlib.rcParams) == before


def test_a_failed_save_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.png"
    plot_history(history([0.5]), path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(ResourceError, match="No space left"):
        plot_history(history([0.1, 0.2]), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["history.png"]
