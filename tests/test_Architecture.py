"""The rules that keep the whole readable: who may import whom, how long things may be, and what is never written."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# The rooms from the ground up: a folder, or files of the root that belong together. A file imports from its own
# room and from those before it in this list, never from a later one.
ROOMS = (
    "Errors",
    "distributed",
    "files",
    "Config Recipes",
    "decoding",
    "images",
    "Device",
    "onednn",
    "augmentation",
    "Augment",
    "Classifier Head Models *_Model Weights",
    "CreateDataset",
    "scoring",
    "Checkpoint",
    "frozen",
    "Features",
    "similarity",
    "training",
    "Train",
    "Evaluate",
    "heads",
    "tuning",
    "choosing",
    "report",
    "audit",
    "advice",
    "console",
    "Predict",
    "serve",
    "labelling",
    "export",
    "steps",
    "commands",
    "Engine",
)
ROOM_OF = {name: number for number, names in enumerate(ROOMS) for name in names.split()}

MAX_ROOT_FILES = 21  # the pipeline, and nothing else
MAX_LINES, MAX_FUNCTION_LINES = 400, 40
SHORT = {"Engine": 250, "Train": 250}  # the two that grow by themselves where no one looks


@cache
def source_files() -> dict[str, Path]:
    """Every file of the product but the packages' `__init__.py`: `files/Cache` -> its path."""
    files = {
        path.relative_to(ROOT / "MLPipeline").with_suffix("").as_posix(): path
        for path in sorted((ROOT / "MLPipeline").rglob("*.py"))
        if path.name != "__init__.py"
    }
    return files | {"Engine": ROOT / "Engine.py"}


EVERY_FILE = pytest.mark.parametrize("name", source_files())


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(source_files()[name].read_text(encoding="utf-8"))


def nodes(name: str, *kinds: type[ast.AST]) -> list:
    return [node for node in ast.walk(tree_of(name)) if isinstance(node, kinds)]


def functions(name: str) -> list[ast.FunctionDef]:
    return nodes(name, ast.FunctionDef, ast.AsyncFunctionDef)


def public(name: str) -> list[ast.FunctionDef | ast.ClassDef]:
    """The functions, classes and methods that others may use."""
    found = []
    for node in tree_of(name).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            inner = node.body if isinstance(node, ast.ClassDef) else []
            found += [node, *(f for f in inner if isinstance(f, ast.FunctionDef) and not f.name.startswith("_"))]
    return found


def room_of(name: str) -> int:
    room = name.split("/")[0] if "/" in name else "*_Model" if name.endswith("_Model") else name
    assert room in ROOM_OF, f"{name} lies in no room of ROOMS yet"
    return ROOM_OF[room]


def our_imports(name: str) -> list[str]:
    modules = [node.module or "" for node in nodes(name, ast.ImportFrom)]
    return [module.removeprefix("MLPipeline.").replace(".", "/") for module in modules if module.startswith("MLPip")]


@EVERY_FILE
def test_a_file_imports_only_from_its_own_room_and_those_before(name: str) -> None:
    own = room_of(name)
    assert [other for other in our_imports(name) if room_of(other) > own] == []


def test_no_files_import_each_other_in_a_circle() -> None:
    left = {name: set(our_imports(name)) for name in source_files()}
    while ready := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in ready:
            del left[name]
    assert left == {}, "these files import each other"


def test_every_room_has_files() -> None:
    folders = {name.split("/")[0] for name in source_files() if "/" in name}
    files = {"*_Model" if name.endswith("_Model") else name for name in source_files() if "/" not in name}
    assert set(ROOM_OF) == folders | files


def test_the_root_holds_the_pipeline_and_nothing_else() -> None:
    assert len([name for name in source_files() if "/" not in name and name != "Engine"]) <= MAX_ROOT_FILES


@EVERY_FILE
def test_our_files_are_imported_in_one_way(name: str) -> None:
    for node in nodes(name, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative import"
        assert all(alias.name != "*" for alias in node.names), f"line {node.lineno}: star import"
        if (node.module or "").split(".")[0] == "MLPipeline":
            imported = node.module.removeprefix("MLPipeline.").replace(".", "/")
            assert imported in source_files(), f"line {node.lineno}: not `from MLPipeline.x.Y import name`"
    whole = [alias.name for node in nodes(name, ast.Import) for alias in node.names]
    assert not [module for module in whole if module.split(".")[0] in ("MLPipeline", "Engine")]


def test_only_tests_import_the_engine() -> None:
    importers = [name for name in source_files() for n in nodes(name, ast.ImportFrom) if n.module == "Engine"]
    assert not importers


def test_package_files_hold_a_docstring_and_nothing_else() -> None:
    for path in (ROOT / "MLPipeline").rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        text = ast.get_docstring(ast.Module(body, [])) or ""
        assert len(body) == 1 and len(text.splitlines()) == 1, f"{path}: one line says what the room is for"


@EVERY_FILE
def test_files_and_functions_are_short(name: str) -> None:
    num_lines = len(source_files()[name].read_text(encoding="utf-8").splitlines())
    assert num_lines <= SHORT.get(name, MAX_LINES)
    lengths = {function.name: function.end_lineno - function.lineno + 1 for function in functions(name)}
    assert {n: length for n, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@EVERY_FILE
def test_all_that_is_public_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(tree_of(name)), "no docstring of the file"
    assert [node.name for node in public(name) if not ast.get_docstring(node)] == []


@EVERY_FILE
def test_every_function_is_fully_annotated(name: str) -> None:
    for function in functions(name):
        given = function.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        bare = [a.arg for a in arguments if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare and function.returns is not None, f"{function.name} {bare}"


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Every call in a file with its function's last name: `imread` for `cv2.imread(...)`."""
    return [(getattr(n.func, "attr", getattr(n.func, "id", "")), n) for n in nodes(name, ast.Call)]


@EVERY_FILE
def test_nothing_is_called_that_bit_others(name: str) -> None:
    for function, call in calls(name):
        assert function not in {"print", "eval", "exec", "__import__", "imwrite", "VideoCapture"} or (
            function == "eval" and isinstance(call.func, ast.Attribute)  # model.eval()
        ), f"line {call.lineno}: {function}"
        # cv2.imread dies on names that are not UTF-8; an earlier pipeline gave it COLOR_BGR2RGB as a flag.
        assert function != "imread", f"line {call.lineno}: ReadImage decodes bytes"
        if function == "load" and ast.unparse(call.func) == "torch.load":
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert keywords.get("weights_only") == "True", f"line {call.lineno}: a pickle may run any code"
        if function == "say":
            assert "\\n" not in ast.unparse(call), f"line {call.lineno}: say() is one line; it escapes line ends"


def test_only_one_file_imports_opencv() -> None:
    """The pixel limit counts only if it is set before the first import, which OpenCv.py sees to."""
    importers = {name for name in source_files() for n in nodes(name, ast.Import) if n.names[0].name == "cv2"}
    importers |= {name for name in source_files() for n in nodes(name, ast.ImportFrom) if n.module == "cv2"}
    assert importers == {"decoding/OpenCv", "export/StandaloneReader"}  # the latter runs without this project


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import contextlib, io, sys\n"
        "import Engine\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    Engine.main(['--help'])\n"
        "print(*sorted({'torch', 'torchvision', 'cv2', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
