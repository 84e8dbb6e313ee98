"""torch's compiler is loaded when something is compiled, and not before; each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

POSTPONED = "from MLPipeline.console.PostponeDynamo import postpone_dynamo; postpone_dynamo()\n"
IS_LOADED = "print('torch._dynamo.eval_frame' in sys.modules)\n"


def output_of(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_whole_run_does_without_it_and_pandas_and_leaves_figures_to_the_process_that_draws(tmp_path: Path) -> None:
    flags = f"['--model', 'cnn', '--epochs', '1', '--output', {str(tmp_path)!r}]"
    loaded = "print('matplotlib' in sys.modules, 'pandas' in sys.modules)"
    code = f"import Engine; print('exit', Engine.main({flags}))\n{IS_LOADED}{loaded}"
    assert output_of(code)[-5:] == ["exit", "0", "False", "False", "False"]


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
    print("AttributeError")
"""
NO_SUCH_FILE = f"""
try:
    import torch._dynamo.no_such_file
except ModuleNotFoundError as error:
    print(error.name)
{IS_LOADED}
"""
# Each way is asked in a child process of one that has torch, but not its compiler: torch is imported once for all.
FORKED = """
import os, torch, torchvision
for code in {codes!r}:
    sys.stdout.flush()
    if not os.fork():
        exec(code)
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0, code
    print(";")
"""


def outcomes_of(codes: list[str]) -> list[list[str]]:
    parts = " ".join(output_of(POSTPONED + FORKED.format(codes=codes))).split(";")
    return [part.split() for part in parts[:-1]]


def test_every_way_to_import_leads_to_the_one_real_module() -> None:
    ways = [
        "import torch._dynamo.config as found",
        "import torch\nfound = torch._dynamo.config",
        "from torch._dynamo.utils import counters\nfrom torch._dynamo import config as found",
    ]
    *outcomes, nowhere = outcomes_of([*(f"{way}\n{ONE_REAL_MODULE}" for way in ways), NO_SUCH_FILE])
    assert outcomes == [["True", "True", "True", "False", "AttributeError"]] * len(ways)
    assert nowhere == ["torch._dynamo.no_such_file", "True"]


SHAPES = """
from MLPipeline.Models import WithoutMemory
print('torch._decomp' in sys.modules)
with WithoutMemory():
    print(torch.roll(torch.ones(2, 3), 1).shape == (2, 3), 'torch._decomp' in sys.modules)
"""
EXPORTED = """
program = torch.export.export(torch.nn.Conv2d(3, 4, 3), (torch.zeros(1, 3, 8, 8),))
print(torch.equal(program.module()(torch.ones(1, 3, 8, 8)).isfinite().all(), torch.tensor(True)))
print(torch._meta_registrations.__name__, 'torch._decomp' in sys.modules)
"""


def test_shapes_of_results_are_loaded_when_they_are_needed() -> None:
    assert outcomes_of([SHAPES, EXPORTED]) == [
        ["False", "True", "True"],
        ["True", "torch._meta_registrations", "True"],
    ]


def test_it_may_be_asked_for_before_torch_is_imported() -> None:
    outcome = output_of(f"{POSTPONED}from torch._dynamo import config as found\n{ONE_REAL_MODULE}")
    assert outcome == ["True", "True", "True", "False", "AttributeError"]


def test_if_torch_is_imported_already_nothing_is_replaced() -> None:
    assert output_of(f"import torch\n{POSTPONED}import torch._dynamo\n{IS_LOADED}") == ["True"]
