"""Shared by all tests: one thread per process, small folders of images, the order of the files."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import tempfile

# Set before torch and OpenCV are imported, here and in subprocesses: on a busy machine, the threads of tiny operations
# mostly wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
# The cache's key is in the user's configuration folder, which tests leave alone; one for all tests of a process.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="configuration-")

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# Not `import cv2`: ReadImage sets its pixel limit, which counts only before the first import.
from MLPipeline.console import Signals
from MLPipeline.console.Signals import STOPPING, stop_signals
from MLPipeline.decoding.ReadImage import cv2
from tests.support.paths import TESTS
from tests.support.stopped_run import _interrupted, command, stopped  # noqa: F401  fixtures
from tests.support.trained_run import trained  # noqa: F401  a fixture

atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)

# A shell starts background jobs with SIGINT ignored, and nohup ignores SIGHUP: commands under test would inherit that.
for _signum in STOPPING:
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, signal.SIG_DFL if _signum != signal.SIGINT else signal.default_int_handler)

# A command that is stopped inside a test may take its time on a busy machine; else the process of the tests is ended.
Signals.GRACE_S, Signals.LIMIT_S = 60.0, 120.0

# A busy machine takes longer than hypothesis expects of an example.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")

MakeImages = Callable[..., Path]

# With `--dist loadfile` a worker runs whole files. The longest come first, so that all workers finish together.
LONGEST_FILES = (
    "campaigns/test_Kills.py",
    "test_ReadmeRuns.py",
    "test_Torchvision.py",
    "test_DeepPictures.py",
    "test_TorchvisionSteps.py",
    "test_Models.py",
    "console/test_PostponeDynamo.py",
    "test_TimmWeights.py",
    "report/test_Processes.py",
    "images/test_ManyImages.py",
    "training/test_ExactResume.py",
    "distributed/test_RanksRuns.py",
    "scoring/test_UnknownOnPhotographs.py",
    "report/test_Drawing.py",
    "commands/test_AuditImages.py",
    "scoring/test_Explain.py",
    "steps/test_CheckMirrors.py",
    "images/test_SamePicture.py",
    "audit/test_PlantedLabels.py",
    "audit/test_PlantedFaults.py",
)
# Their results depend on the processor's instructions: .ci/run repeats them with AVX2 alone (`-m arithmetic`).
ARITHMETIC_FILES = (
    "heads/test_LinearHead.py",
    "distributed/test_WholeBatch.py",
    "frozen/test_FastForward.py",
    "scoring/test_Calibrate.py",
    "scoring/test_Explain.py",
    "test_Classifier.py",
    "test_Device.py",
    "test_EfficientNetLite.py",
    "test_EngineWeights.py",
    "test_Evaluate.py",
    "test_Features.py",
    "test_Predict.py",
    "test_Residual.py",
    "test_Train.py",
    "training/test_FindLr.py",
    "tuning/test_Tune.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the files whose results depend on the processor, and put the longest files first."""
    assert all((TESTS / name).is_file() for name in (*LONGEST_FILES, *ARITHMETIC_FILES)), "a file has moved"
    place = {name: number for number, name in enumerate(LONGEST_FILES)}
    names = {item: item.path.relative_to(TESTS).as_posix() for item in items}
    for item, name in names.items():
        if name in ARITHMETIC_FILES:
            item.add_marker(pytest.mark.arithmetic)
    items.sort(key=lambda item: place.get(names[item], len(place)))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    """Undo what `Engine.main` sets up: no signal ends the process, and `caplog` hears the library in later tests."""
    yield
    stop_signals.uninstall()
    for logger in (logging.getLogger("MLPipeline"), logging.getLogger("Console")):
        logger.propagate = True
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


@pytest.fixture(scope="session")
def make_images() -> MakeImages:
    """Return `make(root, {"cat": 6, "dog": 6}, size=40, seed=0) -> root`, which draws `root/<class>/<number>.png`.

    Colour and shape follow from the class's name; place, size and noise from `seed`, class and number, so no two
    images are alike. A class may be a path ("train/cat").
    """

    def make(root: Path, classes: Mapping[str, int], size: int = 40, seed: int = 0) -> Path:
        for folder, number in classes.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            generator = np.random.default_rng([seed, *folder.encode()])
            for image in range(number):
                assert cv2.imwrite(str(root / folder / f"{image:03}.png"), _draw(Path(folder).name, size, generator))
        return root

    return make


def _draw(class_name: str, size: int, generator: np.random.Generator) -> np.ndarray:
    """Return a BGR image (size, size, 3): the shape and colour of a class on grey noise."""
    image = generator.integers(90, 166, (size, size, 3), dtype=np.uint8)
    kind = sum(class_name.encode())
    hue = kind * 37 % 180  # of OpenCV's 180: a, b, c and cat, dog, bird lie far apart
    colour = cv2.cvtColor(np.array([[[hue, 255, 255]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    x, y = generator.integers(size // 3, 2 * size // 3, 2).tolist()
    radius = int(generator.integers(size // 5, size // 3))
    if kind % 2:
        cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), colour, -1)
    else:
        cv2.circle(image, (x, y), radius, colour, -1)
    return image
