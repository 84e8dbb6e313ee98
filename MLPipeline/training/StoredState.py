"""Checks the state of a training that a file contains: it may be damaged, or belong to another network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from MLPipeline.files.PlainValues import is_whole
from MLPipeline.training.TrainState import EpochRecord, TrainState

_MAX_COUNT = 10**12


def state_fits(stored: Mapping[str, Any], state: TrainState) -> bool:
    """Return whether `state.load_state_dict(stored)` gives a state that training can continue from."""
    own = state.state_dict()
    stored = {"epoch_average": None, **stored}  # not in files of earlier versions
    if stored.keys() != own.keys():
        return False
    best = stored["best"]
    return (
        _same_shapes(stored["model"], own["model"])
        and _optimizer_fits(stored["optimizer"], state)
        and (own["average"] is None or _same_shapes(stored["average"], own["average"]))
        and (stored["epoch_average"] is None or _average_fits(stored["epoch_average"], own["epoch_average"]))
        and all(map(_is_record, stored["history"]))
        and all(is_whole(stored[name], 0, _MAX_COUNT) for name in ("first_epoch", "batch", "num_chunks"))
        and stored["first_epoch"] <= len(stored["history"])
        and len(stored["sums"]) == 3
        and all(isinstance(each, (int, float)) for each in (*stored["sums"], *best[:2]))
        and len(best) == 3
        and (best[2] is None or best[2].keys() == own["model"].keys())
        and all(isinstance(draws, Tensor) for draws in stored["draws"])
    )


def _average_fits(stored: Any, own: Mapping[str, Any] | None) -> bool:
    return own is not None and isinstance(stored, Mapping) and _same_shapes(stored, own)


def _same_shapes(stored: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Return whether both are state dicts with equal names, shapes and types."""
    return stored.keys() == own.keys() and all(
        isinstance(stored[name], Tensor) and stored[name].shape == each.shape and stored[name].dtype == each.dtype
        for name, each in own.items()
        if isinstance(each, Tensor)
    )


def _optimizer_fits(stored: Mapping[str, Any], state: TrainState) -> bool:
    groups, own = stored["param_groups"], state.optimizer.state_dict()["param_groups"]
    return (
        len(groups) == len(own)
        and all(_group_fits(group, mine) for group, mine in zip(groups, own, strict=True))
        and all(
            is_whole(number, 0, len(state.parameters) - 1) and _moments_fit(moments, state.parameters[number])
            for number, moments in stored["state"].items()
        )
    )


def _group_fits(group: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Return whether the settings of an optimizer are of the same kinds; their values change with the schedule."""
    numbers = (int, float)
    return group["params"] == own["params"] and all(
        isinstance(group[name], numbers if isinstance(value, numbers) else type(value))
        for name, value in own.items()
        if name in group  # another version of torch may know other settings
    )


def _moments_fit(moments: Mapping[str, Any], parameter: Tensor) -> bool:
    """Return whether what an optimizer remembers of a parameter has its shape, except for its number of steps."""
    return all(
        value.shape == parameter.shape or name == "step" and not value.dim()
        for name, value in moments.items()
        if isinstance(value, Tensor)
    )


def _is_record(record: Mapping[str, Any]) -> bool:
    names = [each.name for each in fields(EpochRecord)]
    return list(record) == names and all(isinstance(record[name], (int, float)) for name in names)
