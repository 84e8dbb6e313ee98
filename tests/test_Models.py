"""Every registered model keeps the contract of `Classifier`; a model is one file."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from MLPipeline import Models, Torchvision_Model
from MLPipeline.Classifier import Classifier, ModelSpec
from MLPipeline.Config import Config
from MLPipeline.Errors import UsageError
from MLPipeline.Models import (
    WithoutMemory,
    build_and_try,
    build_model,
    find_model,
    find_trainable,
    model_names,
    read_model_files,
)

# One of each kind of block; the others differ in depth and width.
KINDS = ["cnn", "cnn_residual", "resnet18", "resnet50", "resnext50_32x4d", "efficientnet_b0", "efficientnet_lite0"]
WITH_OWN_FILE = [name for name in model_names() if name not in Torchvision_Model.MODELS]  # the others: test_Torchvision
NUM_CLASSES = 3
MODEL_FILE = """
from torch import nn
from MLPipeline.Classifier import Classifier, ModelSpec

def build(num_classes, image_size):
    backbone = nn.Sequential()
    backbone.add_module("flatten", nn.Flatten())
    return Classifier(backbone, nn.Linear(3 * image_size**2, num_classes))

MODELS = {"linear": ModelSpec(build, source="none")}
"""


def images_for(name: str, num_images: int = 2) -> Tensor:
    """Images as the loader gives them, of the smallest size the model takes."""
    size = find_model(name).min_image_size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_images, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest) -> tuple[str, Classifier]:
    """A model, built once for all tests: drawing its weights takes longer than most of them."""
    torch.manual_seed(0)
    name = request.param
    return name, build_model(name, NUM_CLASSES, find_model(name).min_image_size)


@pytest.fixture
def model(built: tuple[str, Classifier]) -> Classifier:
    model = built[1]
    model.freeze("none")
    model.zero_grad()
    torch.manual_seed(0)  # of dropout
    return model.train()


@pytest.fixture
def images(built: tuple[str, Classifier]) -> Tensor:
    return images_for(built[0])


def batchnorm_buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers() if name not in ("mean", "std")}


@torch.no_grad()
def test_features_and_head_make_the_logits(model: Classifier, images: Tensor) -> None:
    model.eval()
    features, logits = model.features(images), model(images)
    last_linear = [layer for layer in model.head.modules() if isinstance(layer, nn.Linear)][-1]
    assert features.dim() == 2 and len(features) == 2
    assert logits.shape == (2, NUM_CLASSES) == (2, last_linear.out_features)
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    assert torch.equal(logits, model.head(features))
    assert torch.equal(logits, model.head(model.backbone((images / 1.0 - model.mean) / model.std)))
    assert not torch.equal(logits[0], logits[1])


@torch.no_grad()
def test_every_cut_gives_the_same_features(model: Classifier, images: Tensor) -> None:
    model.eval()
    whole = model.features(images)
    for stage in model.stages:
        model.freeze(stage)
        activations = model.frozen_features(images)
        assert torch.equal(model.trainable_features(activations), whole), stage


def test_freezing_up_to_a_stage_leaves_the_rest_trainable(model: Classifier) -> None:
    for last_frozen, stage in enumerate(model.stages):
        model.freeze(stage)
        for position, part in enumerate(model.backbone):
            assert all(weight.requires_grad == (position > last_frozen) for weight in part.parameters())
        assert all(weight.requires_grad for weight in model.head.parameters())


def test_training_moves_only_what_is_not_frozen(model: Classifier, images: Tensor) -> None:
    middle = model.stages[len(model.stages) // 2 - 1]
    for until in ("backbone", middle, "none"):
        model.freeze(until)
        model.train()
        frozen, free = model.backbone[: model.num_frozen_stages], model.backbone[model.num_frozen_stages :]
        frozen_before, free_before = batchnorm_buffers(frozen), batchnorm_buffers(free)
        model(images).sum().backward()
        assert all(torch.equal(value, frozen_before[key]) for key, value in batchnorm_buffers(frozen).items())
        assert not any(torch.equal(value, free_before[key]) for key, value in batchnorm_buffers(free).items())
        assert all(weight.grad is None for weight in frozen.parameters())
        assert all(weight.grad is not None for weight in [*free.parameters(), *model.head.parameters()])
        model.zero_grad()


def test_training_leaves_stored_activations_as_they_are(model: Classifier, images: Tensor) -> None:
    for stage in model.stages:
        model.freeze(stage)
        model.train()
        activations = model.frozen_features(images).detach()
        before = activations.clone()
        features = model.trainable_features(activations).detach()
        features_before = features.clone()
        model.head(features)
        assert torch.equal(activations, before) and torch.equal(features, features_before), stage


@pytest.mark.parametrize("name", sorted({*WITH_OWN_FILE} - {*KINDS}))
def test_other_sizes_of_a_network_have_the_same_shape(name: str) -> None:
    size = find_model(name).min_image_size
    with torch.device("meta"):
        model = build_model(name, NUM_CLASSES, size).eval()
        images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
        model.freeze(model.stages[len(model.stages) // 2])
        features = model.trainable_features(model.frozen_features(images))
        assert features.shape == model.features(images).shape and features.dim() == 2
        assert model.head(features).shape == (2, NUM_CLASSES)


@pytest.mark.parametrize("name", model_names())
def test_the_defaults_are_settings(name: str) -> None:
    spec = find_model(name)
    settings = Config().resolve(spec.defaults)
    assert set(spec.defaults) >= {"image_size", "batch_size", "epochs", "optimizer", "lr", "freeze"}
    assert set(spec.defaults) <= {field.name for field in dataclasses.fields(Config)}
    assert settings.image_size is not None and settings.image_size >= spec.min_image_size


def test_the_recipes_are_defaults() -> None:
    documents = {"image_size": 200, "batch_size": 8, "epochs": 10, "optimizer": "adam", "lr": 0.001}
    assert find_model("resnet50").defaults == documents | {"freeze": "backbone", "head": "linear"}
    for name, size in (("efficientnet_lite0", 200), ("efficientnet_lite1", 240), ("efficientnet_lite2", 260)):
        assert find_model(name).defaults == documents | {"freeze": "backbone", "image_size": size, "head": "auto"}
    cards = documents | {"image_size": 128, "batch_size": 32, "freeze": "none"}
    assert find_model("efficientnet_b0").defaults == cards
    assert find_model("cnn").defaults["batch_size"] == 20


def test_the_cnn_is_the_network_of_the_recipe() -> None:
    model = build_model("cnn", num_classes=10, image_size=32)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters() if weight.dim() > 1}
    assert list(shapes.values()) == [(16, 3, 3, 3), (32, 16, 3, 3), (512, 32 * 8 * 8), (10, 512)]
    assert [layer.p for layer in model.head if isinstance(layer, nn.Dropout)] == [0.25, 0.25]
    assert model.stages == ["conv1", "conv2", "flatten"]
    darkest_and_brightest = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    assert model.normalize(darkest_and_brightest).unique().tolist() == [-1, 1]


@pytest.mark.parametrize("size", [4, 31, 50])
def test_the_cnn_takes_any_size(size: int) -> None:
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    assert build_model("cnn", 7, size).features(images).shape == (2, 32 * (size // 4) ** 2)


def test_names_come_in_natural_order() -> None:
    resnets = [name for name in model_names() if name.startswith("resnet")]
    assert resnets == ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def test_a_misspelt_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"--model resent50: no such model\. Did you mean 'resnet50'"):
        build_model("resent50", 2, 200)


@pytest.mark.parametrize(("name", "minimum"), [("resnet18", 32), ("efficientnet_lite0", 32), ("cnn", 4)])
def test_images_that_are_too_small_are_refused(name: str, minimum: int) -> None:
    with pytest.raises(UsageError, match=rf"--image-size {minimum - 1}: .*{name}\. Use --image-size {minimum} or more"):
        build_model(name, 2, minimum - 1)


def model_package(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> Path:
    """A package like MLPipeline, under a name of its own: modules are imported once per process."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def test_a_model_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"Linear_Model.py": MODEL_FILE, "Other.py": "raise AssertionError('not a model file')"}
    specs = read_model_files(model_package(tmp_path / "one_model", monkeypatch, files))
    assert list(specs) == ["linear"]
    assert specs["linear"].build(5, 8)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape == (2, 5)


