"""What the README promises in code: its model example works as written, and its commands are commands we have."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch

from MLPipeline.commands.CommandLine import parse
from MLPipeline.commands.Verbs import VERBS
from MLPipeline.Config import Config
from MLPipeline.Models import find_model, read_model_files
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"python Engine\.py([^`\n#]*)", README)))


def test_the_model_example_is_found_by_its_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    folder = tmp_path / "readme_models"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "Tiny_Model.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = read_model_files(folder)["tiny"]
    model = spec.build(3, int(str(spec.defaults["image_size"])))
    assert model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 3)
    assert spec.defaults.keys() <= {each.name for each in dataclasses.fields(Config)}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str) -> None:
    # A replay reads its file at once; there is no such run here.
    verb, config = parse([] if "--config" in command else shlex.split(command))
    assert verb in VERBS
    assert config.model == "tiny" or find_model(config.model)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 5
