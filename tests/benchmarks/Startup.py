"""Times whole processes, from start to exit: what a user waits for when little is computed.

    python -m tests.benchmarks.Startup --data Photos [--project ANOTHER_CHECKOUT]

`Photos` has one folder per class, or split folders. Timed are `--help`, `predict` of one image, and a training run
whose features are all in the cache; for comparison `import torch` alone, and the usual script for one image
(torchvision, PIL, fp32, random weights). The commands take turns; of each, the fastest of several rounds counts, with
the processor seconds of that round, which depend less on what else the machine does. With `--project`, the same
commands of another checkout, such as one of an earlier commit, run in the same turns.
"""

from __future__ import annotations

import argparse
import os
import resource
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


@dataclass(frozen=True, order=True)
class Taken:
    """What one process took: seconds on the clock, and of all processors, those of its child processes included."""

    clock_s: float
    processor_s: float


def run(command: list[str], project: Path) -> Taken:
    """Return what a command took; ends the benchmark if it fails."""
    # As on a user's machine: modules are compiled once, not in every run.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=project)
    taken, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    return Taken(taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def commands_of(output: Path, data: Path, model: str, image: Path) -> dict[str, list[str]]:
    """Return the commands of a project to time, by name."""
    where = ["--output", str(output)]
    return {
        "--help": ["Engine.py", "--help"],
        "predict, one image": ["Engine.py", "predict", str(image), *where],
        "training, all cached": ["Engine.py", "--model", model, "--data", str(data), *where],
    }


def main() -> None:
    """Print a table of the commands."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--project", type=Path, help="another checkout to time as well")
    parser.add_argument("--rounds", type=int, default=5)
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
        for project in filter(None, (PROJECT, flags.project and flags.project.resolve())):
            commands = commands_of(Path(folder, "of", *project.parts[1:]), data, flags.model, image)
            first = run(commands["training, all cached"], project)
            print(f"{project}: the first run took {first.clock_s:.1f} s", flush=True)
            where = "" if project == PROJECT else f" ({flags.project})"
            timed |= {f"{name}{where}": (command, project) for name, command in commands.items()}
        taken: dict[str, list[Taken]] = {name: [] for name in timed}
        for _ in range(flags.rounds):
            for name, (command, project) in timed.items():
                taken[name].append(run(command, project))
    print(f"{'':45}  seconds  of processors")
    for name, found in taken.items():
        print(f"{name:45}  {min(found).clock_s:7.2f}  {min(found).processor_s:13.2f}")


if __name__ == "__main__":
    main()
