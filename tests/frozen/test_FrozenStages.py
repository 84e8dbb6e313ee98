"""Where rows are stored: whatever changes them gives them another store."""

import importlib
import sys
from pathlib import Path

import pytest
from torch import nn

from MLPipeline.Classifier import Classifier
from MLPipeline.frozen.FrozenStages import FrozenStages

STAGE = """
from torch import nn

class Stage(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))
"""


def test_an_edited_network_does_not_find_the_rows_of_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    stores = []
    for text in (STAGE, STAGE, STAGE.replace("mean", "amax")):
        (tmp_path / "edited_stage.py").write_text(text)
        monkeypatch.delitem(sys.modules, "edited_stage", raising=False)
        importlib.invalidate_caches()
        stage = importlib.import_module("edited_stage").Stage()
        model = Classifier(nn.Sequential(stage), nn.Linear(3, 2)).eval()
        model.freeze("backbone")
        stores.append(FrozenStages(model, 32, "fp32").store(tmp_path / "cache").folder)
    assert stores[0] == stores[1] != stores[2]
