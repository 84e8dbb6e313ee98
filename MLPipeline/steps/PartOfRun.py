"""Trainings inside a run: those of `--folds` on other images, those of `--repeats` with another seed.

Each has a folder inside that of the run, so that a run that was stopped continues in the training in which it was
stopped.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

from MLPipeline.Classifier import Classifier
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.RunFolder import Run
from MLPipeline.images.ScanFolders import ImageIndex
from MLPipeline.steps.Job import Job

_FOLDER = "parts"


def part_of(job: Job, name: str, index: ImageIndex, seed: int) -> Job:
    """Return a training like that of the run, from the same initial weights, on the images of `index`, with `seed`.

    Raises:
        ResourceError: its folder, `parts/NAME` in that of the run, cannot be made.
    """
    folder = job.run.path / _FOLDER / name
    _make_folder(folder)
    return Job(
        replace(job.run, path=folder),
        replace(job.config, resume=str(folder), seed=seed, folds=None, ensemble=False, repeats=1),
        index,
        job.inspection,
        cast(Classifier, copy.deepcopy(job.initial)),
        job.weights,
        job.device,
        job.start,
        is_part=True,
    )


def remove_parts(run: Run) -> None:
    """Delete what the parts of a finished run have stored."""
    shutil.rmtree(run.path / _FOLDER, ignore_errors=True)


def _make_folder(folder: Path) -> None:
    error = None
    if ranks.is_first:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as caught:
            error = unwritable(folder, caught)
    if error := ranks.from_first(error):
        raise error
