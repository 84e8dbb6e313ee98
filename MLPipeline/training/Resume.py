"""`last.pt`: the state of a training, saved every few minutes, from which `--resume` continues exactly."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError, is_out_of_memory
from MLPipeline.files.Json import dump_json, parse_json
from MLPipeline.files.PlainValues import are_texts, is_whole
from MLPipeline.files.TensorChecks import check_numbers
from MLPipeline.files.TensorFile import load_file, save_file
from MLPipeline.files.TensorOutline import TensorOutline
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.training.StoredState import state_fits
from MLPipeline.training.TrainState import TrainState

FORMAT = 1
LAST_FILE = "last.pt"
_MAX_PHASES, _MAX_EPOCHS = 100, 100_000
SECONDS_BETWEEN_SAVES = 120  # what was computed since the last save is computed again, with the same result


@dataclass(frozen=True)
class Standing:
    """Where an interrupted run stood."""

    phase: int  # number of the phase that was running
    num_epochs: int  # the last epoch of that phase: `--time` may have shortened it
    state: Mapping[str, Any]  # of its TrainState
    head: Predictions | None  # of the best head on the validation images, once more than the head is trained
    fitted: dict[str, Any] | None = None  # the entry `head` of metrics.json, once a head is solved


def load_standing(folder: Path, identity: Mapping[str, str]) -> Standing | None:
    """Return what `last.pt` in the folder of a run holds; None if the run was stopped before there was one.

    Raises:
        DataError: the file is damaged, or `identity` (names of what must not change, with their hashes) has changed.
    """
    path = folder / LAST_FILE
    if not path.exists():
        return None
    try:
        stored: Any = load_file(path, lambda outline: _check(path, outline))
        check_numbers(path, stored["state"]["model"], {})
    except DataError as error:
        raise DataError(error.what, _instead_of(path)) from error
    names = dict.fromkeys([*identity, *stored["identity"]])
    changed = [name for name in names if stored["identity"].get(name) != identity.get(name)]
    if changed:
        what = f"--resume {folder}: not the same {' and '.join(changed)} as when the run was stopped"
        raise DataError(what, "Put them back, or start a new run")
    head = Predictions(*stored["head"]) if stored["head"] else None
    fitted = _parsed(stored.get("fitted"))
    return Standing(stored["phase"], stored["num_epochs"], stored["state"], head, fitted)


def restore(folder: Path, standing: Standing, state: TrainState) -> None:
    """Load what `standing` has into `state`.

    Raises:
        DataError: it does not fit: the file is damaged, or belongs to another training.
    """
    path = folder / LAST_FILE
    try:
        if not state_fits(standing.state, state):
            raise ValueError
        state.load_state_dict(standing.state)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise DataError(f"{path}: damaged: its content does not fit the training", _instead_of(path)) from error


def _check(path: Path, outline: Any) -> None:
    """Make sure that the file describes the state of a training, before any tensor is read."""
    if (
        not isinstance(outline, dict)
        or outline.get("format") != FORMAT
        or not are_texts(outline.get("identity"))
        or not is_whole(outline.get("phase"), 0, _MAX_PHASES)
        or not is_whole(outline.get("num_epochs"), 1, _MAX_EPOCHS)
        or "head" not in outline
        or not _is_head(outline["head"])
        or not isinstance(outline.get("fitted"), str | None)
        or not isinstance(outline.get("state"), Mapping)
        or not _are_outlines(outline["state"].get("model"))
    ):
        raise DataError(f"{path}: is not the state of a training of this pipeline", "")


def _are_outlines(state: Any) -> bool:
    return isinstance(state, Mapping) and all(isinstance(each, TensorOutline) for each in state.values())


def _is_head(stored: Any) -> bool:
    """Return whether `stored` is None, or the logits (N, C) and labels (N,) of the best head."""
    return stored is None or (
        isinstance(stored, list)
        and len(stored) == 2
        and all(isinstance(each, TensorOutline) for each in stored)
        and len(stored[0].shape) == 2
        and stored[0].shape[:1] == stored[1].shape
    )


def _parsed(text: str | None) -> dict[str, Any] | None:
    """Return the entry `head` in `text`; None if it is none: a figure is missing then, but no training lost."""
    with suppress(ValueError):
        found = parse_json(text.encode()) if text else None
        return found if isinstance(found, dict) else None
    return None


def _instead_of(path: Path) -> str:
    """Return what to do about a damaged `path`."""
    previous = path.with_name(path.name + ".prev")
    return f"Put {previous} in its place" if previous.is_file() else f"Delete {path}; training starts over"


class Saver:
    """Writes `last.pt` every few minutes; called after each training step, where it mostly just looks at the clock."""

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, str],
        phase: int,
        num_epochs: int,
        head: Predictions | None,
        check: Callable[[], None],
        fitted: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = folder / LAST_FILE
        self._about = {"format": FORMAT, "identity": dict(identity), "phase": phase, "num_epochs": num_epochs}
        self._about |= {"head": [head.logits, head.labels] if head else None}
        self._about |= {"fitted": dump_json(fitted) if fitted else None}
        self._check = check  # raises if the run must stop
        self._saved = time.monotonic()

    def __call__(self, state: TrainState) -> None:
        """Save `state` if it is due; also if the run must stop now, before the exception is passed on."""
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
