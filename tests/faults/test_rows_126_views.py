"""Row 126 of the fault matrix: averaging over mirror images that helps nothing."""

from __future__ import annotations

import json
from pathlib import Path

from tests.audit.test_MirroredClasses import disc_or_square
from tests.steps.test_CheckMirrors import draw
from tests.support.harness import SMALL, succeed


def test_126_mirror_images_that_help_nothing_are_not_used(tmp_path: Path) -> None:
    """Averaging over mirror images that does not help significantly is not used, nor suggested; the run says so."""
    data = draw(tmp_path / "data", disc_or_square, ("disc", "square"), 20)
    said = succeed([*SMALL, "--data", data, "--output", tmp_path / "output"]).out
    run = tmp_path / "output" / "001-cnn"
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert found["tta"]["is_better"] is False and found["tta"]["refusal"] == ""
    assert "tta      --tta is not significantly better: validation accuracy " in said
    assert not [each for each in found["next_steps"] if "mirror" in each["what"]]
    table = (run / "predictions.csv").read_text(encoding="utf-8").splitlines()
    name, confidence = next(line for line in table if ",test," in line).split(",")[0::4][:2]
    (line,) = succeed(["predict", data / name, "--json", "--output", tmp_path / "output"]).out.splitlines()
    assert abs(json.loads(line)["confidence"] - float(confidence)) < 1e-3  # as the test images were scored
