"""Loads the initial weights of a model: ImageNet's or those of a file; or leaves it with random ones.

ImageNet weights are searched in the package that contains them, then in torch's cache, then on the network. Every file
is hashed before it is read, including cached files, which may have been truncated or replaced.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from MLPipeline.Classifier import Classifier, ModelSpec, Pretrained
from MLPipeline.Errors import DataError, ResourceError, UsageError, did_you_mean
from MLPipeline.files.Download import UnavailableError, download
from MLPipeline.files.ErrnoHints import errno_hint
from MLPipeline.files.TensorChecks import check_numbers
from MLPipeline.files.TensorFile import load_file
from MLPipeline.files.TensorOutline import TensorOutline
from MLPipeline.Models import find_model

Named = TypeVar("Named", Tensor, TensorOutline)

WITHOUT_NETWORK = "efficientnet_lite2"  # the most accurate of the models whose weights a package contains
KEYWORDS = ("auto", "imagenet", "none")
WRAPPERS = ("state_dict", "model")  # keys under which training scripts, ours included, save the weights
# What DataParallel, torch.compile and Lightning modules put before the name of each tensor.
_PREFIXES = ("module.", "_orig_mod.", "model.")
# Networks of timm whose tensors match ours by name and shape but which compute something else: with TensorFlow's
# padding and eps, or with anti-aliased strides. Only the name of the file or of its folder shows it.
LOOK_ALIKES = re.compile(r"tf_efficientnet_|efficientnet_blur_|resnet(aa|blur)\d")


@dataclass(frozen=True)
class WeightsReport:
    """Where a model's initial weights came from."""

    kind: str  # imagenet, none or file
    source: str  # path, URL or package; empty for none
    sha256: str  # of the file, hex; empty for none
    note: str  # one sentence for the user


def load_weights(model: Classifier, spec: ModelSpec, weights: str) -> WeightsReport:
    """Load `weights` (`auto`, `imagenet`, `none` or the path of a file) into `model`; return where they came from.

    If `auto` finds no ImageNet weights, the model keeps its random ones, and the report's note says why.

    Raises:
        UsageError: `imagenet`, for a model that has no such weights.
        DataError: the file cannot be read, or contains the weights of another network.
        ResourceError: `imagenet`, and they are not available. `auto` raises it only for what the user should repair
            rather than train from scratch: a damaged file in the cache or the package, a cache that cannot be written.
    """
    if weights == "none":
        return WeightsReport("none", "", "", "random weights, as asked")
    if weights not in KEYWORDS:
        path = _given_file(weights)
        _refuse_look_alike(path)
        return _load(model, spec, path, "file", weights)
    if spec.pretrained is None:
        if weights == "imagenet":
            raise UsageError("--weights imagenet: this model has none", "Use --weights none, or give a file")
        return WeightsReport("none", "", "", "this model has no ImageNet weights: training from scratch")
    try:
        path, source, sha256 = _imagenet_file(spec.pretrained)
    except UnavailableError as error:
        if weights == "imagenet":
            raise
        note = f"ImageNet weights are not available ({error.what}): training from scratch"
        return WeightsReport("none", "", "", note + _alternative())
    return _load(model, spec, path, "imagenet", source, sha256)


def _alternative() -> str:
    """Return a sentence on the model that starts from ImageNet weights without a network; empty if it is not here."""
    pretrained = find_model(WITHOUT_NETWORK).pretrained
    if pretrained is None or _shipped_file(pretrained) is None:
        return ""
    return f". Better: --model {WITHOUT_NETWORK}, whose ImageNet weights are installed, or --model auto"


def _given_file(weights: str) -> Path:
    path = Path(os.path.expanduser(weights))  # os.path: unlike Path's, these never raise
    if not os.path.exists(path):
        raise DataError(f"--weights {weights}: no such file", f"{did_you_mean(weights, KEYWORDS)}, or a file's path")
    return path


def _refuse_look_alike(path: Path) -> None:
    if found := LOOK_ALIKES.search(path.as_posix()):
        raise DataError(
            f"{path}: weights of {found[0]}..., a network with the same tensors that computes something else",
            "Use the plain network's weights, such as efficientnet_b0_ra-3dd342df.pth or resnet50_a1_0-14fe96d1.pth",
        )


def _imagenet_file(pretrained: Pretrained) -> tuple[Path, str, str]:
    """Return the verified file, where it came from, and its hash if it is known."""
    package = pretrained.package.replace("_", "-")
    if shipped := _shipped_file(pretrained):
        return shipped, package, _verified(shipped, pretrained, f"Run pip install --force-reinstall {package}")
    cached = _cached_file(pretrained)
    if os.path.exists(cached):
        return cached, str(cached), _verified(cached, pretrained, f"Delete {cached} and run again")
    if not pretrained.url:
        raise UnavailableError(f"the package {package} is not installed", f"Run pip install {package}")
    download(pretrained.url, cached, pretrained.sha256)
    return cached, pretrained.url, ""


