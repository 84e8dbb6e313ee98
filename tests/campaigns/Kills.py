"""Kills training runs at random moments, resumes them, and compares the result with that of an uninterrupted run.

    python -m tests.campaigns.Kills --runs 200 --seed 0

A run is killed (SIGKILL) at a random call of a function that scans, writes, trains or draws, or at a random time; with
two ranks, one of them or both. After `--resume`, weights, optimizer state, history, metrics and tables must equal those
of the uninterrupted run, and the images and an earlier run in the same folder must be byte-identical. `last.pt` is
written after every training step, so that kills in the middle of an epoch resume in the middle of an epoch.

Prints a table; exits with 1 if a result differs, and then keeps the folder.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from tests.campaigns.drawn import draw_images
from tests.support.crash import MOMENTS, Ended, Launch, SignalAt, result, run_in_process
from tests.support.harness import content

KILLED = -9
HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}")


@dataclass(frozen=True)
class Recipe:
    """One kind of training."""

    flags: str
    num_ranks: int = 1
    is_warm: bool = False  # an earlier run has filled the cache


WHOLE = "--model cnn --image-size 8 --epochs 2 -b 4 --ema 0.9 --schedule cosine --augment crop,mixup"
FROZEN = "--model made_up --freeze backbone --epochs 3 -b 4"
TUNED = "--model made_up --unfreeze-after 1 --epochs 3 -b 4 --ema 0.9 --layer-decay 0.5"
NO_CACHE = " --cache-limit 0"
RECIPES = {
    "whole network": Recipe(WHOLE),
    "whole network, no cache": Recipe(WHOLE + NO_CACHE),
    "frozen backbone": Recipe(FROZEN),
    "frozen backbone, filled cache": Recipe(FROZEN, is_warm=True),
    "head, then all": Recipe(TUNED),
    "head, then all, no cache": Recipe(TUNED + NO_CACHE),
    "whole network, 2 ranks": Recipe(WHOLE, num_ranks=2),
    "head, then all, 2 ranks": Recipe(TUNED, num_ranks=2),
}


@dataclass
class Tally:
    """What became of the kills of one recipe."""

    by_call: int = 0
    by_time: int = 0
    num_ended: int = 0  # before the kill was due
    differences: list[str] = field(default_factory=list)

    @property
    def num_kills(self) -> int:
        return self.by_call + self.by_time


class Case:
    """A training command that can be killed, its uninterrupted run, and an earlier run in the same output folder."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.root, self.recipe, self.data = root, recipe, draw_images(root / "Data", {"cat": 8, "dog": 8})
        self.flags = [*recipe.flags.split(), "--device", "cpu", "-j", "1", "--data", self.data]
        self.earlier, whole = root / "earlier", root / "whole"
        self._launch([*self.flags, "--name", "earlier", "--output", self.earlier])
        if not recipe.is_warm:
            shutil.rmtree(self.earlier / "cache")
        self.unchanged = self._fixed(self.earlier)
        shutil.copytree(self.earlier, whole)
        self.reference = self._launch([*self.flags, "--name", "run", "--output", whole])
        self.result = result(whole)

    def trial(self, name: str, launch: Launch, *resumed_at: SignalAt) -> tuple[Ended, list[str]]:
        """Return how a killed run ended, and how the result of its resumed run differs; `resumed_at` kill it again."""
        output = self.root / name
        shutil.copytree(self.earlier, output)
        killed = self._run([*self.flags, "--name", "run", "--output", output], launch)
        for signal_at in resumed_at:
            again = self._resume(output, Launch(self.recipe.num_ranks, signal_at))
            assert KILLED in again.codes, again.text
        resumed = self._resume(output, Launch(self.recipe.num_ranks, forget_optimizer=launch.forget_optimizer))
        if resumed.code:
            return killed, [f"--resume exited with {resumed.codes}: {resumed.text}"]
        found = result(output)
        wrong = [name for name in self.result if found[name] != self.result[name]]
        if self._fixed(output) != self.unchanged:
            wrong.append("images or the earlier run changed")
        wrong += [f"left behind: {path}" for path in half_written(output)]
        if not wrong:
            shutil.rmtree(output)
        return killed, wrong

    def random_launch(self, draw: random.Random) -> Launch:
        """Return a launch that is killed at a random time, or (twice as often) at a random call."""
        if draw.random() < 1 / 3:
            return Launch(self.recipe.num_ranks, kill_after_s=draw.random() * self.reference.seconds)
        rank = draw.randrange(self.recipe.num_ranks)
        return Launch(self.recipe.num_ranks, self.signal_at(draw.choice(self.moments(rank)), draw, rank), rank)

    def moments(self, rank: int = 0) -> list[str]:
        """Return the moments that occur in the uninterrupted run."""
        return [moment for moment in MOMENTS if self.reference.calls[rank][moment]]

    def signal_at(self, moment: str, draw: random.Random, rank: int = 0) -> SignalAt:
        """Return a kill before, after or during a random call of a moment."""
        whens = ["before", "after"] + ["during"] * (moment == "save" and rank == 0)
        return SignalAt(moment, draw.randint(1, self.reference.calls[rank][moment]), draw.choice(whens))

    def _fixed(self, output: Path) -> list[str]:
        """Return hashes of what no run may change: the images and the earlier run."""
        return [*content(self.data).values(), *content(output / "001-earlier").values()]

    def _resume(self, output: Path, launch: Launch) -> Ended:
        if not (output / "002-run" / "config.json").exists():  # killed before the run had begun
            return self._run([*self.flags, "--name", "run", "--output", output], launch)
        return self._run(["--resume", "run", "--output", output], launch)

    def _launch(self, argv: list[Any]) -> Ended:
        ended = self._run(argv, Launch(self.recipe.num_ranks))
        assert ended.code == 0, ended.text
        return ended

    def _run(self, argv: list[Any], launch: Launch) -> Ended:
        return run_in_process(argv, self.root / "log.txt", launch)


