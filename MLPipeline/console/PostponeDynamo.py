"""Delays the imports that torch needs only to compile or to export: most commands never do.

`torch._dynamo` takes 1.4 s. torchvision's operators import one function from it that they call when compiling, and
every optimizer step calls `graph_break`. `torch._meta_registrations` takes 0.45 s of the 1.9 s of `import torch`: it
defines, in Python, the shapes of the results of some operators, for tensors without values. It is delayed only with
versions of torch for which the consequences are known.

Stand-in modules provide what is used of both; when anything else is requested, the real modules are loaded and replace
them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_DYNAMO, _UTILS = "torch._dynamo", "torch._dynamo.utils"
_SHAPES = "torch._meta_registrations"
_KNOWN_VERSIONS = ("2.14.",)  # of torch: what else `_SHAPES` and the modules imported by it do is in `_Shapes`


def postpone_dynamo() -> None:
    """Delay the imports. Call it before torch is imported; afterwards it does nothing."""
    if "torch" in sys.modules:
        return
    dynamo, utils = _StandIn(_DYNAMO), _StandIn(_UTILS)
    dynamo.__dict__.update(__path__=[], utils=utils, graph_break=_nothing_to_break, disable=_nothing_to_disable)
    utils.__dict__.update(is_compile_supported=_is_compile_supported)
    sys.modules |= {_DYNAMO: dynamo, _UTILS: utils}
    sys.meta_path.insert(0, _Submodules())
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        if importlib.metadata.version("torch").startswith(_KNOWN_VERSIONS):
            sys.meta_path.insert(0, _Shapes())


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


class _Shapes(MetaPathFinder, Loader):
    """Gives `import torch` a stand-in for the module with the shapes."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for that module only."""
        return ModuleSpec(name, self) if name == _SHAPES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the stand-in."""
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do what `torch._prims.rng_prims` does besides defining operators: without it torch.Generator() fails."""
        from torch._C import _set_generator_metaclass
        from torch._custom_class_base import CustomClassBaseMeta

        _set_generator_metaclass(CustomClassBaseMeta)


def _load(name: str) -> ModuleType:
    """Return the real module after removing the stand-ins; the compiler requires all shapes."""
    for each in (_DYNAMO, _UTILS, _SHAPES):
        if isinstance(sys.modules.get(each), _StandIn):
            del sys.modules[each]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, (_Submodules, _Shapes))]
    importlib.import_module(_SHAPES)
    return importlib.import_module(name)


def _nothing_to_break(*_: object) -> None:
    vars(sys.modules["torch"]).setdefault("_dynamo", sys.modules[_DYNAMO])  # torch looks it up at every step: 40 us


def _nothing_to_disable(function: Callable[..., Any], *_: object, **__: object) -> Callable[..., Any]:
    return function


def _is_compile_supported(device_type: str) -> bool:
    return _load(_UTILS).is_compile_supported(device_type)
