"""Finds models by name. To add one, write a file `X_Model.py` in this folder that defines `MODELS`."""

from __future__ import annotations

import functools
import importlib
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from MLPipeline.Classifier import Classifier, ModelSpec
from MLPipeline.Config import Config, typed_settings
from MLPipeline.Errors import PipelineError, UsageError, did_you_mean, is_out_of_memory

_FOLDER = Path(__file__).parent
_REQUIRED = ("image_size", "batch_size", "epochs", "optimizer", "lr", "freeze")  # of the defaults of a model


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
        try:
            models = getattr(importlib.import_module(f"{folder.name}.{file.stem}"), "MODELS", None)
        except Exception as error:
            if isinstance(error, PipelineError) or is_out_of_memory(error):
                raise
            raise UsageError(f"{file}: {_said(error)}", "Correct the file, or move it to another folder") from error
        hint = "End the file with MODELS = {name: ModelSpec(...)}"
        if models is None:
            raise UsageError(f"{file}: no MODELS in it", hint)
        if not isinstance(models, dict) or not all(isinstance(spec, ModelSpec) for spec in models.values()):
            raise UsageError(f"{file}: MODELS is no dict of ModelSpec", hint)
        yield file, models


def _said(error: Exception) -> str:
    """Return what an error in the code of a model says, and the line of the model's file at which it arose."""
    traced = traceback.extract_tb(error.__traceback__)
    frames = [each for each in traced if each.filename.endswith("_Model.py")]  # the rest is torch's, or called by ours
    place = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: " if frames else ""
    if isinstance(error, SyntaxError):  # which says where itself
        place = ""
    return f"{place}{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".rstrip(": ")


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


def find_trainable(name: str) -> ModelSpec:
    """Return the entry of the model called `name`, with all default settings that a training requires.

    Raises:
        UsageError: there is no such model, or a default is missing or cannot be used.
    """
    spec = find_model(name)
    where = f"--model {name}: the defaults of its ModelSpec"
    defaults = typed_settings(spec.defaults, where)
    if missing := [each for each in _REQUIRED if defaults.get(each) is None]:
        raise UsageError(f"{where} have no {', '.join(missing)}", "Add them, as in docs/architecture.md")
    fine_tune = typed_settings(spec.fine_tune, where)
    try:
        Config(**defaults), Config(**fine_tune)
    except UsageError as error:
        raise UsageError(f"{where}: {error.what}", error.hint) from error
    return spec


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


def build_and_try(name: str, num_classes: int, image_size: int) -> Classifier:
    """Return the model called `name` as `build_model` does, after it has computed an image.

    Raises:
        UsageError: it cannot be built, does not compute such an image, or breaks the contract of `Classifier`.
    """
    hint = "Correct its code, or give another --image-size"
    try:
        model = build_model(name, num_classes, image_size)
        wrong = "build returns no Classifier"
        if isinstance(model, Classifier):
            with torch.random.fork_rng(devices=[]), torch.inference_mode():
                model.eval()
                features = model.features(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
                wrong = _odd_shape("features", features, (1, None))
                wrong = wrong or _odd_shape("the output of the head", model.head(features), (1, num_classes))
            model.train()
    except Exception as error:
        if isinstance(error, PipelineError) or is_out_of_memory(error):
            raise
        wrong = _said(error)
        raise UsageError(f"--model {name}: with {image_size}x{image_size} pixels: {wrong}", hint) from error
    if wrong:
        raise UsageError(f"--model {name}: {wrong}", hint)
    return model


def _odd_shape(what: str, found: object, shape: tuple[int | None, ...]) -> str:
    """Return what is wrong with the shape of a tensor, if anything; None stands for any number."""
    if not isinstance(found, Tensor):
        return f"{what}: {type(found).__name__} instead of a tensor"
    if found.ndim == len(shape) and all(side in (None, own) for side, own in zip(shape, found.shape, strict=True)):
        return ""
    due = ", ".join("D" if side is None else str(side) for side in shape)
    return f"{what}: shape {tuple(found.shape)} instead of ({due}) for one image"


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
