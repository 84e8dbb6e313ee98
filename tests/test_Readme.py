"""What the README and docs/ say holds: code works, commands parse, links lead somewhere, generated pages are fresh."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
import unicodedata
from pathlib import Path

import pytest
import torch

from MLPipeline.Augment import AUGMENTATIONS
from MLPipeline.commands.CommandLine import parse
from MLPipeline.commands.Verbs import VERBS
from MLPipeline.Config import Config
from MLPipeline.Models import find_model, read_model_files
from MLPipeline.Recipes import RECIPES
from tests.docs import PAGE, command_page
from tests.support.paths import ROOT

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in [ROOT / "README.md"]}
PAGES |= {f"docs/{path.name}": path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
TEXT = "\n".join(PAGES.values())
WRITTEN = "\n".join(text for page, text in PAGES.items() if page != "docs/cli.md")  # by hand
COMMANDS = sorted(set(re.findall(r"python Engine\.py([^`\n#]*)", WRITTEN)))
MODULES = sorted(set(re.findall(r"python -m (tests\.[\w.]+)", TEXT)))
LINKS = [(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)]
SOURCES = sorted(set(re.findall(r"`((?:MLPipeline|tests|\.ci)/[\w./]+|[a-z]+/[A-Z]\w+)`", TEXT)))


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def python_code(page: str) -> list[str]:
    """The Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_the_readme_has_its_sections_in_order() -> None:
    assert re.findall(r"^## (.*)$", PAGES["README.md"], re.MULTILINE) == [
        *("Install", "Two commands", "Your data", "What you get", "Use it", "Train further", "Which model"),
        *("How fast", "How far to trust the accuracy", "Change it"),
    ]


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_every_relative_link_leads_somewhere(page: str, link: str) -> None:
    if "://" in link:
        return
    file, _, anchor = link.partition("#")
    target = (ROOT / page).parent / file if file else ROOT / page
    assert target.exists()
    assert not anchor or anchor in anchors(target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_file_that_is_named_exists(name: str) -> None:
    if name.endswith(("X_Model.py", "Tiny_Model.py", "ShowClasses.py")):  # the reader's own
        return
    assert (ROOT / name).exists() or (ROOT / "MLPipeline" / f"{name}.py").exists()


@pytest.mark.parametrize("module", MODULES)
def test_every_module_that_is_run_exists(module: str) -> None:
    assert importlib.util.find_spec(module)


def test_every_page_is_plain_text() -> None:
    for page, text in PAGES.items():
        controls = [sign for sign in text if unicodedata.category(sign) in ("Cc", "Cf") and sign != "\n"]
        assert not controls, page


def test_the_page_of_commands_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == command_page(), "run python -m tests.docs"


def test_the_model_example_is_found_by_its_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = python_code(PAGES["docs/architecture.md"])
    folder = tmp_path / "readme_models"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "Tiny_Model.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = read_model_files(folder)["tiny"]
    model = spec.build(3, int(str(spec.defaults["image_size"])))
    assert model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 3)
    assert spec.defaults.keys() <= {each.name for each in dataclasses.fields(Config)}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str) -> None:
    # A replay reads its file at once; there is no such run here.
    verb, config = parse([] if "--config" in command else shlex.split(command.replace("MODEL", "cnn")))
    assert verb in VERBS
    assert config.model in (None, "tiny") or find_model(config.model)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 10 and len(LINKS) >= 10 and len(SOURCES) >= 8 and len(MODULES) >= 5


def test_every_augmentation_and_recipe_is_in_the_page_on_training() -> None:
    page = PAGES["docs/training.md"]
    row = next(line for line in page.splitlines() if line.startswith("| `--augment "))
    assert set(re.findall(r"[a-z]+", ",".join(re.findall(r"`([a-z,]+|--augment [a-z,]+)`", row)))) >= set(AUGMENTATIONS)
    assert set(re.findall(r"^\| `([a-z0-9]+)`", page.partition("| `--recipe`")[2], re.MULTILINE)) >= {
        name for name in RECIPES if "-" not in name
    }


def test_the_help_names_what_there_is() -> None:
    helps = {each.name: each.metadata["help"] for each in dataclasses.fields(Config)}
    recipes = re.split(", | or ", helps["recipe"].removeprefix("a set of flags: ").removesuffix(" (none)"))
    (augmentations,) = re.findall(r"[a-z]+(?:,[a-z]+)+", helps["augment"])
    assert set(recipes) == set(RECIPES) and set(augmentations.split(",")) <= set(AUGMENTATIONS)
