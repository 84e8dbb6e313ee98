"""Times whole processes, from start to exit: what a user waits for when little is computed.

    python -m tests.benchmarks.Startup --data Photos [--project ANOTHER_CHECKOUT] [--cache output/cache]

`Photos` has one folder per class, or split folders. Timed are `--help`, `predict` of one image, and two training runs
whose features are all in the cache: the same run again, and one with another seed each time, for which the cache has
no estimates of what to do next. For comparison `import torch` alone, and the usual script for one image (torchvision,
PIL, fp32, random weights). The commands take turns, in one order and then in the other; of each, the
fastest of several rounds counts, with the processor seconds of that round, which depend less on what else the machine
does. With `--project`, the same commands of another checkout, such as one of an earlier commit, run in the same turns.

Before the rounds each project trains twice, untimed: the first run fills the cache (minutes), the second one writes
what is computed only after that. With `--cache`, both projects use that cache, so that the features that it has are not
computed again. A command that takes longer than `--limit` seconds is killed, with all processes that it has started.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
PLAIN_PREDICTION = """
import sys, torch
from PIL import Image
from torchvision import models, transforms
model = models.mobilenet_v2(weights=None).eval()
prepare = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
with torch.no_grad():
    print(model(prepare(Image.open(sys.argv[1]).convert("RGB"))[None]).softmax(1).topk(5))
"""
TRAINING = "training, all cached"
SEED = "SEED"  # in a command: the number of the round


@dataclass(frozen=True, order=True)
class Taken:
    """What one process took: seconds on the clock, and of all processors, those of its child processes included."""

    clock_s: float
    processor_s: float


def run(command: list[str], project: Path, limit_s: float) -> Taken:
    """Return what a command took; ends the benchmark if it fails, or takes longer than the limit."""
    # As on a user's machine: modules are compiled once, not in every run.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryFile() as said:  # not a pipe: a process left behind would keep it open, and this one waiting
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | str = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = f"killed after {limit_s:g} s"
        except KeyboardInterrupt:
            _kill(process)
            raise
        taken, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if code:
            _kill(process)
            said.seek(0)
            sys.exit(f"{project}: {' '.join(command)}: {code}\n{said.read().decode(errors='replace')}")
    return Taken(taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a command with its processes; the drawing process, in a session of its own, ends as its input does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def commands_of(output: Path, data: Path, model: str, image: Path) -> dict[str, list[str]]:
    """Return the commands of a project to time, by name."""
    where = ["--output", str(output)]
    return {
        "--help": ["Engine.py", "--help"],
        "predict, one image": ["Engine.py", "predict", str(image), *where],
        TRAINING: ["Engine.py", "--model", model, "--data", str(data), *where],
        "training, another seed": ["Engine.py", "--model", model, "--data", str(data), *where, "--seed", SEED],
    }


def prepared(project: Path, commands: dict[str, list[str]], limit_s: float) -> None:
    """Train twice, so that the cache has all that a run keeps there."""
    for what in ("the first run", "the second run"):
        print(f"{project}: {what} ...", end=" ", flush=True)
        print(f"{run(commands[TRAINING], project, limit_s).clock_s:.1f} s", flush=True)


def main() -> None:
    """Print a table of the commands."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--project", type=Path, help="another checkout to time as well")
    parser.add_argument("--cache", type=Path, help="a cache that has the features already, such as output/cache")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds after which a command is killed")
    flags = parser.parse_args()
    data = flags.data.resolve()
    image = next(path for path in sorted(data.rglob("*")) if path.suffix.lower() in IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "plain.py")
        plain.write_text(PLAIN_PREDICTION)
        timed = {
            "import torch": (["-c", "import torch"], Path(folder)),
            "usual script, one image": ([str(plain), str(image)], Path(folder)),
        }
        for number, project in enumerate(filter(None, (PROJECT, flags.project and flags.project.resolve()))):
            output = Path(folder, f"output{number}")
            output.mkdir()
            if flags.cache:
                (output / "cache").symlink_to(flags.cache.resolve(strict=True), target_is_directory=True)
            commands = commands_of(output, data, flags.model, image)
            prepared(project, commands, flags.limit)
            where = "" if project == PROJECT else f" ({flags.project})"
            timed |= {f"{name}{where}": (command, project) for name, command in commands.items()}
        taken: dict[str, list[Taken]] = {name: [] for name in timed}
        for number in range(flags.rounds):
            print(f"round {number + 1} of {flags.rounds}", flush=True)
            for name, (command, project) in list(timed.items())[:: -1 if number % 2 else 1]:
                words = [str(1 + number) if word == SEED else word for word in command]
                taken[name].append(run(words, project, flags.limit))
    print(f"{'':45}  seconds  of processors")
    for name, found in taken.items():
        print(f"{name:45}  {min(found).clock_s:7.2f}  {min(found).processor_s:13.2f}")


if __name__ == "__main__":
    main()