def test_a_name_given_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"A_Model.py": MODEL_FILE, "B_Model.py": MODEL_FILE}
    folder = model_package(tmp_path / "two_models", monkeypatch, files)
    with pytest.raises(UsageError, match=r"B_Model\.py: 'linear' is already a model of A_Model\.py"):
        read_model_files(folder)


def test_a_model_file_without_models_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_package(tmp_path / "no_models", monkeypatch, {"Empty_Model.py": "MODEL = {}"})
    with pytest.raises(UsageError, match=r"Empty_Model\.py: no MODELS"):
        read_model_files(folder)


@pytest.mark.parametrize(
    "name",
    ["cnn", "cnn_residual", "resnet18", "efficientnet_b0", "efficientnet_lite2", "regnet_y_400mf", "squeezenet1_1"],
)
def test_a_model_without_memory_is_the_same_model(name: str) -> None:
    """Nothing but the values of its parameters is missing: not a buffer, nor a table of positions."""
    with WithoutMemory():
        outline = build_model(name, 3, 64)
    model = build_model(name, 3, 64)
    assert str(outline) == str(model)
    theirs, ours = outline.state_dict(), model.state_dict()
    assert [(n, t.shape, t.dtype) for n, t in theirs.items()] == [(n, t.shape, t.dtype) for n, t in ours.items()]
    assert all(parameter.is_meta and parameter.requires_grad for parameter in outline.parameters())
    outline.load_state_dict(ours, assign=True)
    assert not any(tensor.is_meta for tensor in (*outline.parameters(), *outline.buffers()))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(outline.eval()(images), model.eval()(images))


