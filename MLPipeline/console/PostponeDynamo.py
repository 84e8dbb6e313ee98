"""Delays the import of `torch._dynamo` until something is compiled: it takes 1.4 s, and most commands never need it.

torchvision's operators import one function from it that they call when compiling, and every optimizer step calls
`graph_break`. A stand-in module provides these functions; when anything else is requested, the real module is loaded
and replaces it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_DYNAMO, _UTILS = "torch._dynamo", "torch._dynamo.utils"


def postpone_dynamo() -> None:
    """Delay the import of `torch._dynamo`. Call it before torch is imported; afterwards it does nothing."""
    if "torch" in sys.modules:
        return
    dynamo, utils = _StandIn(_DYNAMO), _StandIn(_UTILS)
    dynamo.__dict__.update(__path__=[], utils=utils, graph_break=_nothing_to_break, disable=_nothing_to_disable)
    utils.__dict__.update(is_compile_supported=_is_compile_supported)
    sys.modules |= {_DYNAMO: dynamo, _UTILS: utils}
    sys.meta_path.insert(0, _Submodules())


class _StandIn(ModuleType):
    """A module that loads the real one when an attribute is missing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system and inspect look for these everywhere
            raise AttributeError(name)
        return getattr(_load(self.__name__), name)


class _Submodules(MetaPathFinder, Loader):
    """Finds the submodules of `torch._dynamo` while the stand-in, which is not a package, is in its place."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of the module, after loading the real package."""
        if not name.startswith(f"{_DYNAMO}."):
            return None
        module = _load(name)
        del sys.modules[name]  # else it would be executed again; it is restored after `create_module`
        return ModuleSpec(name, self, loader_state=(module, module.__spec__))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the loaded module."""
        return spec.loader_state[0]

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec, which the import system has replaced by this loader's."""
        if (
            module.__spec__ is not None and module.__spec__.loader is self
        ):  # torch's configuration modules refuse assignments
            module.__spec__ = module.__spec__.loader_state[1]


def _load(name: str) -> ModuleType:
    """Return the real module after removing the stand-ins."""
    for each in (_DYNAMO, _UTILS):
        if isinstance(sys.modules.get(each), _StandIn):
            del sys.modules[each]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Submodules)]
    return importlib.import_module(name)


def _nothing_to_break(*_: object) -> None:
    vars(sys.modules["torch"]).setdefault("_dynamo", sys.modules[_DYNAMO])  # torch looks it up at every step: 40 us


def _nothing_to_disable(function: Callable[..., Any], *_: object, **__: object) -> Callable[..., Any]:
    return function


def _is_compile_supported(device_type: str) -> bool:
    return _load(_UTILS).is_compile_supported(device_type)
