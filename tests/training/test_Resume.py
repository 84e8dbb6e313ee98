"""`last.pt`: when it is written, that a failed write leaves the one before, and what is refused instead of loaded."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.training import Resume
from MLPipeline.training.Resume import Saver, load_standing, restore
from MLPipeline.training.TrainState import TrainState
from tests.support.resume_cases import content_of, differences
from tests.support.train_cases import CPU, linear, network, settings

IDENTITY = {"images": "a1", "classes": "b2", "weights": "c3"}
HEAD = Predictions(torch.rand(4, 3), torch.tensor([0, 1, 2, 0]))


def never() -> None:
    """Let the run go on."""


def stop() -> None:
    raise KeyboardInterrupt


def state_of(seed: int = 0) -> TrainState:
    return TrainState(network(seed), settings(ema=0.9), CPU)


def saved(folder: Path, seed: int = 0) -> Path:
    Saver(folder, IDENTITY, 1, 9, HEAD, never).save(state_of(seed))
    return folder / "last.pt"


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    state = state_of()
    Saver(tmp_path, IDENTITY, 1, 9, HEAD, never, {"chosen": "ridge", "out_of_fold": [{"loss": 0.5}]}).save(state)
    standing = load_standing(tmp_path, IDENTITY)
    assert standing is not None and (standing.phase, standing.num_epochs) == (1, 9)
    assert standing.head is not None and standing.fitted == {"chosen": "ridge", "out_of_fold": [{"loss": 0.5}]}
    assert torch.equal(standing.head.logits, HEAD.logits) and torch.equal(standing.head.labels, HEAD.labels)
    assert differences(content_of(state), dict(standing.state)) == []
    assert load_standing(tmp_path / "elsewhere", IDENTITY) is None


def test_it_is_written_every_few_minutes_by_a_clock_that_nobody_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 52: `time.time` runs backwards here, and may."""
    now, wall, state = [100.0], [1e9], state_of()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: wall[0])
    saver, written = Saver(tmp_path, IDENTITY, 0, 9, None, never), []
    monkeypatch.setattr(saver, "save", lambda state: (written.append(now[0]), saver.__setattr__("_saved", now[0])))
    for _ in range(10):
        now[0], wall[0] = now[0] + 50, wall[0] - 1e6
        saver(state)
    assert Resume.SECONDS_BETWEEN_SAVES == 120
    assert written == [250, 400, 550]


def test_it_is_written_before_the_run_stops(tmp_path: Path) -> None:
    saver = Saver(tmp_path, IDENTITY, 0, 9, None, stop)
    with pytest.raises(KeyboardInterrupt):
        saver(state_of())
    assert load_standing(tmp_path, IDENTITY) is not None


