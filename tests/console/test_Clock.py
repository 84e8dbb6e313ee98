"""The clock of a command starts with its process, not when the pipeline gets to it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from MLPipeline.console import Clock
from tests.support.paths import ROOT

SLEEP_FIRST = (
    "import time; time.sleep(0.6)\n"
    "from MLPipeline.console.Clock import start_of_process\n"
    "print(time.perf_counter() - start_of_process())"
)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says when a process started")
def test_what_happens_before_the_import_counts() -> None:
    done = subprocess.run([sys.executable, "-c", SLEEP_FIRST], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) >= 0.6


def test_where_the_system_does_not_say_the_clock_starts_now(monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.perf_counter()
    monkeypatch.setattr(Clock, "_START_FIELD", 999)
    assert before <= Clock.start_of_process() <= time.perf_counter()
