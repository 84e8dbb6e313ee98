"""The check of the user's own machine: what it prints, how it fails, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from MLPipeline.commands import SelfTest, SelfTestProcess
from MLPipeline.Errors import ResourceError
from tests.support.harness import refuse, run, succeed
from tests.support.paths import ROOT


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files, which is empty."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return `only(names)`, which leaves out all other checks."""

    def choose(*names: str) -> None:
        monkeypatch.setattr(SelfTest, "_CHECKS", {name: SelfTest._CHECKS[name] for name in names})

    return choose


def answer(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    """Let the process answer each request with a value, without being started."""
    monkeypatch.setattr(SelfTestProcess.SelfTestProcess, "call", lambda self, name, *arguments: values[name])


@pytest.mark.slow
def test_all_checks_pass_here_and_nothing_is_left(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SelfTest.shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * 10**9))
    outcome = succeed(["selftest", "--device", "cpu", "--output", tmp_path / "output"])
    lines = outcome.out.splitlines()
    assert lines[0].startswith("machine  ") and lines[-1].startswith("result   all checks passed, ")
    found = {line.split()[1]: line.split()[0] for line in lines[1:-1]}
    assert found.keys() == SelfTest._CHECKS.keys() and set(found.values()) <= {"ok", "skipped"}
    always = {"disk", "memory", "reading", "training", "resuming", "cache", "prediction"}
    assert {name for name, word in found.items() if word == "ok"} >= always
    assert not list(temporary.iterdir()) and not (tmp_path / "output").exists()


def test_a_check_that_fails_is_named_and_the_others_are_made(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: Callable[..., None]
) -> None:
    only("reading", "training", "ranks", "gpu")
    failed = [2, "", "note: x\nerror: Data: is empty. Fill it\n"]
    answer(monkeypatch, colours=[[200, 40, 40]] * 3 + [[40, 40, 200]] * 4, command=failed, ranks=False, devices={})
    outcome = refuse(["selftest", "--output", tmp_path], 3, "selftest: 2 of 4 checks failed")
    assert "FAILED   reading     BMP files are read with wrong colours. Reinstall" in outcome.out
    assert "FAILED   training    --model exited with code 2: Data: is empty. Fill it. Put that right" in outcome.out
    assert "skipped  ranks       this build of torch has no torch.distributed" in outcome.out
    assert "skipped  gpu         torch finds none here" in outcome.out
    assert "result" not in outcome.out and not list(temporary.iterdir())


@pytest.mark.parametrize(("difference", "word"), [(0.004, "ok"), (0.3, "FAILED"), (float("nan"), "FAILED")])
def test_a_gpu_must_give_the_answers_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: Callable[..., None], difference: float, word: str
) -> None:
    """There is no GPU here: the answers of both devices are made up."""

    def call(self: object, name: str, argv: list[str] = (), stops: bool = False) -> Any:
        if name == "devices":
            return {"cuda": "Some GPU"}
        table, device = (argv[argv.index(flag) + 1] for flag in ("--csv", "--device"))
        confidence = 0.9 if device == "cpu" else 0.9 - difference
        Path(table).write_text(f"path,confidence\na.png,0.5\nb.png,{confidence}\n")
        return [0, "", ""]

    only("gpu")
    monkeypatch.setattr(SelfTestProcess.SelfTestProcess, "call", call)
    outcome = run(["selftest", "--output", tmp_path])
    assert outcome.code == (0 if word == "ok" else 3)
    (line,) = [line for line in outcome.out.splitlines() if "Some GPU" in line]
    assert line.startswith(f"{word:7}  gpu ") and ("largest difference 0.0040" in line) == (word == "ok")


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: Callable[..., None]) -> None:
    only("disk")
    monkeypatch.setattr(SelfTest, "_FREE_GB", 1e9)
    outcome = refuse(["selftest", "--output", tmp_path / "new"], 3, "1 of 1 checks failed")
    assert re.search(rf"FAILED   disk        only [\d.]+ GB are free in {tmp_path}\. Free space", outcome.out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by signal 9"),
        ("import sys; sys.exit(7)", "ended with code 7"),
        ("import time; time.sleep(60)", "ended by signal 9"),
    ],
    ids=["crash", "exit", "hang"],
)
def test_a_process_that_crashes_or_hangs_is_a_failed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: Callable[..., None], script: str, words: str
) -> None:
    only("memory")
    monkeypatch.setattr(SelfTestProcess, "_SERVE", script)
    monkeypatch.setattr(SelfTestProcess, "_TIMEOUT_S", 0.5)
    outcome = refuse(["selftest", "--output", tmp_path], 3, "1 of 1 checks failed")
    assert "FAILED   memory" in outcome.out and words in outcome.out


def test_requests_are_answered_with_a_value_or_an_error() -> None:
    def main(argv: list[str]) -> int:
        sys.stdout.write("    1   0.5\n" if argv == ["stop"] else "said\n")
        return 5

    assert SelfTestProcess._answer(main, "command", [["x"], False]) == ([5, "said\n", ""], None)
    value, error = SelfTestProcess._answer(main, "colours", [["/nowhere.png"]])
    assert value is None and error is not None and "UnreadableImage" in error[0]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            SelfTestProcess._answer(main, "command", [["stop"], True])
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_of_the_process_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'import sys; sys.stdin.readline(); print(\'[null, ["ValueError: x", "Report it"]]\', flush=True)'
    monkeypatch.setattr(SelfTestProcess, "_SERVE", script)
    with SelfTestProcess.SelfTestProcess() as process, pytest.raises(ResourceError, match="ValueError: x. Report it"):
        process.call("memory")


def test_ctrl_c_leaves_nothing_behind(temporary: Path, tmp_path: Path) -> None:
    argv = [sys.executable, ROOT / "Engine.py", "selftest", "--device", "cpu", "--output", tmp_path / "output"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("ok       reading") for line in lines)  # training begins now
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        own = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and process.stderr.read() == ""
    assert not list(temporary.iterdir())
    assert not [pid for pid in own if os.path.exists(f"/proc/{pid}")]
