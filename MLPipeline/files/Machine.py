"""The cores and the memory that this process may use: those of the machine, of its container, and of its limits.

A container (Docker, Kubernetes, Slurm) limits both with control groups, of version 2 (`memory.max`, `memory.high`,
`cpu.max`) or 1. A group lies below others, whose limits hold as well. Neither `os.cpu_count` nor the total memory that
the system states takes them into account.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from MLPipeline.Errors import ResourceError

_ROOT = Path("/")
_GROUPS = Path("sys/fs/cgroup")  # below the root
_MB = 2**20
_LEAST_MB, _LEAST_MB_PER_CORE = 150, 64  # below, NumPy's library ends the process instead of raising an error
_own_limits: set[int] = set()  # that `limit_allocations` has set, of which a later call may set a higher one
_LEAST_LEFT_MB = 1200  # of address space: with less, oneDNN crashes in the first batch of ResNet18


def num_cores(root: Path = _ROOT) -> int:
    """Return the number of cores that this process may use, at least 1; part of a core counts as one."""
    cores = os.cpu_count() or 1
    with contextlib.suppress(AttributeError):  # not on macOS and Windows
        cores = len(os.sched_getaffinity(0))
    shares = [math.ceil(share) for share in _cpu_shares(root)]
    return max(1, min([cores, *shares]))


def memory_bytes(root: Path = _ROOT) -> int | None:
    """Return the memory that this process may use, in bytes; None if the system does not state it."""
    stated = [limit for limit in (_total_memory(root), container_memory(root)) if limit]
    return min(stated, default=None)


def container_memory(root: Path = _ROOT) -> int | None:
    """Return the memory limit of the container in bytes; None without one."""
    limits = [int(text) for text in _memory_limits(root) if text.isdecimal()]
    total = _total_memory(root) or math.inf
    return min((limit for limit in limits if 0 < limit < total), default=None)  # version 1 has 2**63 for "no limit"


def require_memory() -> None:
    """Check that the limits of this process leave memory for Python's libraries.

    Raises:
        ResourceError: they do not.
    """
    least = (_LEAST_MB + _LEAST_MB_PER_CORE * (num_cores() - 1)) * _MB
    address_space, container = _address_space(), container_memory()
    if address_space is not None and address_space < least:
        what = f"out of memory: ulimit -v allows {address_space // _MB} MB, of which the libraries need {least // _MB}"
        raise ResourceError(what, "Raise the limit: ulimit -v unlimited")
    if container is not None and container < _LEAST_MB * _MB:
        what = f"out of memory: the container has {container // _MB} MB, of which the libraries need {_LEAST_MB}"
        raise ResourceError(what, "Give the container more memory")


def require_address_space() -> None:
    """Check that `ulimit -v`, if set, leaves address space for the computation, once the libraries are loaded.

    Raises:
        ResourceError: it does not. Libraries crash where an allocation fails, so this is checked beforehand.
    """
    limit = _address_space()
    if limit is None:
        return
    used = int(_read(_ROOT / "proc/self/statm").split(" ")[0] or 0) * os.sysconf("SC_PAGE_SIZE")
    if limit - used < _LEAST_LEFT_MB * _MB:
        what = f"out of memory: ulimit -v leaves {max(0, limit - used) // _MB} MB of address space for the computation"
        raise ResourceError(what, f"Raise the limit by {(_LEAST_LEFT_MB * _MB - limit + used) // _MB + 1} MB")


def limit_allocations() -> None:
    """Let allocations beyond the container's memory fail, so that they can be reported, or retried with less.

    Otherwise the kernel kills a process that exceeds it. The limit that Linux can enforce counts memory when it is
    reserved, not when it is used; what libraries had reserved and not used when this is called is added to it.
    """
    allowed = container_memory()
    if allowed is None:
        return
    status = dict(line.split(":", 1) for line in _read(_ROOT / "proc/self/status").splitlines() if ":" in line)
    with contextlib.suppress(ImportError, AttributeError, KeyError, ValueError, OSError):  # not on Linux
        import resource

        reserved, used = (int(status[name].split()[0]) * 1024 for name in ("VmData", "RssAnon"))
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        given = [each for each in (soft, hard) if each >= 0 and each not in _own_limits]  # -1: no limit
        limit = min([allowed + max(0, reserved - used), *given])
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        _own_limits.add(limit)


def _address_space() -> int | None:
    """Return the limit of the address space in bytes; None without one."""
    try:
        import resource  # not on Windows

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except (ImportError, AttributeError, OSError):
        return None
    return None if limit == resource.RLIM_INFINITY else limit


def _total_memory(root: Path) -> int | None:
    """Return the memory of the machine in bytes."""
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    with contextlib.suppress(AttributeError, ValueError, OSError):  # macOS has no /proc, Windows no sysconf
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _memory_limits(root: Path) -> Iterator[str]:
    for folder in _group_folders(root, ""):
        yield _read(folder / "memory.max")
        yield _read(folder / "memory.high")
    for folder in _group_folders(root, "memory"):
        yield _read(folder / "memory.limit_in_bytes")


def _cpu_shares(root: Path) -> Iterator[float]:
    """Yield the number of cores, such as 1.5, that each group grants."""
    for folder in _group_folders(root, ""):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        yield from _share(quota, period)
    for folder in _group_folders(root, "cpu"):
        yield from _share(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _share(quota: str, period: str) -> Iterator[float]:
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):  # "max" and -1 are no limit
        yield int(quota) / int(period)


def _group_folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of those above it; `controller` is empty for version 2.

    `/proc/self/cgroup` has a line `number:controllers:path` for each hierarchy. Inside a container the path may be that
    on the host, which does not exist here; then the container's own group is the root of the hierarchy.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controller not in controllers.split(","):
            continue
        tops = [root / _GROUPS / controllers, root / _GROUPS / controller] if controller else [root / _GROUPS]
        top = next((each for each in tops if each.is_dir()), None)
        if top is None:
            continue
        below = Path("" if ".." in path else path.strip("/"))
        yield from (top / each for each in (below, *below.parents))


def _read(path: Path) -> str:
    """Return the text of a file of the kernel; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
