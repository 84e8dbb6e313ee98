"""torch.compile on demand: the same training, and no harm where there is no compiler."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from MLPipeline.training.Compile import compiled
from tests.support.train_cases import CPU, figures, run, settings, train_points, val_points, with_dropout


def test_auto_leaves_the_cpu_alone() -> None:
    model = nn.Linear(2, 2)
    assert compiled(model, CPU) is model and compiled(model, CPU, "off") is model
    assert compiled(model, torch.device("cuda"), "off") is model


def test_without_a_compiler_it_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    model = nn.Linear(2, 2)
    assert compiled(model, CPU, "on") is model
    assert caplog.messages == ["--compile on: there is no C++ compiler here, so nothing is compiled"]


@pytest.mark.slow
def test_a_compiled_model_learns_the_same() -> None:
    plain, fast = with_dropout(), with_dropout()
    plain[2].p = fast[2].p = 0.0  # compiled code draws other numbers
    histories = [
        figures(run(model, train_points(), val_points(), settings(epochs=3, compile=when))[0])
        for model, when in ((plain, "off"), (fast, "on"))
    ]
    for without, compiled_row in zip(*histories, strict=True):
        assert without == pytest.approx(compiled_row, rel=1e-4)
    assert all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(plain.parameters(), fast.parameters(), strict=True))
