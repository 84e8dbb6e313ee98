"""The cases of the fuzz campaign: each damages a file and gives it to the pipeline in this process.

`python -m tests.campaigns.FuzzCases KIND FIRST LAST SEED FOLDER` runs some of them and prints a line of JSON for each:
`Fuzz.py` starts it as a process of its own, because a decoder may end it with a signal.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import resource
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

import Engine
from MLPipeline.commands.CommandLine import parse
from MLPipeline.Errors import PipelineError
from MLPipeline.files.TensorFile import load_file
from MLPipeline.images.Fixes import apply_fixes
from MLPipeline.images.ListImages import index_images
from MLPipeline.images.RunSplits import read_splits
from MLPipeline.Models import build_model, find_model
from MLPipeline.training.Resume import load_standing, restore
from MLPipeline.training.TrainState import TrainState
from MLPipeline.Weights import load_weights
from tests.campaigns import Mutate
from tests.support.harness import SMALL, blank_figures

IMAGES_PER_CASE = 50
MAX_BYTES = 3 * 2**29  # that a case may add to the memory of the process: 2 GB with what it starts with
ALLOWED = (0, 2, 3)
_ERROR = re.compile(r"error: .+[^.]\. \S.*")


@dataclass(frozen=True)
class Result:
    """What the pipeline made of a case: its exit code, and what is wrong with that (nothing: empty)."""

    number: int
    code: int
    wrong: str


def prepare(folder: Path, images: list[bytes]) -> None:
    """Make a data set and a run in `folder`, and keep what is to be damaged in `folder/seeds`."""
    for name in ("cat", "dog"):
        (folder / "Data" / name).mkdir(parents=True)
    draw = random.Random(0)
    for number, content in enumerate(images):
        (folder / "seeds").mkdir(exist_ok=True)
        (folder / "seeds" / f"{number:03}").write_bytes(content)
    for number, content in enumerate(_plain_images(draw)):
        (folder / "Data" / ("cat", "dog")[number % 2] / f"{number:03}.png").write_bytes(content)
    for rate in ("0.1", "0.01"):
        flags = ["--data", folder / "Data", "--output", folder / "output", "--lr", rate]
        code, error = _quietly(partial(Engine.main, [*SMALL, *map(str, flags)]))
        assert code == 0, error
    weights = torch.load(folder / "output" / "001-cnn" / "model.pt", weights_only=True)["state_dict"]
    torch.save(weights, folder / "weights.pth")
    with contextlib.suppress(ImportError):
        from safetensors.torch import save_file

        save_file(weights, folder / "weights.safetensors")
    rows = [f"{path.parent.name}/{path.name},{path.parent.name}" for path in sorted(folder.glob("Data/*/*.png"))]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")


def _plain_images(draw: random.Random) -> Iterator[bytes]:
    from PIL import Image

    for number in range(20):
        image = Image.new("RGB", (24, 24), (200 * (number % 2), draw.randrange(256), 100))
        image.putpixel((draw.randrange(24), draw.randrange(24)), (255, 255, 255))
        image = image.resize((24 + number, 30))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        yield buffer.getvalue()


def run_case(kind: str, number: int, seed: int, folder: Path) -> Result:
    """Return what the pipeline makes of case `number`; what it is given stays in `folder/current` until the next."""
    draw, current = random.Random(f"{kind} {number} {seed}"), folder / "current"
    shutil.rmtree(current, ignore_errors=True)
    current.mkdir()
    action = CASES[kind](folder, current, draw)
    before = _peak_bytes()
    code, output = _quietly(action)
    added = _peak_bytes() - before
    wrong = _wrong(code, output) or (f"{added / 2**30:.1f} GB of memory" if added > MAX_BYTES else "")
    return Result(number, code, wrong)


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _images(folder: Path, current: Path, draw: random.Random) -> Callable[[], int]:
    """Damage images of all formats: predict them, or find out what is wrong with them as a data set."""
    seeds = sorted((folder / "seeds").iterdir())
    as_data = draw.random() < 0.15
    for number in range(IMAGES_PER_CASE):
        place = current / ("cat", "dog")[number % 2] if as_data else current
        place.mkdir(exist_ok=True)
        name = f"{number:03}.{draw.choice(('jpg', 'png', 'tif', 'bmp', 'gif', 'webp'))}"
        (place / name).write_bytes(Mutate.bytes_of(draw.choice(seeds).read_bytes(), draw))
    if as_data:
        return lambda: Engine.main(["audit", "--data", str(current), "--output", str(folder / "audits")])
    return lambda: Engine.main(["predict", str(current), "--json", "--output", str(folder / "output")])


def _checkpoints(folder: Path, current: Path, draw: random.Random) -> Callable[[], int]:
    """Damage model files, weights and states of trainings: in their bytes, or in their structure."""
    run = folder / "output" / "001-cnn"
    kind = draw.random()
    source = run / "model.pt" if kind < 0.6 else run / "last.pt" if kind < 0.8 else folder / "weights.pth"
    if kind > 0.95 and (folder / "weights.safetensors").exists():
        source = folder / "weights.safetensors"
    content, file = source.read_bytes(), current / source.name
    is_structured = source.suffix != ".safetensors" and draw.random() < 0.75
    file.write_bytes((Mutate.checkpoint_of if is_structured else Mutate.bytes_of)(content, draw))
    if source.name == "model.pt":
        image = next((folder / "Data" / "cat").iterdir())
        return lambda: Engine.main(["predict", str(image), "--run", str(file), "--output", str(folder / "output")])
    return (lambda: _resume(current, run)) if source.name == "last.pt" else (lambda: _start(file))


def _resume(folder: Path, run: Path) -> int:
    """Load a damaged `last.pt` into a training like the one that wrote it."""
    whole = load_file(run / "last.pt")
    assert isinstance(whole, dict)
    standing = load_standing(folder, whole["identity"])
    assert standing is not None
    config = parse(["--config", str(run / "config.json")])[1]
    config = config.resolve(find_model("cnn").defaults)
    model = build_model("cnn", 2, config.image_size)
    restore(folder, standing, TrainState(model, config, torch.device("cpu")))
    return 0


def _start(file: Path) -> int:
    """Begin with damaged weights."""
    load_weights(build_model("cnn", 2, 16), find_model("cnn"), str(file))
    return 0


def _texts(folder: Path, current: Path, draw: random.Random) -> Callable[[], int]:
    """Damage settings, tables and reports of runs."""
    run, output = folder / "output" / "002-cnn", folder / "output"
    name = draw.choice(list(_USES))
    source = {"labels.csv": folder, "fixes.csv": folder, "runs.csv": output}.get(name, run)
    content = (source / ("labels.csv" if name == "fixes.csv" else name)).read_bytes()
    mutate = [
        Mutate.bytes_of,
        Mutate.text_of,
        Mutate.text_of,
        Mutate.json_of if name.endswith("json") else Mutate.text_of,
    ]
    damaged = draw.choice(mutate)(content, draw)
    copied = current / "output"
    shutil.copytree(output, copied, ignore=shutil.ignore_patterns("cache", ".*", "*.png", "*.html", "last.pt"))
    place = {"labels.csv": current, "fixes.csv": current, "runs.csv": copied}.get(name, copied / "002-cnn")
    (place / name).write_bytes(damaged)
    return lambda: _USES[name](place / name, folder)


def _engine(*words: str | Path) -> int:
    return Engine.main([str(word) for word in words])


def _parse(file: Path) -> int:
    parse(["--config", str(file)])
    return 0


def _read_labels(file: Path, folder: Path) -> int:
    index_images(folder / "Data", False, "auto", file)
    return 0


def _apply_fixes(file: Path, folder: Path) -> int:
    apply_fixes(index_images(folder / "Data", False, "auto", None), file)
    return 0


def _read_splits(file: Path, folder: Path) -> int:
    read_splits(file, ("cat", "dog")).find(folder / "Data", 2)
    return 0


_USES: dict[str, Callable[[Path, Path], int]] = {
    "config.json": lambda file, folder: _parse(file) or _engine("runs", "--output", file.parents[1]),
    "labels.csv": _read_labels,
    "fixes.csv": _apply_fixes,
    "runs.csv": lambda file, folder: _engine("runs", "--output", file.parent),
    "metrics.json": lambda file, folder: _engine("runs", "--output", file.parents[1]),
    "splits.csv": _read_splits,
    "predictions.csv": lambda file, folder: _engine("compare", "1", "2", "--output", file.parents[1]),
    "environment.json": lambda file, folder: _engine("compare", "2", "1", "--output", file.parents[1]),
}
CASES = {"images": _images, "checkpoints": _checkpoints, "texts": _texts}


def _quietly(action: Callable[[], int]) -> tuple[int, str]:
    """Return the exit code of `action`, and all that it printed."""
    output = io.StringIO()
    with blank_figures(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = action()
        except PipelineError as error:
            code = error.exit_code
            output.write(f"error: {error}\n")
        except Exception:
            code = 1
            traceback.print_exc()
    return code, output.getvalue()


def _wrong(code: int, output: str) -> str:
    """Return what no user should see of it."""
    lines = output.splitlines() or [""]
    if code not in ALLOWED or "Traceback" in output:
        return f"exit code {code}: {lines[-1][:300]}"
    if "out of memory" in output:
        return f"exit code {code}: out of memory"
    if code and not _ERROR.fullmatch(lines[-1]):
        return f"exit code {code} without an error line: {lines[-1][:300]}"
    if "nan %" in output or "NaN" in "".join(line for line in lines if line.startswith("{")):
        return "an answer that is no number"
    return ""


def main(words: list[str]) -> None:
    """Run cases as the command line says."""
    kind, first, last, seed, folder = words[0], int(words[1]), int(words[2]), int(words[3]), Path(words[4])
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + 2**32  # the machine is not ours alone
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(first, last):
        print(json.dumps(asdict(run_case(kind, number, seed, folder))), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
