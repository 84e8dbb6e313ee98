"""torch's compiler is loaded when something is compiled, not before; each case in a process that has no torch yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

POSTPONED = "from MLPipeline.console.PostponeDynamo import postpone_dynamo; postpone_dynamo()\n"
IS_LOADED = "print('torch._dynamo.eval_frame' in sys.modules)\n"


def output_of(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_whole_run_does_without_it_and_leaves_figures_to_the_process_that_draws(tmp_path: Path) -> None:
    flags = f"['--model', 'cnn', '--epochs', '1', '--output', {str(tmp_path)!r}]"
    code = f"import Engine; print('exit', Engine.main({flags}))\n{IS_LOADED}print('matplotlib.figure' in sys.modules)"
    assert output_of(code)[-4:] == ["exit", "0", "False", "False"]


STEP = """
import torch
weight = torch.nn.Parameter(torch.tensor([1.0]))
optimizer = torch.optim.SGD([weight], lr=0.5)
def step():
    optimizer.zero_grad()
    (3 * weight).sum().backward()
    optimizer.step()
step()
"""
COMPILE = """
from torch._dynamo.utils import is_compile_supported
print(torch.compile(lambda number: 2 * number, backend='eager')(torch.tensor(4)).item())
print(is_compile_supported("cpu") == torch._dynamo.utils.is_compile_supported("cpu"), is_compile_supported("meta"))
step()
"""


def test_optimizers_step_without_and_with_it() -> None:
    code = f"{POSTPONED}{STEP}{IS_LOADED}{COMPILE}{IS_LOADED}print(weight.item())"
    assert output_of(code) == ["False", "8", "True", "False", "True", "-2.0"]


ONE_REAL_MODULE = """
import torch._dynamo, torch._dynamo.utils
print(found is sys.modules["torch._dynamo.config"] is torch._dynamo.config is torch._dynamo.eval_frame.config)
print(found.__spec__.origin == found.__file__, sys.modules["torch._dynamo"] is torch._dynamo)
print(any("PostponeDynamo" in type(each).__module__ for each in [*sys.meta_path, torch._dynamo, torch._dynamo.utils]))
try:
    torch._dynamo.no_such_name
except AttributeError:
    print("an error as ever")
"""


@pytest.mark.parametrize(
    "asked",
    [
        "import torch._dynamo.config as found",
        "import torch\nfound = torch._dynamo.config",
        "import torchvision\nfrom torch._dynamo import config as found",
        "from torch._dynamo.utils import counters\nfrom torch._dynamo import config as found",
    ],
)
def test_every_way_to_ask_leads_to_the_one_real_module(asked: str) -> None:
    outcome = output_of(f"{POSTPONED}{asked}\n{ONE_REAL_MODULE}")
    assert outcome == ["True", "True", "True", "False", "an", "error", "as", "ever"]


def test_a_file_that_is_nowhere_is_an_error_as_ever() -> None:
    code = "try:\n import torch._dynamo.no_such_file\nexcept ModuleNotFoundError as error:\n print(error.name)\n"
    assert output_of(f"{POSTPONED}{code}{IS_LOADED}") == ["torch._dynamo.no_such_file", "True"]


def test_where_torch_is_there_already_nothing_is_replaced() -> None:
    assert output_of(f"import torch\n{POSTPONED}import torch._dynamo\n{IS_LOADED}") == ["True"]
