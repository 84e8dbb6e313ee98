"""Torchvision's networks through one adapter: the same logits, and the contract of `Classifier`."""

from pathlib import Path

import pytest
import torch
from test_ForeignWeights import assert_same_logits, randomize
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision import models

from MLPipeline.Classifier import Classifier
from MLPipeline.Errors import DataError, UsageError
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.Models import build_model, find_model, model_names
from MLPipeline.Torchvision_Model import FAMILIES, MODELS
from MLPipeline.Weights import load_weights
from tests.support.quick_init import no_init, quick_init

QUICK = "densenet121 googlenet mnasnet0_5 mobilenet_v3_small regnet_y_400mf shufflenet_v2_x0_5 squeezenet1_1".split()
SLOW = "alexnet convnext_tiny efficientnet_v2_s inception_v3 maxvit_t mobilenet_v2 swin_t swin_v2_t vgg11_bn vit_b_32"
ONE_OF_EACH = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW.split())]
AT_224 = ("vit_b_32", "maxvit_t")  # torchvision's own ViT accepts this size only, as does MaxVit
NUM_CLASSES = 5
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)


def side(name: str) -> int:
    """A size at which the last layers still see a few pixels."""
    return 224 if name in AT_224 else max(64, find_model(name).min_image_size + 32)


