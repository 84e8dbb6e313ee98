"""The commands of the README and of docs/, run one after the other as a reader would, in a copy of the project."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from MLPipeline.Recipes import RECIPES
from tests.support.forked_ranks import launch
from tests.support.harness import succeed
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

README, TRAINING = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/training.md"))
# docs/cli.md is generated from the settings: it shows how a command is written, and no command.
WRITTEN = [README, *(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md") if page.stem != "cli")]

FIRST, *OTHERS = dict.fromkeys(
    re.sub(r"\s+#.*", "", command).strip().replace("\\\n", "")
    for page in WRITTEN
    for command in re.findall(r"((?:python Engine\.py|torchrun --)(?:[^`\n\\]|\\\n)*)", page)
)
# What stands in the pages for the reader's own names, machines and patience.
STAND_INS = {
    "python Engine.py serve": "python Engine.py serve --help",  # it would never end; test_ServeModel runs it
    "python Engine.py label": "python Engine.py label --help",  # likewise; test_LabelImages
    "python Engine.py choose": "python Engine.py choose --sizes 32",
    "--sizes 160,200,260": "--sizes 32",
    "001-...": "001-efficientnet_lite0",
    "IMAGE_OR_FOLDER": "Data/others",
    "--run model.pt --data FOLDER": "--run output/001-efficientnet_lite0/model.pt --data Data",
    "--minutes 5": "--minutes 0.1",
    "--model MODEL": "--model cnn --data few --epochs 1",
    "--nnodes 4 --nproc-per-node gpu": "--nnodes 1 --nproc-per-node 2",
    "HOST0:29500": "localhost:0",
    "/shared/Photos": "few",
    "/shared/output": "output",
    "-- Engine.py --model resnet50": "-- Engine.py --model squeezenet1_1 --data few --epochs 4 --image-size 32",
}
# Each has a file of tests of its own, in which it runs whole.
ELSEWHERE = ("selftest", "export --int8", "export --run 3 --format openvino --int8")
IN_A_SHELL = ("--model tiny", "--nnodes")  # a file is added to the project; torchrun as a command of its own
FLAGS = list(
    dict.fromkeys(re.findall(r"^\| `(--(?!recipe)[^`]*)`", README.split("## Which model")[0] + TRAINING, re.M))
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    """Return a copy of the project as it is after the README's first command; `shown.txt` is what that printed."""
    home = tmp_path_factory.mktemp("home")
    for name in ("Engine.py", "MLPipeline", "Data"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, home / name)
    make_images(home / "few", {"circle": 10, "square": 10}, size=64)
    shutil.copytree(home / "Data" / "others", home / "new")
    (home / "shown.txt").write_text(run(home, FIRST), encoding="utf-8")
    return home


def with_stand_ins(command: str) -> str:
    for name, own in STAND_INS.items():
        command = command.replace(name, own)
    return command


def run(home: Path, command: str) -> str:
    """Return what a shell prints for `command`; fails unless it exits 0."""
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = os.environ | {"PATH": os.pathsep.join(folders), "COLUMNS": "120"}
    done = subprocess.run(["bash", "-c", command], cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_without_shell(home: Path, command: str) -> str:
    """Return what `command` prints; fails unless it exits 0. It runs where torch is imported already."""
    words = shlex.split(command)
    if words[0] == "python":
        return succeed(words[2:]).out
    code, out, err = launch(words[words.index("Engine.py") + 1 :], home).wait()
    assert code == 0, err
    return out


def shape(line: str) -> str:
    """Return a line without what differs from machine to machine: figures, the blanks around them, classes answered."""
    line = re.sub("driving_license|others|social_security", "class", re.sub(r"\d+", "0", line))
    return re.sub(r"[\s*]+", " ", line).strip()  # the star marks the best epoch, or run


def not_printed(command: str, printed: str) -> list[str]:
    """Return the lines that the README shows below `$ command` and that were not printed; "..." stands for any."""
    shown = README.partition(f"$ {command}")[2].partition("\n```")[0].partition("\n\n$ ")[0].splitlines()[1:]
    lines = {shape(line) for line in printed.splitlines()}
    return [line for line in shown if line.strip(" .") and shape(line) not in lines]


def test_the_first_command_prints_what_the_readme_shows(home: Path) -> None:
    assert len(not_printed(FIRST, "")) > 8
    assert not_printed(FIRST, (home / "shown.txt").read_text(encoding="utf-8")) == []


def test_the_files_it_lists_are_there(home: Path) -> None:
    table = TRAINING.partition("| file | contents |")[2].partition("\n\n")[0]
    names = re.findall(r"`([A-Za-z_]+\.[a-z]+)`", "".join(row.split(" | ")[0] for row in table.splitlines()))
    assert len(names) > 15
    there = {path.name for path in (home / "output" / "001-efficientnet_lite0").iterdir()}
    # With images of more than 8 bits; with more than 100 classes; with `--model auto`.
    optional = {"levels.json", "predictions.npz", "choice.html", "choice.csv", "choice.json"}
    assert {name for name in there if not name.endswith(".prev")} == {*names} - optional


@pytest.mark.parametrize("command", [each for each in OTHERS if not each.endswith(ELSEWHERE)])
def test_a_command_runs(home: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    if "--model tiny" in command:
        examples = re.findall(r"```python\n(.*?)```", "".join(WRITTEN), re.DOTALL)
        (example,) = (each for each in examples if "ModelSpec" in each)
        (home / "MLPipeline" / "Tiny_Model.py").write_text(example, encoding="utf-8")
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "120")
    in_shell = any(word in command for word in IN_A_SHELL)
    printed = (run if in_shell else run_without_shell)(home, with_stand_ins(command))
    assert printed.strip() and not_printed(command, printed) == []


@pytest.mark.parametrize("flags", FLAGS)
def test_a_flag_of_training_works(home: Path, monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    monkeypatch.chdir(home)
    small = "--model cnn --data few --image-size 32 --epochs 4 --output flags"
    command = flags.replace("--resume 7", "--resume output/001-efficientnet_lite0")
    printed = succeed([*(small.split() if "--resume" not in flags else []), *command.split()]).out
    assert "test accuracy" in printed or "is already complete" in printed


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Shortened, on small images, and with a small network: test_Recipes checks the flags of each recipe."""
    monkeypatch.chdir(home)
    short = "--unfreeze-after 1 --epochs 2" if "unfreeze_after" in RECIPES[name] else "--epochs 2"
    model = "cnn" if RECIPES[name]["model"] == "cnn" else "squeezenet1_1"
    printed = succeed(
        f"--recipe {name} --model {model} --data few --image-size 32 {short} --output recipes".split()
    ).out
    assert "test accuracy" in printed
    assert printed.count("Saving model...") >= 1 or not name.startswith("cifar10")


def test_the_recipes_listed_are_all_there_are() -> None:
    table = TRAINING.partition("| `--recipe` | what it trains |")[2].partition("\n\n")[0]
    rows = "".join(row.split(" | ")[0] for row in table.splitlines())
    assert set(re.findall(r"`([a-z0-9-]+)`", rows)) == set(RECIPES)