def file_at_hand(pretrained: Pretrained) -> Path | None:
    """Return the file on this machine, in its package or in torch's cache, without checking it; None: not here."""
    cached = _cached_file(pretrained)
    return _shipped_file(pretrained) or (cached if os.path.exists(cached) else None)


def _cached_file(pretrained: Pretrained) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / pretrained.file_name


def _shipped_file(pretrained: Pretrained) -> Path | None:
    """Return the file inside the package that contains it, without importing the package."""
    package = importlib.util.find_spec(pretrained.package) if pretrained.package else None
    folders = package.submodule_search_locations or [] if package else []
    return next((path for folder in folders for path in Path(folder).rglob(pretrained.file_name)), None)


def _verified(path: Path, pretrained: Pretrained, hint: str) -> str:
    """Return the hash of the file after checking it."""
    try:
        found = _sha256(path)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror})", errno_hint(error, hint)) from error
    if not found.startswith(pretrained.sha256):
        raise ResourceError(f"{path}: hash mismatch", hint)
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _load(model: Classifier, spec: ModelSpec, path: Path, kind: str, source: str, sha256: str = "") -> WeightsReport:
    """Copy the weights in `path` into `model`: the whole backbone or nothing, and the head if its shapes match."""
    expected = model.state_dict()

    def check(outline: Any) -> None:
        given = _our_names(_named(path, outline, TensorOutline), spec)
        if differences := _differences(_shapes(given), _shapes(expected)):
            raise DataError(
                f"{path}: looks like another architecture: {differences}",
                "Choose the --model that it belongs to, or other --weights",
            )
        _check_types(path, given, expected)

    given = _our_names(_named(path, load_file(path, check), Tensor), spec)
    head = _shapes(given, "head.")
    takes_head = head == _shapes(expected, "head.")
    taken = {name: tensor for name, tensor in given.items() if takes_head or not name.startswith("head.")}
    check_numbers(path, taken, expected)
    model.load_state_dict(taken, strict=False)  # the names were compared above
    about_head = "head included" if takes_head else f"head of another size ({_num_classes(head)} classes) left out"
    note = f"weights of {path.name}, {about_head if head else 'without a head'}"
    return WeightsReport(kind, source, sha256 or _sha256(path), note)


def _num_classes(head: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of outputs of a head's last layer, which comes last in every state dict."""
    return next((shape[0] for shape in reversed(list(head.values())) if shape), 0)


def _named(path: Path, content: Any, kind: type[Named]) -> dict[str, Named]:
    """Return the tensors (or outlines) in the content of a file by name, without the usual containers around them."""
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, kind) for value in content.values()):
        raise DataError(
            f"{path}: contains no state dict (tensors by name)", "Save one: torch.save(model.state_dict(), FILE)"
        )
    named = {str(name): tensor for name, tensor in content.items()}
    while named and (shared := next((each for each in _PREFIXES if all(name.startswith(each) for name in named)), "")):
        named = {name.removeprefix(shared): tensor for name, tensor in named.items()}
    return named


def _check_types(path: Path, given: Mapping[str, TensorOutline], expected: Mapping[str, Tensor]) -> None:
    """Make sure that weights are floating-point numbers, of any precision, and counters single whole numbers."""
    for name, outline in given.items():
        if name.endswith("num_batches_tracked") and outline.shape:
            raise DataError(f"{path}: {name} has shape {outline.shape} instead of ()", "Use other --weights")
        if name in expected and outline.dtype.is_floating_point != expected[name].is_floating_point():
            raise DataError(
                f"{path}: {name} has numbers of type {outline.dtype}, not {expected[name].dtype}",
                "Save the weights as they were trained: torch.save(model.state_dict(), FILE)",
            )


def _our_names(state: Mapping[str, Named], spec: ModelSpec) -> dict[str, Named]:
    if any(name.startswith("backbone.") for name in state):
        return dict(state)
    return {ours: tensor for name, tensor in state.items() if (ours := spec.rename(name))}


def _shapes(state: Mapping[str, Tensor] | Mapping[str, TensorOutline], part: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors whose names start with `part`, except BatchNorm's counters.

    Files from before torch 0.4.1 lack the counters, and only BatchNorm without momentum uses them.
    """
    names = [name for name in state if name.startswith(part) and not name.endswith("num_batches_tracked")]
    return {name: tuple(state[name].shape) for name in names}


def _differences(given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Return a description of how the backbones differ; empty if they match. Only our own files have mean and std."""
    missing = [name for name in expected if name.startswith("backbone.") and name not in given]
    unexpected = [name for name in given if not name.startswith("head.") and name not in expected]
    reshaped = [
        f"{name} {given[name]} instead of {expected[name]}"
        for name in expected
        if not name.startswith("head.") and given.get(name, expected[name]) != expected[name]
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names)


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
