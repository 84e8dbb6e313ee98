"""A model computes in the number format that it was trained with: what that means on the machine at hand."""

from __future__ import annotations

import logging

from MLPipeline.Classifier import Classifier
from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.onednn.Int8Network import can_compute_int8

NO_KERNELS = "--precision int8: torch has no fast kernels for 8 bits on this processor"

logger = logging.getLogger(__name__)


def settle_format(model: Classifier, precision: str) -> None:
    """Make `model`, which is on its device, compute in the number format that it was trained with.

    A backbone in 8 bits is dropped where it cannot be computed; a warning says how far that moves the answers.

    Raises:
        UsageError: `precision` is int8, and the model was not trained in it, or is not on the CPU.
        ResourceError: `precision` is int8, and there are no kernels for it.
    """
    if model.quantized is None:
        if precision == "int8":
            what = "--precision int8: the model was not trained in 8 bits"
            raise UsageError(what, "Leave it out, or train with --precision int8")
        return
    if precision not in ("auto", "int8"):
        return
    if model.mean.device.type != "cpu":
        if precision == "int8":
            raise UsageError(f"--precision int8: not on {model.mean.device.type}", "Give --device cpu")
        _drop(model, "is computed in 8 bits on the CPU only")
    elif not can_compute_int8():
        if precision == "int8":
            raise ResourceError(NO_KERNELS, "Leave it out")
        _drop(model, "cannot be computed in 8 bits: torch has no fast kernels for them on this processor")


def _drop(model: Classifier, why: str) -> None:
    """Let torch compute the backbone of `model`."""
    assert model.quantized is not None
    shift = model.quantized.shift
    moved = f": {shift.to_text()}" if shift else "; how far that moves the answers was not measured"
    logger.warning("the model was trained in 8 bits and %s, so it is not quantized here%s", why, moved)
    model.quantized = None
