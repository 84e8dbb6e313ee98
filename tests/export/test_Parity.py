"""When two models count as equal."""

from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.Errors import GateMissedError
from MLPipeline.export.Parity import Answers, Parity, compare, require_equal


def answers(*rows: tuple[float, ...], withheld: tuple[int, ...] = ()) -> Answers:
    paths = [f"{number}.jpg" for number in range(len(rows))]
    return Answers(
        {path: np.array(row) for path, row in zip(paths, rows, strict=True)},
        {path: number in withheld for number, path in enumerate(paths)},
    )


REFERENCE = answers((0.9, 0.1), (0.2, 0.8), (0.5004, 0.4996))


def test_equal_answers_are_equal() -> None:
    assert compare(REFERENCE, REFERENCE) == Parity(3, 0, 0.0, 0, 0)
    assert Parity(3, 0, 0.0, 0, 0).is_equal


def test_the_largest_difference_decides() -> None:
    found = compare(REFERENCE, answers((0.8995, 0.1005), (0.2, 0.8), (0.5004, 0.4996)))
    assert found.max_difference == pytest.approx(0.0005) and found.is_equal
    found = compare(REFERENCE, answers((0.89, 0.11), (0.2, 0.8), (0.5004, 0.4996)))
    assert found.num_other_class == 0 and not found.is_equal


def test_a_tie_is_no_other_class() -> None:
    found = compare(REFERENCE, answers((0.9, 0.1), (0.2, 0.8), (0.4998, 0.5002)))
    assert found.num_other_class == 0 and found.is_equal
    assert compare(REFERENCE, answers((0.9, 0.1), (0.6, 0.4), (0.5004, 0.4996))).num_other_class == 1


def test_withheld_answers_are_compared() -> None:
    found = compare(REFERENCE, answers((0.9, 0.1), (0.2, 0.8), (0.5004, 0.4996), withheld=(0, 1)))
    assert found.num_other_withheld == 2 and not found.is_equal


def test_images_that_the_script_refuses_are_counted() -> None:
    found = compare(REFERENCE, answers((0.9, 0.1)))
    assert (found.num_images, found.num_refused) == (1, 2) and found.is_equal


def test_the_error_says_what_differs() -> None:
    with pytest.raises(GateMissedError, match="the onnx model differs from predict: same answer on 2 of 3 images, "):
        require_equal(Parity(3, 0, 0.6, 1, 0), "the onnx model")
    with pytest.raises(GateMissedError, match="the script could read none of the images"):
        require_equal(Parity(0, 3, 0.0, 0, 0), "the onnx model")
