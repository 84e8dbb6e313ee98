"""Gives the pipeline thousands of damaged files: no crash, no traceback, no hang, no more than 2 GB, nothing changed.

    python -m tests.campaigns.Fuzz                                                  10,000 + 2,000 + 2,000 files
    python -m tests.campaigns.Fuzz --images 500 --checkpoints 100 --configs 100 --seed 3 --keep findings

It prints a table and ends with 1 if anything is wrong. What was given to the pipeline then is in the folder `--keep`.
The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaigns.FuzzCases import IMAGES_PER_CASE, prepare
from tests.support.fuzz_images import seed_images
from tests.support.harness import content
from tests.support.paths import ROOT

TIME_LIMIT_S = 120  # of one case, on a busy machine


@dataclass
class Tally:
    """What became of the cases of one kind."""

    codes: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def main(words: Sequence[str]) -> int:
    """Return 0 if nothing is wrong, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.Fuzz")
    for flag, number in (("--images", 10_000), ("--checkpoints", 2_000), ("--configs", 2_000), ("--seed", 0)):
        parser.add_argument(flag, type=int, default=number)
    parser.add_argument("--keep", type=Path, default=Path("findings"))
    stated = parser.parse_args(words)
    numbers = {
        "images": -(-stated.images // IMAGES_PER_CASE),
        "checkpoints": stated.checkpoints,
        "texts": stated.configs,
    }
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), seed_images())
        before = content(Path(folder) / "Data"), content(Path(folder) / "output")
        tallies = {
            kind: run_cases(kind, number, stated.seed, Path(folder), stated.keep) for kind, number in numbers.items()
        }
        is_unchanged = before == (content(Path(folder) / "Data"), _without_cache(Path(folder), before[1]))
    _show(tallies, numbers, is_unchanged)
    return int(not is_unchanged or any(tally.wrong for tally in tallies.values()))


def run_cases(kind: str, number: int, seed: int, folder: Path, keep: Path) -> Tally:
    """Return what became of cases 0 to `number` of a kind; the process is started again after one that ended it."""
    tally, first = Tally(), 0
    while first < number:
        words = ["-m", "tests.campaigns.FuzzCases", kind, str(first), str(number), str(seed), str(folder)]
        first = watch([sys.executable, *words], first, number, tally, folder / "current", keep / kind)
    return tally


def watch(command: list[str], first: int, last: int, tally: Tally, current: Path, keep: Path) -> int:
    """Count the results that a process prints, until it ends or is silent for too long; return the next case.

    What it was given when something was wrong is copied from `current` to `keep`.
    """
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    errors: list[str] = []
    threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True).start()
    wrong = ""
    while first < last:
        try:
            line = lines.get(timeout=TIME_LIMIT_S)
        except queue.Empty:
            wrong = f"no answer within {TIME_LIMIT_S} s"
            break
        if not line:
            process.wait()
            wrong = f"the process ended with {process.returncode}: {''.join(errors)[-500:]}"
            break
        result = json.loads(line)
        tally.codes[result["code"]] += 1
        first = result["number"] + 1
        if result["wrong"]:
            wrong = result["wrong"]
            break  # what is in `current` must not be replaced; also, memory is counted from the beginning of a process
    process.kill()
    process.wait()
    if wrong:
        number = first if wrong.startswith(("no answer", "the process")) else first - 1
        tally.wrong.append(f"{number}: {wrong}")
        if current.exists():  # else the process ended before its first case
            shutil.copytree(current, keep / str(number), dirs_exist_ok=True)
        return number + 1
    return first


def _without_cache(folder: Path, before: dict[bytes, str]) -> dict[bytes, str]:
    """Return the content of the output folder, as far as it was there before: `compare` adds a page, `predict` rows."""
    return {path: text for path, text in content(folder / "output").items() if path in before}


def _show(tallies: dict[str, Tally], numbers: dict[str, int], is_unchanged: bool) -> None:
    print(f"{'kind':12}  {'cases':>6}  {'exit 0':>6}  {'exit 2':>6}  {'exit 3':>6}  {'wrong':>6}")
    for kind, tally in tallies.items():
        codes = "  ".join(f"{tally.codes[code]:6}" for code in (0, 2, 3))
        print(f"{kind:12}  {numbers[kind]:6}  {codes}  {len(tally.wrong):6}")
    print(f"a case of images is a folder of {IMAGES_PER_CASE}")
    print(f"images and earlier runs: {'byte-identical' if is_unchanged else 'CHANGED'}")
    for kind, tally in tallies.items():
        for line in tally.wrong:
            print(f"{kind} {line}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
