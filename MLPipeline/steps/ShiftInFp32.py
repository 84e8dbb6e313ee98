"""What a model trained on features in 8 bits would answer without them, for machines that cannot compute them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from MLPipeline.decoding.ReadImage import DECODER
from MLPipeline.Features import Dataset
from MLPipeline.files.StoredResult import decode_arrays, encode_arrays, result_file, stored_result
from MLPipeline.frozen.FastForward import FastForward, forward_batch
from MLPipeline.frozen.FrozenStages import METHOD, frozen_hash
from MLPipeline.images.ScanFolders import VAL
from MLPipeline.quantized.Int8Network import Shift
from MLPipeline.steps.Job import Job
from MLPipeline.steps.Quantize import features_of, read_batches

MAX_COMPARED = 200  # validation images
_FORMAT = 1  # increases with every change to what is kept


def measure_shift(job: Job, dataset: Dataset, temperature: float) -> None:
    """Store beside a backbone in 8 bits how far the answers on validation images move if it is computed in fp32."""
    positions, config = dataset.index.positions(VAL), job.config
    chosen = positions[:: max(1, -(-len(positions) // MAX_COMPARED))]
    if job.model.quantized is None or not len(chosen):
        return
    about = _FORMAT, METHOD, config.image_size, config.fit, DECODER, frozen_hash(job.model), torch.__version__
    file = result_file(config.output / "cache", "in-fp32", about, job.row_keys[chosen].view(np.uint8))
    known = stored_result(file, lambda: _features(job, dataset, chosen), encode_arrays, decode_arrays)
    found = chosen[known["places"]]
    with torch.inference_mode():
        rows = torch.from_numpy(known["features"]), dataset.rows.take(found)
        first, second = ((job.model.head(each) / temperature).softmax(dim=1) for each in rows)
    changed = (first.argmax(dim=1) != second.argmax(dim=1)).float().mean().item()
    shift = Shift(len(found), changed, (first - second).abs().max().item())
    job.model.quantized = replace(job.model.quantized, shift=shift)


def _features(job: Job, dataset: Dataset, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Return the features in fp32 of the images at `chosen` (N,), and the places of those that can still be read."""
    batches = read_batches(job.config, dataset.index, job.preprocessing, chosen, forward_batch(job.device))
    found, features = features_of(FastForward(job.model, job.config.image_size, "fp32"), batches)
    return {"places": np.searchsorted(chosen, found), "features": features}
