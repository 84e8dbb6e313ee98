"""When the command began: the total time of a run includes the start of Python and all imports."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_START_FIELD = 19  # of /proc/self/stat behind the name: clock ticks from boot to the start of the process (man proc)
_LONGEST_START = 120.0  # seconds: in a container the clock of the system may be another one


@dataclass
class Clock:
    """The beginning of the command that this process runs."""

    start: float  # by time.perf_counter


def start_of_process() -> float:
    """Return when this process started, by `time.perf_counter`; now, where the system does not say (not on Linux)."""
    now = time.perf_counter()
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return now - age if 0 <= age <= _LONGEST_START else now


clock = Clock(time.perf_counter())
