"""What a model trained on features in 8 bits would answer without them, for machines that cannot compute them."""

from __future__ import annotations

from dataclasses import replace

import torch

from MLPipeline.Features import Dataset
from MLPipeline.frozen.FastForward import FastForward, forward_batch
from MLPipeline.images.ScanFolders import VAL
from MLPipeline.quantized.Int8Network import Shift
from MLPipeline.steps.Job import Job
from MLPipeline.steps.Quantize import features_of, read_batches

MAX_COMPARED = 200  # validation images


def measure_shift(job: Job, dataset: Dataset, temperature: float) -> None:
    """Store beside a backbone in 8 bits how far the answers on validation images move if it is computed in fp32."""
    positions, config = dataset.index.positions(VAL), job.config
    chosen = positions[:: max(1, -(-len(positions) // MAX_COMPARED))]
    if job.model.quantized is None or not len(chosen):
        return
    batches = read_batches(config, dataset.index, job.preprocessing, chosen, forward_batch(job.device))
    found, exact = features_of(FastForward(job.model, config.image_size, "fp32"), batches)
    with torch.inference_mode():
        rows = torch.from_numpy(exact), dataset.rows.take(found)
        first, second = ((job.model.head(each) / temperature).softmax(dim=1) for each in rows)
    changed = (first.argmax(dim=1) != second.argmax(dim=1)).float().mean().item()
    shift = Shift(len(found), changed, (first - second).abs().max().item())
    job.model.quantized = replace(job.model.quantized, shift=shift)