@pytest.mark.parametrize("name", ["swin_t", "maxvit_t"])
def test_tables_of_positions_have_their_values_also_without_memory(name: str) -> None:
    """A file is compared with them: other values would read beyond the end of another table."""
    with WithoutMemory():
        outline = build_model(name, 3, 224)
    tables = [buffer for buffer_name, buffer in outline.named_buffers() if buffer_name.endswith("position_index")]
    assert tables and all(table.max() > 0 and not table.is_meta for table in tables)


def test_memory_is_there_again_afterwards() -> None:
    with WithoutMemory():
        assert torch.zeros(2).fill_(7).is_meta and torch.arange(3).tolist() == [0, 1, 2]
    assert torch.zeros(2).fill_(7).tolist() == [7, 7]


WRONG_FILES = {
    "def build(:": r"SyntaxError: invalid syntax \(W_Model\.py, line 3\)\. Correct the file",
    "import no_such_package": r"W_Model\.py, line 3: ModuleNotFoundError: No module named 'no_such_package'\. Correct",
    "MODELS = [build]": r"MODELS is no dict of ModelSpec\. End the file with",
    'MODELS = {"linear": build}': r"MODELS is no dict of ModelSpec\. End the file with",
}


@pytest.mark.parametrize(("number", "code"), [*enumerate(WRONG_FILES)])
def test_a_model_file_with_an_error_is_named(
    number: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MODEL_FILE + code + "\n" if code.startswith("MODELS") else f"\n\n{code}\n"
    folder = model_package(tmp_path / f"wrong_{number}", monkeypatch, {"W_Model.py": text})
    with pytest.raises(UsageError, match=rf"W_Model\.py: {WRONG_FILES[code]}"):
        read_model_files(folder)


DEFAULTS = {"image_size": 8, "batch_size": 4, "epochs": 1, "optimizer": "adam", "lr": 0.001, "freeze": "none"}


def one_model(monkeypatch: pytest.MonkeyPatch, build: Callable[[int, int], Any], **defaults: object) -> None:
    """Make a model called `mine` the only one."""
    files = [(Path("Mine_Model.py"), {"mine": ModelSpec(build, source="none", defaults=DEFAULTS | defaults)})]
    monkeypatch.setattr(Models, "_model_files", lambda folder: iter(files))


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ({"lr": None, "freeze": None}, "have no lr, freeze"),
        ({"batchsize": 4}, r"unknown setting 'batchsize'\. Did you mean 'batch_size'"),
        ({"lr": "fast"}, "lr is 'fast'. Give a value of type float"),
        ({"lr": 1000}, "--lr 1000.0: out of range"),
    ],
)
def test_defaults_that_no_training_can_use_are_named(
    defaults: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_model(monkeypatch, lambda num_classes, image_size: None, **defaults)
    with pytest.raises(UsageError, match=rf"--model mine: the defaults of its ModelSpec:? {said}"):
        find_trainable("mine")


@pytest.mark.parametrize(
    ("stage", "head", "said"),
    [
        (nn.Flatten(), nn.Linear(191, 3), r"RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        (nn.Flatten(), nn.Linear(192, 7), r"the output of the head: shape \(1, 7\) instead of \(1, 3\) for one image"),
        (nn.Identity(), nn.Linear(8, 3), r"features: shape \(1, 3, 8, 8\) instead of \(1, D\) for one image"),
        (nn.AdaptiveMaxPool2d(1, return_indices=True), nn.Identity(), "features: tuple instead of a tensor"),
        (nn.Conv2d(3, 4, 9), nn.Identity(), "with 8x8 pixels: .*Kernel size can't be greater than actual input size"),
        (None, nn.Identity(), "build returns no Classifier"),
    ],
)
def test_a_network_that_breaks_the_contract_says_where(
    stage: nn.Module | None, head: nn.Module, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_model(monkeypatch, lambda num_classes, image_size: Classifier(nn.Sequential(stage), head) if stage else head)
    with pytest.raises(UsageError, match=rf"--model mine: .*{said}.*Correct its code, or give another --image-size"):
        build_and_try("mine", 3, 8)


def test_trying_a_network_changes_nothing() -> None:
    torch.manual_seed(0)
    expected = build_model("cnn_residual", 3, 32)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    tried = build_and_try("cnn_residual", 3, 32)
    assert tried.training and torch.equal(torch.rand(1), drawn)
    assert all(
        torch.equal(*pair) for pair in zip(expected.state_dict().values(), tried.state_dict().values(), strict=True)
    )