def some_stages(model: Classifier, name: str) -> list[str]:
    """Stages to cut at: every second one and the last; of a slow network, one in the middle and the last."""
    stages = model.stages
    return [*(stages[::2] if name in QUICK else stages[len(stages) // 2 :][:1]), stages[-1]]


def draw_images(size: int, count: int = 2) -> Tensor:
    """Blots of colour, as unlike each other as photographs."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return (255 * interpolate(coarse, size=(size, size), mode="bilinear")).to(torch.uint8)


def original(name: str, images: Tensor, **options: object) -> nn.Module:
    """Torchvision's own network with random weights and the statistics of `images`, normalised."""
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False}  # else torchvision warns
    torch.manual_seed(0)
    with quick_init():
        network = models.get_model(name, num_classes=NUM_CLASSES, **options)
    return randomize(network, images)


def empty_model(name: str, size: int) -> Classifier:
    """Our network, whose weights are arbitrary until those of a file are loaded."""
    with no_init():
        return build_model(name, NUM_CLASSES, size).eval()


def load_from(network: nn.Module, model: Classifier, name: str, folder: Path) -> None:
    """Load the weights of torchvision's `network` into our `model`, by way of a file."""
    torch.save(network.state_dict(), folder / "weights.pth")
    report = load_weights(model, find_model(name), str(folder / "weights.pth"))
    assert report.note == "weights of weights.pth, head included"


@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_torchvisions_weights_give_torchvisions_logits(tmp_path: Path, name: str) -> None:
    size = side(name)
    images, model = draw_images(size, 2 if name in AT_224 else 4), empty_model(name, size)
    normalised = model.normalize(images)
    network = original(name, normalised)
    load_from(network, model, name, tmp_path)
    assert_same_logits(model, network, images, normalised)

    features = model.features(images)
    assert features.dim() == 2 and torch.equal(model.head(features), model(images))
    least = size if name in AT_224 else find_model(name).min_image_size
    small = images[:1, :, :least, :least]
    one = model.features(small)
    for stage in some_stages(model, name):  # every cut gives the same features
        model.freeze(stage)
        assert torch.equal(model.trainable_features(model.frozen_features(small)), one), stage
    similarity = torch.cosine_similarity(FastForward(model, size, "fp32")(images).float(), features)
    assert similarity.min() > 0.9999


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_training_leaves_frozen_parts_and_stored_activations_as_they_are(name: str) -> None:
    size = find_model(name).min_image_size
    with quick_init():
        model, images = build_model(name, NUM_CLASSES, size), draw_images(size, 1 if name == "maxvit_t" else 2)
    torch.manual_seed(0)  # of dropout
    for stage in (*some_stages(model, name), "none"):
        model.freeze(stage)
        model.train()
        frozen = model.backbone[: model.num_frozen_stages]
        before = {key: value.clone() for key, value in frozen.state_dict().items()}
        activations = model.frozen_features(images).detach()
        copy = activations.clone()
        features = model.trainable_features(activations).detach()
        features_copy = features.clone()
        model.head(features)
        assert torch.equal(activations, copy) and torch.equal(features, features_copy), stage
        assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items()), stage


@pytest.mark.parametrize(
    ("name", "stage", "shape"),
    [
        ("densenet121", "norm5", (1024, 2, 2)),
        ("mobilenet_v3_small", "features12", (576, 2, 2)),
        ("shufflenet_v2_x0_5", "conv5", (1024, 2, 2)),
        ("squeezenet1_1", "features12", (512, 3, 3)),
        pytest.param("alexnet", "features10", (256, 1, 1), marks=pytest.mark.slow),
        pytest.param("convnext_tiny", "features7", (768, 2, 2), marks=pytest.mark.slow),
        pytest.param("swin_t", "norm", (768, 2, 2), marks=pytest.mark.slow),  # inside, it keeps its channels last
    ],
)
def test_before_pooling_comes_a_picture(name: str, stage: str, shape: tuple[int, ...]) -> None:
    """Heat maps are drawn from it."""
    model = build_model(name, NUM_CLASSES, 64)
    assert model.stages[model.stages.index(stage) + 1] in ("pool", "flatten")
    model.freeze(stage)
    assert model.frozen_features(draw_images(64)).shape == (2, *shape)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_inceptions_own_normalisation_is_in_the_model(name: str) -> None:
    with torch.device("meta"):
        network = models.get_model(name, transform_input=True, init_weights=False)
    images = draw_images(96)
    ours = build_model(name, NUM_CLASSES, 96).normalize(images)
    torch.testing.assert_close(ours, network._transform_input((images / 255 - IMAGENET[0]) / IMAGENET[1]))


@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_auxiliary_classifiers_are_left_out(name: str) -> None:
    model = build_model(name, NUM_CLASSES, 96)
    assert not [key for key in model.state_dict() if "aux" in key.lower()]
    assert find_model(name).rename("aux1.fc1.weight") == find_model(name).rename("AuxLogits.fc.bias") == ""


@pytest.mark.parametrize(
    ("name", "published", "ours"),
    [
        (
            "densenet121",
            "features.denseblock1.denselayer2.norm.1.weight",
            "backbone.denseblock1.denseblock1.denselayer2.norm1.weight",
        ),
        (
            "vit_b_16",
            "encoder.layers.encoder_layer_3.mlp.linear_2.bias",
            "backbone.encoder_layer_3.encoder_layer_3.mlp.3.bias",
        ),
        ("vgg16", "classifier.6.bias", "head.last.bias"),
        ("vgg16", "classifier.3.bias", "backbone.classifier3.3.bias"),
        ("swin_t", "head.weight", "head.last.weight"),
    ],
)
def test_names_as_the_published_files_have_them(name: str, published: str, ours: str) -> None:
    assert find_model(name).rename(published) == ours
    with torch.device("meta"):
        assert ours in build_model(name, NUM_CLASSES, 224).state_dict()


@pytest.mark.slow
@torch.no_grad()
def test_a_vit_at_another_size_interpolates_as_torchvision_does(tmp_path: Path) -> None:
    network = original("vit_b_32", torch.zeros(1, 3, 224, 224))
    model, images = empty_model("vit_b_32", 128), draw_images(128)
    load_from(network, model, "vit_b_32", tmp_path)
    resized = original("vit_b_32", model.normalize(images), image_size=128)
    resized.load_state_dict(models.vision_transformer.interpolate_embeddings(128, 32, network.state_dict()))
    assert_same_logits(model, resized, images, model.normalize(images))


@pytest.mark.parametrize(
    ("name", "size", "line"),
    [
        ("vit_b_16", 200, "--image-size 200: vit_b_16 requires multiples of 16. Use --image-size 192"),
        ("vit_h_14", 225, "--image-size 225: vit_h_14 requires multiples of 14. Use --image-size 224"),
        ("maxvit_t", 256, "--image-size 256: maxvit_t requires multiples of 224. Use --image-size 224"),
        ("maxvit_t", 128, "--image-size 128: too small for maxvit_t. Use --image-size 224 or more"),
        ("inception_v3", 64, "--image-size 64: too small for inception_v3. Use --image-size 75 or more"),
        ("alexnet", 32, "--image-size 32: too small for alexnet. Use --image-size 63 or more"),
    ],
)
def test_sizes_a_network_cannot_take_are_refused(name: str, size: int, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_model(name, 2, size)
    assert str(caught.value) == line


@pytest.mark.parametrize("typo", ["vgg-16", "vgg_16", "VGG16"])
def test_a_misspelt_name_is_answered_with_the_right_one(typo: str) -> None:
    with pytest.raises(UsageError, match=rf"--model {typo}: no such model\. Did you mean .*'vgg16'"):
        find_model(typo)


def test_every_network_of_torchvision_is_there() -> None:
    assert set(models.list_models(module=models)) <= set(model_names())
    assert all(any(name.startswith(start) for name in MODELS) for start in FAMILIES)


def test_weights_are_imagenets_own() -> None:
    for spec in MODELS.values():
        weights = spec.pretrained
        assert weights is not None and weights.url == f"https://download.pytorch.org/models/{weights.file_name}"
        assert len(weights.sha256) >= 8 and int(weights.sha256, 16)
        assert f"-{weights.sha256}.pth" in weights.file_name
    assert [name for name, spec in MODELS.items() if "swag" in spec.pretrained.url] == ["regnet_y_128gf", "vit_h_14"]
    sizes = {name: find_model(name).defaults["image_size"] for name in ("vgg16", "inception_v3", "swin_v2_t")}
    assert sizes == {"vgg16": 224, "inception_v3": 299, "swin_v2_t": 256}


def test_the_weights_of_another_family_are_refused(tmp_path: Path) -> None:
    torch.save(models.shufflenet_v2_x0_5(num_classes=2).state_dict(), tmp_path / "weights.pth")
    for name in ("squeezenet1_1", "mnasnet0_5", "resnet18"):
        with pytest.raises(DataError, match="looks like another architecture"):
            load_weights(build_model(name, 2, 64), find_model(name), str(tmp_path / "weights.pth"))
