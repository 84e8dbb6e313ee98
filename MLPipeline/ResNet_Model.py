"""ResNet 18 to 152, ResNeXt and Wide ResNet: torchvision's networks, divided into stages that can be frozen.

    stem: 7x7 convolution, max pooling (H/4) -> layer1 (H/4) -> layer2 (H/8) -> layer3 (H/16) -> layer4 (H/32)
    -> pool: (B, D) -> head: (B, C)

Sources: He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385, table 1. Wider blocks:
Xie et al., Aggregated Residual Transformations, arXiv:1611.05431, and Zagoruyko and Komodakis, Wide
Residual Networks, arXiv:1605.07146.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import nn
from torchvision import models

from MLPipeline.Classifier import Classifier, ModelSpec, Pretrained

SOURCES = {
    **dict.fromkeys(
        ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        "Deep Residual Learning for Image Recognition, arXiv:1512.03385",
    ),
    **dict.fromkeys(
        ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
        "Aggregated Residual Transformations for Deep Neural Networks, arXiv:1611.05431",
    ),
    **dict.fromkeys(("wide_resnet50_2", "wide_resnet101_2"), "Wide Residual Networks, arXiv:1605.07146"),
}
LAYERS = ("layer1", "layer2", "layer3", "layer4")


def build_resnet(name: str, num_classes: int, image_size: int) -> Classifier:
    """Return the ResNet called `name` with random weights, for any image size of at least 32."""
    network = models.get_model(name, weights=None, num_classes=num_classes)
    stem = OrderedDict((part, getattr(network, part)) for part in ("conv1", "bn1", "relu", "maxpool"))
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(stem))
    stages.update((layer, getattr(network, layer)) for layer in LAYERS)
    stages["pool"] = nn.Sequential(network.avgpool, nn.Flatten())
    return Classifier(nn.Sequential(stages), head=network.fc)


def rename(key: str) -> str:
    """Return our name for a parameter that torchvision and timm call `key`; other names are returned unchanged."""
    module = key.partition(".")[0]
    if module in ("conv1", "bn1"):
        return f"backbone.stem.{key}"
    if module in LAYERS:
        return f"backbone.{key}"
    return key.replace("fc.", "head.", 1) if module == "fc" else key


MODELS: dict[str, ModelSpec] = {
    name: ModelSpec(
        build=partial(build_resnet, name),
        source=source,
        defaults={
            "image_size": 200,
            "batch_size": 8,
            "epochs": 10,
            "optimizer": "adam",
            "lr": 0.001,
            "freeze": "backbone",
            "head": "linear" if name == "resnet50" else "auto",  # ResNet50 is the model of the recipe `documents`
        },
        min_image_size=32,  # layer4 has 1/32 of the image size: at least one pixel
        # V1, although V2 is more accurate on ImageNet: V2 was trained with label smoothing and mixup, and such
        # regularization gives worse features for a frozen backbone (Kornblith et al., arXiv:1805.08974).
        pretrained=Pretrained.from_url(models.get_model_weights(name)["IMAGENET1K_V1"].url),
        rename=rename,
    )
    for name, source in SOURCES.items()
}