@pytest.mark.parametrize("where", ["at once", "half-way", "fsync"])
def test_a_full_disk_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Row 41."""
    file, save = saved(tmp_path), torch.save
    before = file.read_bytes()

    def full(content: Any, file: BinaryIO) -> None:
        if where == "half-way":
            file.write(before[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync" if where == "fsync" else "torch.save", full if where != "fsync" else no_space)
    with pytest.raises(ResourceError, match=r"last.pt: cannot be written \(No space left on device\)"):
        Saver(tmp_path, IDENTITY, 0, 9, None, never).save(state_of(1))
    monkeypatch.setattr("torch.save", save)
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    standing = load_standing(tmp_path, IDENTITY)
    assert standing is not None
    state_of(1).load_state_dict(standing.state)


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_what_torch_says_of_a_full_disk_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: torch.save turns the system's error into one of its own."""
    real_open = open
    monkeypatch.setattr("builtins.open", lambda path, mode="r", **how: real_open("/dev/full", "wb", 0))
    with pytest.raises(ResourceError, match="cannot be written"):
        Saver(tmp_path, IDENTITY, 0, 9, None, never).save(state_of())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"images": "x"}, "not the same images as"),
        ({"classes": "x", "images": "x"}, "not the same images and classes as"),
        ({"weights": "x"}, "not the same weights as"),
    ],
)
def test_what_has_changed_is_named(tmp_path: Path, changed: dict[str, str], words: str) -> None:
    saved(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        load_standing(tmp_path, IDENTITY | changed)
    assert str(tmp_path) in str(caught.value) and "Put them back, or start a new run" in str(caught.value)


def test_what_there_is_no_more_is_named(tmp_path: Path) -> None:
    """A run that was begun on features in 8 bits, resumed where they cannot be computed."""
    Saver(tmp_path, IDENTITY | {"backbone in 8 bits": "x"}, 0, 9, None, never).save(state_of())
    with pytest.raises(DataError, match="not the same backbone in 8 bits as"):
        load_standing(tmp_path, IDENTITY)


@pytest.mark.parametrize("share", [0, 0.01, 0.5])
@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_file_is_named_and_the_one_before_is_offered(tmp_path: Path, share: float, number: int) -> None:
    """Row 34: `.prev` is offered where there is one."""
    for seed in range(number):
        file = saved(tmp_path, seed)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(DataError, match="last.pt: ") as caught:
        load_standing(tmp_path, IDENTITY)
    previous = tmp_path / "last.pt.prev"
    assert caught.value.hint == (
        f"Delete {file}; training starts over" if number == 1 else f"Put {previous} in its place"
    )
    if number == 2:
        previous.replace(file)
        assert load_standing(tmp_path, IDENTITY) is not None


@pytest.mark.parametrize("content", [{"weights": torch.zeros(3)}, [1, 2], {"format": 99}], ids=str)
def test_another_file_is_no_standing(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(DataError, match="is not the state of a training of this pipeline"):
        load_standing(tmp_path, IDENTITY)


def test_nothing_in_it_runs(tmp_path: Path) -> None:
    """Row 36: a whole module is a pickle that could run anything."""
    torch.save({"format": 1, "state": linear()}, tmp_path / "last.pt")
    with pytest.raises(DataError, match="rejected, because it contains"):
        load_standing(tmp_path, IDENTITY)


def trained_state(seed: int = 0) -> TrainState:
    """Return a state after a step of Adam."""
    state = state_of(seed)
    for parameter in state.parameters:
        parameter.grad = torch.ones_like(parameter)
    state.step()
    return state


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("sums"),
        lambda state: state["model"].popitem(),
        lambda state: state["model"].update({next(iter(state["model"])): torch.zeros(77)}),
        lambda state: state["model"].update({next(iter(state["model"])): 3}),
        lambda state: state["optimizer"]["param_groups"].pop(),
        lambda state: state["optimizer"]["param_groups"][0].update(lr="fast"),
        lambda state: state["optimizer"]["param_groups"][0].update(params=[0, 0]),
        lambda state: state["optimizer"]["state"].update({99: {}}),
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(77)),
        lambda state: state["optimizer"].update(state=[1]),
        lambda state: state.update(average=None),
        lambda state: state.update(epoch_average={}),
        lambda state: state.update(history=[{"epoch": 1}]),
        lambda state: state.update(history=3),
        lambda state: state.update(first_epoch=5),
        lambda state: state.update(batch=-1),
        lambda state: state.update(sums=[1, 2]),
        lambda state: state.update(best=[1, "low", None]),
        lambda state: state.update(best=[1, 0.5, {"a": torch.zeros(1)}]),
        lambda state: state.update(draws=[torch.zeros(3)]),
        lambda state: state.update(draws=[3]),
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_it_is_used(tmp_path: Path, damage: Any) -> None:
    """Rows 35 and 100: every part is checked, with the optimizer's."""
    Saver(tmp_path, IDENTITY, 1, 9, HEAD, never).save(trained_state())
    standing = load_standing(tmp_path, IDENTITY)
    assert standing is not None
    restore(tmp_path, standing, trained_state(1))
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    damage(content["state"])
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(DataError, match=r"last\.pt: (damaged: its content|is not the state)"):
        standing = load_standing(tmp_path, IDENTITY)
        assert standing is not None
        restore(tmp_path, standing, trained_state(1))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_state_with_weights_that_are_no_numbers(tmp_path: Path, number: float) -> None:
    state = state_of()
    state.parameters[0].data.flatten()[0] = number
    Saver(tmp_path, IDENTITY, 1, 9, HEAD, never).save(state)
    with pytest.raises(DataError, match=r"last\.pt: damaged: (NaN|an infinite number) in "):
        load_standing(tmp_path, IDENTITY)


@pytest.mark.parametrize("name", ["format", "identity", "phase", "num_epochs", "head", "state"])
def test_every_entry_of_the_file_is_needed(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path)
    content = torch.load(file, weights_only=True)
    del content[name]
    torch.save(content, file)
    with pytest.raises(DataError, match="is not the state of a training of this pipeline"):
        load_standing(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    "change",
    [
        {"identity": {"images": 3}},
        {"phase": -1},
        {"phase": "first"},
        {"num_epochs": 10**9},
        {"head": [torch.zeros(3, 2), torch.zeros(4)]},
        {"head": [torch.zeros(3), torch.zeros(3)]},
        {"state": None},
        {"state": {"model": {"a": 1}}},
    ],
    ids=str,
)
def test_a_description_out_of_range_is_no_standing(tmp_path: Path, change: dict[str, Any]) -> None:
    file = saved(tmp_path)
    torch.save(torch.load(file, weights_only=True) | change, file)
    with pytest.raises(DataError, match="is not the state of a training of this pipeline"):
        load_standing(tmp_path, IDENTITY)
