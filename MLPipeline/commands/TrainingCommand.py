"""The command that trains with what a search has found."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from MLPipeline.commands.Verbs import VERBS
from MLPipeline.Config import Config, flag_words


def training_command(verb: str, config: Config, settings: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """Return the command that trains on the images that `config` states for a `verb`.

    Args:
        verb: its flags that training has, too, are repeated.
        config: the settings of the verb.
        settings: what it has found, by the names of `Config`; a model, unless that is a flag of the verb.
        usual: what settings are without a flag, where that is the model's default.
    """
    shared = [name for name in VERBS["train"].settings if name in VERBS[verb].settings]
    values = {name: getattr(config, name) for name in shared} | dict(settings)
    words = ["python", "Engine.py", "--model", values.pop("model")]
    for name, value in values.items():
        if value != usual.get(name, getattr(Config, name)):
            words += flag_words(name, value)
    return shlex.join(words)
