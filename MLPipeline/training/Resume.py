"""`last.pt`: where training stands, saved every few minutes, so that `--resume` goes on as if nothing had happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError
from MLPipeline.files.TensorFile import load_file, save_file
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.training.TrainState import TrainState

FORMAT = 1
LAST_FILE = "last.pt"
SECONDS_BETWEEN_SAVES = 120  # of the running state; what was computed since is computed again, with the same result


@dataclass(frozen=True)
class Standing:
    """Where an interrupted run stood."""

    phase: int  # the number of the phase that was running
    num_epochs: int  # with which epoch that phase ends: `--time` may have shortened it
    state: Mapping[str, Any]  # of its TrainState
    head: Predictions | None  # of the best head on validation images, once more than the head is trained


def load_standing(folder: Path, identity: Mapping[str, str]) -> Standing | None:
    """Return what `last.pt` in a run's folder says; None if the run was stopped before there was one.

    Raises:
        DataError: the file is damaged, or `identity` (names of what must not change, with their hashes) has changed.
    """
    path = folder / LAST_FILE
    if not path.exists():
        return None
    try:
        stored: Any = load_file(path)
    except DataError as error:
        previous = path.with_name(path.name + ".prev")
        instead = f"Put {previous} in its place" if previous.is_file() else "Delete it; training starts again"
        raise DataError(error.what, instead) from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise DataError(f"{path}: is not where a run of this pipeline stood", f"Delete {path}; training starts again")
    changed = [name for name, value in identity.items() if stored["identity"].get(name) != value]
    if changed:
        what = f"--resume {folder}: not the same {' and '.join(changed)} as when the run was stopped"
        raise DataError(what, "Put them back, or start a new run")
    head = Predictions(*stored["head"]) if stored["head"] else None
    return Standing(stored["phase"], stored["num_epochs"], stored["state"], head)


class Saver:
    """Writes `last.pt` every few minutes; called after each training step, it costs a look at the clock."""

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, str],
        phase: int,
        num_epochs: int,
        head: Predictions | None,
        check: Callable[[], None],
    ) -> None:
        self.path = folder / LAST_FILE
        self._about = {"format": FORMAT, "identity": dict(identity), "phase": phase, "num_epochs": num_epochs}
        self._about |= {"head": [head.logits, head.labels] if head else None}
        self._check = check  # raises if the run is to stop
        self._saved = time.monotonic()

    def __call__(self, state: TrainState) -> None:
        """Save `state` if it is time; also if the run is to stop now, which it then does."""
        try:
            self._check()
        except KeyboardInterrupt:
            self.save(state)
            raise
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Write `last.pt` now."""
        if ranks.is_first:
            save_file(self.path, self._about | {"state": state.state_dict()})
        self._saved = time.monotonic()
