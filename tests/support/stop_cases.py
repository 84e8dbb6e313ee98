"""A small training command that runs completely, or is stopped in this process and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.crash import SignalAt, prepare, result
from tests.support.harness import Outcome, run, succeed

MakeImages = Callable[..., Path]


class Command:
    """`python Engine.py <flags>` on newly drawn images; its runs are called `run` and draw no figures."""

    def __init__(self, root: Path, make_images: MakeImages, flags: str) -> None:
        self.data = make_images(root / "Data", {"cat": 8, "dog": 8}, size=16)
        self.flags = [*flags.split(), "--name", "run", "--device", "cpu", "-j", "1", "--data", self.data]
        self.root, self.output = root, root / "whole"
        with pytest.MonkeyPatch.context() as patch:
            prepare(patch.setattr, None)
            succeed([*self.flags, "--output", self.output])
        self.whole = result(self.output)

    def interrupt(self, output: Path, signal_at: SignalAt) -> Outcome:
        """Return the outcome of the command when it receives the signal `signal_at`."""
        with pytest.MonkeyPatch.context() as patch:
            prepare(patch.setattr, signal_at)
            return run([*self.flags, "--output", output], paints=signal_at.moment == "plot")

    def again(self, output: Path) -> dict[str, Any]:
        """Return the result of running the whole command again, if it was stopped before there was a run."""
        with pytest.MonkeyPatch.context() as patch:
            prepare(patch.setattr, None)
            succeed([*self.flags, "--output", output])
        return result(output)

    def resume(self, output: Path) -> dict[str, Any]:
        """Return the result of resuming the run that was stopped in `output`."""
        with pytest.MonkeyPatch.context() as patch:
            prepare(patch.setattr, None)
            succeed(resuming(output / "001-run"))
        return result(output)


def resuming(path: Path) -> list[str | Path]:
    """Return the arguments that resume the run in `path`."""
    return ["--resume", path, "--output", path.parent]
