"""Keeps `torch._dynamo` from being loaded before something is compiled: 1.4 s of every command, for most never needed.

torchvision's operators ask it for one function that they call when they compile, and every optimizer tells it at every
step that the graph of a compilation, if there is one, breaks here. Until somebody wants more of it than that, a
stand-in answers for it; then the real one is loaded, and takes its place.
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
    """Have `torch._dynamo` loaded when it is needed. To be called before torch is imported; later it does nothing."""
    if "torch" in sys.modules:
        return
    dynamo, utils = _StandIn(_DYNAMO), _StandIn(_UTILS)
    dynamo.__dict__.update(__path__=[], utils=utils, graph_break=_nothing_to_break, disable=_nothing_to_disable)
    utils.__dict__.update(is_compile_supported=_is_compile_supported)
    sys.modules |= {_DYNAMO: dynamo, _UTILS: utils}
    sys.meta_path.insert(0, _Submodules())


class _StandIn(ModuleType):
    """A module that loads the real one when asked for what it has not."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system and inspect look for these everywhere
            raise AttributeError(name)
        return getattr(_load(self.__name__), name)


class _Submodules(MetaPathFinder, Loader):
    """Finds the modules in `torch._dynamo` while the stand-in, which is not a folder, is in its place."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return where the module is, which by then is loaded with all of the real package."""
        if not name.startswith(f"{_DYNAMO}."):
            return None
        module = _load(name)
        del sys.modules[name]  # or it would be executed once more; it is put back after `create_module`
        return ModuleSpec(name, self, loader_state=(module, module.__spec__))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the loaded module."""
        return spec.loader_state[0]

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it was before the import system gave it this loader's spec."""
        if module.__spec__ is not None and module.__spec__.loader is self:  # torch's settings let nobody change them
            module.__spec__ = module.__spec__.loader_state[1]


def _load(name: str) -> ModuleType:
    """Return the real module after taking what stands in for it out of its way."""
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
