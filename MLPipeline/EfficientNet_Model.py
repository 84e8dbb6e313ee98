"""EfficientNet B0 to B7: torchvision's networks, divided into stages that can be frozen one by one.

    stem (H/2) -> stage1 (H/2) -> stage2 (H/4) -> stage3 (H/8) -> stage4, stage5 (H/16) -> stage6, stage7 (H/32)
    -> top: 1x1 convolution -> pool: (B, D) -> head: (B, C)

Source: Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, arXiv:1905.11946, table 1.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import partial

from torch import nn
from torchvision import models

from MLPipeline.Classifier import Classifier, ModelSpec, Pretrained

# For these networks, torchvision's weights were trained with BatchNorm's eps at 1e-3, timm's with 1e-5. Exchanged, both
# would give wrong predictions, and no tensor in the file shows it.
OTHER_EPS_IN_TIMM = ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7")
# (image size, batch size): the image sizes of the paper, except for B0, which has those of the recipe `cards`.
SIZES = {
    "efficientnet_b0": (128, 32),
    "efficientnet_b1": (240, 32),
    "efficientnet_b2": (260, 16),
    "efficientnet_b3": (300, 16),
    "efficientnet_b4": (380, 8),
    "efficientnet_b5": (456, 8),
    "efficientnet_b6": (528, 4),
    "efficientnet_b7": (600, 4),
}
STAGES = ("stem", "stage1", "stage2", "stage3", "stage4", "stage5", "stage6", "stage7", "top")

# timm's modules -> ours, outside the blocks.
OUTER = {
    "conv_stem": "backbone.stem.0",
    "bn1": "backbone.stem.1",
    "conv_head": "backbone.top.0",
    "bn2": "backbone.top.1",
    "classifier": "head.1",
}
# timm's modules -> ours, inside a block of the first stage, which has no expansion, and of the other stages.
FIRST_STAGE = {
    "conv_dw": "0.0",
    "bn1": "0.1",
    "se.conv_reduce": "1.fc1",
    "se.conv_expand": "1.fc2",
    "conv_pw": "2.0",
    "bn2": "2.1",
}
LATER_STAGES = {
    "conv_pw": "0.0",
    "bn1": "0.1",
    "conv_dw": "1.0",
    "bn2": "1.1",
    "se.conv_reduce": "2.fc1",
    "se.conv_expand": "2.fc2",
    "conv_pwl": "3.0",
    "bn3": "3.1",
}


def build_efficientnet(name: str, num_classes: int, image_size: int) -> Classifier:
    """Return the EfficientNet called `name` with random weights, for any image size of at least 32."""
    network = models.get_model(name, weights=None, num_classes=num_classes)
    stages = OrderedDict(zip(STAGES, network.features, strict=True))
    stages["pool"] = nn.Sequential(network.avgpool, nn.Flatten())
    dropout, linear = network.classifier
    # torchvision's dropout works in place and would overwrite features that the caller still uses.
    head = nn.Sequential(nn.Dropout(dropout.p), linear)
    return Classifier(nn.Sequential(stages), head)


def rename_torchvision(key: str) -> str:
    """Return our name for a parameter that torchvision calls `key`; other names are returned unchanged."""
    if torchvision_stage := re.match(r"features\.([0-8])\.", key):
        return f"backbone.{STAGES[int(torchvision_stage[1])]}.{key[torchvision_stage.end() :]}"
    return key.replace("classifier", "head", 1) if key.startswith("classifier.1.") else key


def rename(key: str) -> str:
    """Return our name for a parameter that torchvision or timm calls `key`; other names are returned unchanged."""
    module, _, parameter = key.rpartition(".")
    if module in OUTER:
        return f"{OUTER[module]}.{parameter}"
    if block := re.fullmatch(r"blocks\.([0-6])\.(\d+)\.(.+)", module):
        stage, index, layer = block.groups()
        layers = FIRST_STAGE if stage == "0" else LATER_STAGES
        return f"backbone.stage{int(stage) + 1}.{index}.block.{layers.get(layer, layer)}.{parameter}"
    return rename_torchvision(key)


MODELS: dict[str, ModelSpec] = {
    name: ModelSpec(
        build=partial(build_efficientnet, name),
        source="EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, arXiv:1905.11946",
        defaults={
            "image_size": image_size,
            "batch_size": batch_size,
            "epochs": 10,
            "optimizer": "adam",
            "lr": 0.001,
            "freeze": "none",
        },
        min_image_size=32,
        pretrained=Pretrained.from_url(models.get_model_weights(name).DEFAULT.url),
        rename=rename_torchvision if name in OTHER_EPS_IN_TIMM else rename,
    )
    for name, (image_size, batch_size) in SIZES.items()
}
