"""The environment of a run: package versions, machine, command line."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from MLPipeline.files.Machine import memory_bytes, num_cores

_PACKAGES = ("torch", "torchvision", "opencv-python-headless", "numpy", "pandas", "matplotlib")


@functools.cache
def package_versions() -> Mapping[str, str | None]:
    """Return the installed version of each package that results depend on; None if it has another name."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # such as opencv-python
            versions[name] = None
    return versions


def environment() -> dict[str, object]:
    """Return the content of `environment.json`."""
    import torch  # imported here: --version must not wait for it

    has_gpu, memory = torch.cuda.is_available(), memory_bytes()
    return {
        "python": platform.python_version(),
        **package_versions(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": num_cores(),
        "memory_gb": round(memory / 1e9, 1) if memory else None,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if has_gpu else None,
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "command": sys.argv,
    }
