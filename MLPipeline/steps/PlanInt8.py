"""Whether the frozen backbone of a training is to be computed in 8 bits: what was asked for, or what pays off.

Quantizing costs time before the first image is computed. `auto` therefore quantizes only where torch computes in fp32,
and only where so many images are to be computed that it is earned back. The rule depends on the
images and the network alone, not on clocks or caches: the same command always gives the same numbers on a machine.

Measured on two cores, an image of ResNet50 takes 24 ms in fp32 and 7 in 8 bits with AVX-512 and VNNI, 45 and 23 with
AVX2; one of EfficientNet-Lite0 4.0 and 2.0, 6.8 and 4.2. `seconds_saved` returns 18 and 2.3 ms for their 3.3 and 0.31
billion multiply-adds that give 8.8 and 5.3 million values. Calibration and check compute as much in fp32 as about 1,000
images save, and take 2.5 s besides. So ResNet50 is quantized from 1,150 images on, and Lite0 from 2,100.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.Device import fast_dtypes
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.frozen.NumberFormat import NO_KERNELS
from MLPipeline.Models import find_model
from MLPipeline.onednn.Int8Network import can_compute_int8
from MLPipeline.training.Phases import DEFAULT_VIEWS, plan

COST_S, COST_IMAGES = 2.5, 1000  # of quantizing
SAVED_PER_OPERATION, SAVED_PER_VALUE = 5e-12, 0.1e-9  # seconds, by a multiply-add and by a value that they give


def plans_int8(config: Config, model: Classifier, num_images: int) -> bool:
    """Return whether the frozen backbone is to be quantized: stated, or worth it for `num_images`.

    Raises:
        UsageError: int8 is stated for a training that it is not for.
        ResourceError: int8 is stated, and there are no kernels for it.
    """
    obstacle = _obstacle(config, model)
    if config.precision == "int8":
        if obstacle:
            raise UsageError(f"--precision int8: {obstacle[0]}", obstacle[1])
        if not can_compute_int8():
            raise ResourceError(NO_KERNELS, "Leave it out")
        return True
    if config.precision != "auto" or obstacle or fast_dtypes(model.mean.device)[0] != torch.float32:
        return False
    if not can_compute_int8():
        return False
    number = num_images * (1 + (config.views or DEFAULT_VIEWS if config.augment not in (None, "none") else 0))
    return number > COST_IMAGES and (number - COST_IMAGES) * seconds_saved(model, config.image_size) >= COST_S


def _obstacle(config: Config, model: Classifier) -> tuple[str, str] | None:
    """Return why this training cannot use 8 bits, with a hint; None if it can."""
    if config.find_lr:
        return "is not for --find-lr", "Leave one of the two out"
    if len(plan(config, find_model(config.model))) > 1 or config.freeze != "backbone":
        return "is for a backbone that stays frozen, and this training changes layers of it", (
            "Leave it out, or give --freeze backbone"
        )
    if ranks.size > 1:
        return f"is for one process, not for {ranks.size} ranks", "Leave it out, or start without torchrun"
    if model.mean.device.type != "cpu":
        return f"not on {model.mean.device.type}", "Leave it out, or give --device cpu"
    return None


def seconds_saved(model: Classifier, image_size: int) -> float:
    """Return about how much faster an image is computed in 8 bits than in fp32, on two cores."""
    operations, values = count_operations(model, image_size)
    return SAVED_PER_OPERATION * operations + SAVED_PER_VALUE * values


@torch.inference_mode()
def count_operations(model: Classifier, image_size: int) -> tuple[int, int]:
    """Return the multiply-adds of the convolutions and products of the backbone for one image; the values they give."""
    operations, values = 0, 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal operations, values
        weight = module.weight
        assert isinstance(weight, Tensor)
        operations += weight.numel() // weight.shape[0] * output[0].numel()
        values += output[0].numel()

    kinds = (nn.Conv2d, nn.Linear)
    hooks = [each.register_forward_hook(count) for each in model.backbone.modules() if isinstance(each, kinds)]
    try:
        model.backbone(model.normalize(torch.zeros(1, 3, image_size, image_size, device=model.mean.device)))
    finally:
        for hook in hooks:
            hook.remove()
    return operations, values