def half_written(output: Path) -> list[Path]:
    """Return the temporary files below `output`, except in a run folder that was killed before the run began."""
    found = [path for path in output.rglob(".*") if HALF_WRITTEN.fullmatch(path.name)]
    return [path for path in found if (path.parent / "config.json").exists() or not path.parent.name.endswith("-run")]


def campaign(case: Case, num_kills: int, draw: random.Random) -> Tally:
    """Kill runs of one kind until `num_kills` were killed; return what became of them."""
    tally = Tally()
    for trial in range(3 * num_kills):  # some runs end before their kill is due
        launch = case.random_launch(draw)
        killed, wrong = case.trial(str(trial), launch)
        tally.differences += [f"trial {trial}, {launch}: {each}" for each in wrong]
        if KILLED not in killed.codes:
            tally.num_ended += 1
        elif launch.signal_at:
            tally.by_call += 1
        else:
            tally.by_time += 1
        if tally.num_kills == num_kills:
            break
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="number of kills (200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (0)")
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder)")
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kills-", dir=given.folder))
    print(f"{'recipe':32}  at a call  at a time  ended first  differing", flush=True)
    num_kills, differences = 0, []
    for number, (name, recipe) in enumerate(RECIPES.items()):
        share = given.runs * (number + 1) // len(RECIPES) - given.runs * number // len(RECIPES)
        tally = campaign(Case(root / str(number), recipe), share, random.Random(f"{given.seed} {name}"))
        counts = f"{tally.by_call:9}  {tally.by_time:9}  {tally.num_ended:11}  {len(tally.differences):9}"
        print(f"{name:32}  {counts}", flush=True)
        num_kills += tally.num_kills
        differences += [f"{name}: {each}" for each in tally.differences]
    print(f"{num_kills} kills, {len(differences)} differences" + "".join(f"\n{each}" for each in differences))
    if differences:
        print(f"kept: {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
