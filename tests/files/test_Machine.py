"""Cores and memory of a container, by the files of control groups of both versions, and what the limits lead to."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from MLPipeline.Errors import ResourceError
from MLPipeline.files import Cache, Machine
from MLPipeline.files.Cache import RowStore, default_limit_gb, has_room
from MLPipeline.files.Machine import container_memory, memory_bytes, num_cores, require_address_space, require_memory
from tests.support.paths import ROOT

GB, MB = 2**30, 2**20
MACHINE = {"proc/meminfo": f"MemFree: 1 kB\nMemTotal:       {16 * GB // 1024} kB\n"}
NO_LIMIT_V1 = "9223372036854771712"


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write the files of a made-up system of 16 GB."""
    for name, text in (MACHINE | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def v2(group: str, **files: str) -> dict[str, str]:
    folder = f"sys/fs/cgroup/{group}".rstrip("/")
    return {f"{folder}/{name.replace('_', '.', 1)}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "memory", "cores"),
    [
        ({}, None, 8),
        ({"proc/self/cgroup": "0::/\n"}, None, 8),
        ({"proc/self/cgroup": "0::/\n"} | v2("", memory_max=f"{2 * GB}\n", cpu_max="200000 100000\n"), 2 * GB, 2),
        ({"proc/self/cgroup": "0::/\n"} | v2("", memory_max="max\n", cpu_max="max 100000\n"), None, 8),
        ({"proc/self/cgroup": "0::/\n"} | v2("", memory_max="max", memory_high=str(GB)), GB, 8),
        ({"proc/self/cgroup": "0::/\n"} | v2("", memory_max=str(3 * GB), memory_high=str(4 * GB)), 3 * GB, 8),
        ({"proc/self/cgroup": "0::/\n"} | v2("", cpu_max="150000 100000"), None, 2),  # 1.5 cores
        ({"proc/self/cgroup": "0::/\n"} | v2("", cpu_max="5000 100000"), None, 1),
        ({"proc/self/cgroup": "0::/\n"} | v2("", cpu_max="6400000 100000"), None, 8),  # more than there are
        ({"proc/self/cgroup": "0::/\n"} | v2("", memory_max=str(64 * GB)), None, 8),  # more than there is
        (  # a group below another one: the smaller limit holds, wherever it is
            {"proc/self/cgroup": "0::/slurm/job_7/step_0\n"}
            | v2("slurm/job_7", memory_max=str(GB), cpu_max="400000 100000")
            | v2("slurm/job_7/step_0", memory_max="max", cpu_max="300000 100000"),
            GB,
            3,
        ),
        ({"proc/self/cgroup": "0::/of/the/host\n"} | v2("", memory_max=str(GB)), GB, 8),
        ({"proc/self/cgroup": "0::/../../x\n"} | v2("", memory_max=str(GB)), GB, 8),
        (
            {
                "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GB}\n",  # the host's path does not exist here
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2 * GB,
            3,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu:/docker\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1,
                "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": str(GB),
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            GB,
            8,
        ),
        ({"proc/self/cgroup": "nonsense\n::\n", "sys/fs/cgroup/memory.max": "many"}, None, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1 0"}, None, 8),
    ],
)
def test_what_a_container_has(tmp_path: Path, files: dict[str, str], memory: int | None, cores: int) -> None:
    root = tree(tmp_path, files)
    assert (container_memory(root), num_cores(root)) == (memory, cores)
    assert memory_bytes(root) == (memory or 16 * GB)


def test_the_cores_that_this_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5})
    assert num_cores(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert num_cores(tmp_path) == 4
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert num_cores(tmp_path) == 1


def test_this_machine_states_its_memory() -> None:
    memory = memory_bytes()
    assert memory is not None and 2**28 < memory <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + GB


@pytest.mark.parametrize(("memory", "limit"), [(None, 20.0), (4 * 10**9, 4.0), (64 * 10**9, 20.0)])
def test_the_cache_follows_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int | None, limit: float
) -> None:
    monkeypatch.setattr(Cache, "container_memory", lambda: memory)
    monkeypatch.setattr(Cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * 10**9))
    assert default_limit_gb() == limit
    store = RowStore(tmp_path, "pixels", "x", (1000,), Cache.np.dtype("u1"))
    assert has_room(tmp_path, store, 3 * 10**6, None) and not has_room(tmp_path, store, 21 * 10**6, None)
    assert has_room(tmp_path, store, 5 * 10**6, None) == (limit > 5)
    assert has_room(tmp_path, store, 5 * 10**6, 6.0)  # what the user states holds


@pytest.mark.parametrize(
    ("limit", "container", "said"),
    [
        (None, None, ""),
        (8 * GB, 4 * GB, ""),
        (300 * MB, None, "ulimit -v allows 300 MB, of which the libraries need 598. Raise the limit: ulimit -v"),
        (None, 100 * MB, "the container has 100 MB, of which the libraries need 150. Give the container more memory"),
    ],
)
def test_limits_too_small_for_the_libraries(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, container: int | None, said: str
) -> None:
    monkeypatch.setattr(Machine, "_address_space", lambda: limit)
    monkeypatch.setattr(Machine, "container_memory", lambda: container)
    monkeypatch.setattr(Machine, "num_cores", lambda: 8)
    if not said:
        return require_memory()
    with pytest.raises(ResourceError, match=f"out of memory: {said}"):
        require_memory()


def test_address_space_for_the_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(Machine, "_address_space", lambda: used + 900 * MB)
    with pytest.raises(ResourceError, match=r"ulimit -v leaves [89]\d\d MB of address .* Raise the limit by [234]"):
        require_address_space()
    monkeypatch.setattr(Machine, "_address_space", lambda: used + 2000 * MB)
    require_address_space()


def test_allocations_beyond_the_container_fail_instead_of_being_killed() -> None:
    script = """if True:
        import resource
        from MLPipeline.files import Machine
        Machine.container_memory = lambda: 2**28
        Machine.limit_allocations()
        kept = bytearray(2**27)
        try:
            bytearray(2**28)
        except MemoryError:
            print("MemoryError")
        Machine.container_memory = lambda: 2**29
        Machine.limit_allocations()
        print(len(bytearray(2**28)))
        resource.setrlimit(resource.RLIMIT_DATA, (2**26, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        Machine.limit_allocations()
        print(resource.getrlimit(resource.RLIMIT_DATA)[0] == 2**26)  # a lower limit stays
    """
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, f"MemoryError\n{2**28}\nTrue\n"), ended.stderr


def test_without_a_container_nothing_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "container_memory", lambda: None)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    Machine.limit_allocations()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
