"""What a model trained on features in 8 bits would answer without them, for machines that cannot compute them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from MLPipeline.console.Console import progress
from MLPipeline.Features import Dataset, extract
from MLPipeline.images.ScanFolders import VAL
from MLPipeline.images.SplitImages import evenly, only
from MLPipeline.onednn.Int8Network import Shift
from MLPipeline.steps.Job import Job

_MOST = 100  # validation images whose features in fp32 are computed for this


def measure_shift(job: Job, dataset: Dataset, temperature: float) -> None:
    """Store beside a backbone in 8 bits how far the answers on validation images move if it is computed in fp32.

    With `auto` they are those on which 8 bits were compared with fp32, whose features are known already.
    """
    positions, config = np.intersect1d(job.quantization.compared, dataset.index.positions(VAL)), job.config
    chosen = positions if config.precision == "auto" else positions[evenly(len(positions), _MOST)]
    if job.model.quantized is None or not len(chosen):
        return
    exact = extract(
        job.model,
        only(dataset.index, chosen),
        dataset.image_size,
        config.output / "cache",
        "fp32",
        config.workers,
        progress,
        job.row_keys,
        cache_limit=config.cache_limit,
        preprocessing=job.preprocessing,
    )
    if exact.rows.are_pixels:  # the cache has no room for more features
        return
    found = exact.index.positions(VAL)
    with torch.inference_mode():
        rows = exact.rows.take(found), dataset.rows.take(found)
        first, second = ((job.model.head(each) / temperature).softmax(dim=1) for each in rows)
    changed = (first.argmax(dim=1) != second.argmax(dim=1)).float().mean().item()
    shift = Shift(len(found), changed, (first - second).abs().max().item())
    job.model.quantized = replace(job.model.quantized, shift=shift)
