"""Finds models by name. To add one, write a file `X_Model.py` in this folder that defines `MODELS`."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from MLPipeline.Classifier import Classifier, ModelSpec
from MLPipeline.Errors import UsageError, did_you_mean

_FOLDER = Path(__file__).parent


def read_model_files(folder: Path) -> dict[str, ModelSpec]:
    """Return the `MODELS` of all files `*_Model.py` of `folder`, an importable package.

    Raises:
        UsageError: a file has no `MODELS`, or two files give a model the same name.
    """
    specs: dict[str, ModelSpec] = {}
    owners: dict[str, str] = {}
    for file, models in _model_files(folder):
        for name in models:
            if name in specs:
                raise UsageError(f"{file}: {name!r} is already a model of {owners[name]}", "Rename one of the two")
            owners[name] = file.name
        specs |= models
    return specs


def _model_files(folder: Path) -> Iterator[tuple[Path, dict[str, ModelSpec]]]:
    """Yield each model file with its `MODELS`; a file is imported when its turn comes."""
    for file in sorted(folder.glob("*_Model.py")):
        models = getattr(importlib.import_module(f"{folder.name}.{file.stem}"), "MODELS", None)
        if models is None:
            raise UsageError(f"{file}: no MODELS in it", "End the file with MODELS = {name: ModelSpec(...)}")
        yield file, models


@functools.cache
def all_models() -> dict[str, ModelSpec]:
    """Return every model of the pipeline by its name."""
    return read_model_files(_FOLDER)


def model_names() -> list[str]:
    """Return the names of all models, in natural order: resnet50 before resnet101."""
    # Splitting at digits gives word, number, word, ...: words are compared with words and numbers with numbers.
    return sorted(all_models(), key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"([0-9]+)", name)])


def find_model(name: str) -> ModelSpec:
    """Return the model called `name`.

    The files are imported one by one until one of them has it: those of torchvision's models take 0.3 s.

    Raises:
        UsageError: no model has that name.
    """
    models = next((models for _, models in _model_files(_FOLDER) if name in models), None) or all_models()
    if name not in models:
        raise UsageError(f"--model {name}: no such model", did_you_mean(name, models))
    return models[name]


def build_model(name: str, num_classes: int, image_size: int) -> Classifier:
    """Return the model called `name` with random weights, for square images of `image_size` pixels.

    Raises:
        UsageError: no model has that name, or the images are too small for it.
    """
    spec = find_model(name)
    if image_size < spec.min_image_size:
        raise UsageError(
            f"--image-size {image_size}: too small for {name}", f"Use --image-size {spec.min_image_size} or more"
        )
    return spec.build(num_classes, image_size)


def takes_size(name: str, num_classes: int, image_size: int, other: int) -> bool:
    """Return whether weights of the model `name` for images of `image_size` pixels fit images of `other` pixels."""
    with WithoutMemory():
        states = [find_model(name).build(num_classes, size).state_dict() for size in (image_size, other)]
    shapes = [{part: tensor.shape for part, tensor in state.items()} for state in states]
    return shapes[0] == shapes[1] and other >= find_model(name).min_image_size


class WithoutMemory(TorchFunctionMode):
    """In the `with` block, models are built in milliseconds: tensors have shapes and types, but no memory or values.

    What is created there lies on torch's device `meta`, and is not initialized. `torch.device("meta")` alone would run
    each initialization through torch's compiler, and fail where a model computes its widths with tensors.
    """

    _CREATES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """Call `func`, unless it changes a tensor in place and has one without memory."""
        kwargs = dict(kwargs or {})
        if func in self._CREATES and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        name, given = getattr(func, "__name__", ""), [*args, *kwargs.values()]
        if name.endswith("_") and not name.endswith("__") and any(isinstance(e, Tensor) and e.is_meta for e in given):
            return given[0]
        try:
            return func(*args, **kwargs)
        except NotImplementedError:  # a shape that is known in Python only, which PostponeDynamo has not loaded yet
            from torch._meta_registrations import activate_meta  # noqa: F401

            return func(*args, **kwargs)
