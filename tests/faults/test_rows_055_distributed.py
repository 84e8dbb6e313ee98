"""Rows 55 to 59 of the fault matrix: several ranks, one of which is killed, hangs, is missing or sees other files.

The ranks are forked from one process (see `crash`) and meet as under torchrun; tests/distributed runs torchrun itself.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from MLPipeline.distributed import Rendezvous
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import ResourceError
from tests.support.crash import Ended, Launch, SignalAt, result, run_in_process, run_ranks
from tests.support.harness import content
from tests.support.rank_cases import alone, free_port

MakeImages = Callable[..., Path]

FLAGS = "--model cnn --image-size 8 --epochs 2 -b 5 --lr 0.05 --device cpu --precision fp32 -j 1 --name run".split()
KILLED = -9


class Runs:
    """A training of two ranks on 17 images, and of one process, in folders of their own."""

    def __init__(self, root: Path, make_images: MakeImages) -> None:
        self.root, self.data = root, make_images(root / "Data", {"cat": 9, "dog": 8}, size=16)
        self.before = content(self.data)
        assert self.run("one", 1).code == self.run("two", 2).code == 0
        self.whole = result(root / "two")

    def run(self, output: str, num_ranks: int, **how: Any) -> Ended:
        argv = [*FLAGS, "--data", self.data, "--output", self.root / output]
        return run_in_process(argv, self.root / "log.txt", num_ranks=num_ranks, **how)

    def resume(self, output: str, num_ranks: int) -> Ended:
        argv = ["--resume", "run", "--output", self.root / output]
        return run_in_process(argv, self.root / "log.txt", num_ranks=num_ranks)

    def table(self, output: str, name: str) -> pd.DataFrame:
        return pd.read_csv(self.root / output / "001-run" / name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Runs:
    return Runs(tmp_path_factory.mktemp("ranks"), make_images)


@pytest.mark.parametrize("rank", [0, 1])
def test_055_a_rank_that_is_killed(runs: Runs, rank: int) -> None:
    """A rank is killed: the others end with code 3 naming it, and `--resume` gives the result of an unbroken run."""
    output = f"killed {rank}"
    ended = runs.run(output, 2, signal_at=SignalAt("step", 3), signalled_rank=rank)
    assert ended.codes[rank] == KILLED and ended.codes[1 - rank] == 3
    assert f"rank {rank}: ended, or gave no answer" in ended.text and "Traceback" not in ended.text
    assert runs.resume(output, 2).codes == (0, 0)
    assert result(runs.root / output) == runs.whole
    assert content(runs.data) == runs.before


def test_056_a_rank_that_hangs(runs: Runs) -> None:
    """A rank hangs: after the time limit the others end with code 3 naming it."""
    stopped = SignalAt("step", 3, signal=signal.SIGSTOP)
    ended = runs.run("hanging", 2, signal_at=stopped, signalled_rank=1, limits={"ANSWER_S": 1.0})
    assert ended.codes == (3, KILLED) and "rank 1: ended, or gave no answer within 1 s" in ended.text


def test_056_a_rank_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank is not started: the others end with code 3 naming it or its address."""
    monkeypatch.setattr(Rendezvous, "MEETING_S", 0.5)
    port = free_port()
    with pytest.raises(ResourceError, match="^ranks 1, 2 of 3 did not join within 0 s. See their output"):
        alone(RANK=0, WORLD_SIZE=3, MASTER_ADDR="localhost", MASTER_PORT=port).meet("cpu")
    port = free_port()
    with pytest.raises(ResourceError, match=f"^rank 0 cannot be reached at localhost, port {port}"):
        alone(RANK=1, WORLD_SIZE=2, MASTER_ADDR="localhost", MASTER_PORT=port).meet("cpu")


def test_056_a_port_that_is_in_use() -> None:
    """The port is in use: exit code 3 naming it and the flag for another."""
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ResourceError, match=f"^port {port}: is in use. Give another --master-port"):
            alone(RANK=0, WORLD_SIZE=2, MASTER_ADDR="localhost", MASTER_PORT=port).meet("cpu")


def on_machines_of_their_own() -> None:
    ranks.local_rank, ranks.local_size = 0, 1


@pytest.mark.parametrize(("change", "what"), [(on_machines_of_their_own, "images"), (None, "settings")])
def test_057_ranks_that_see_other_files(
    runs: Runs, make_images: MakeImages, change: Callable[[], None] | None, what: str
) -> None:
    """Ranks that see other files, or on one machine are told to: exit code 2 naming the rank, before the first step."""
    others = make_images(runs.root / f"Others {what}", {"cat": 9, "dog": 9}, size=16)
    argvs = [[*FLAGS, "--data", data, "--output", runs.root / "other"] for data in (runs.data, others)]
    ended = run_ranks(argvs, runs.root / "log.txt", Launch(2, change=change))
    assert set(ended.codes) <= {2, -signal.SIGTERM} and 2 in ended.codes
    assert f"rank 1: not the same {what} as rank 0" in ended.text and "epoch  train" not in ended.text


def test_058_every_image_is_counted_once(runs: Runs) -> None:
    """Images that do not divide evenly among the ranks: each is counted once, with the figures of one process."""
    one, two = (runs.table(output, "predictions.csv") for output in ("one", "two"))
    assert two["path"].is_unique and two["path"].tolist() == one["path"].tolist()
    np.testing.assert_allclose(two["confidence"], one["confidence"], rtol=1e-3)
    losses = [runs.table(output, "history.csv")[["train_loss", "val_loss"]] for output in ("one", "two")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_058_fewer_images_than_ranks(runs: Runs) -> None:
    """Batches smaller than the number of ranks: trained as by one process."""
    flags = ["-b", "1", "--epochs", "1", "--output"]
    for num_ranks in (1, 2):
        argv = [*FLAGS, "--data", runs.data, *flags, runs.root / f"few {num_ranks}"]
        assert run_in_process(argv, runs.root / "log.txt", num_ranks=num_ranks).code == 0
    losses = [runs.table(f"few {num_ranks}", "history.csv")["train_loss"] for num_ranks in (1, 2)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_059_another_number_of_ranks(runs: Runs, before: int, after: int) -> None:
    """`--resume` with another number of ranks: continues, with the figures of the whole run up to rounding."""
    output = f"{before} then {after}"
    assert runs.run(output, before, signal_at=SignalAt("step", 3, signal=signal.SIGTERM)).code == 143
    assert not set(runs.resume(output, after).codes) - {0}
    losses = [runs.table(each, "history.csv")[["train_loss", "val_loss"]] for each in (output, "one")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
