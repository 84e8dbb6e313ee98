"""What to do next with a run, each with the command to type and the accuracy that it may add.

The estimates come from the validation images and the stored features of the training images, or from measurements on
other data sets, and the text says which. Test images play no part: figures that guide decisions are optimistic.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from MLPipeline.Config import DEFAULT_DATA, Config, flag_words
from MLPipeline.Models import find_model
from MLPipeline.report.Names import drawable
from MLPipeline.report.Page import points

MAX_SHOWN = 5
MIN_GAIN = 0.0005  # a smaller gain is not worth a suggestion
FINE_TUNED_EPOCHS = 3
NUM_FOLDS = 5
LARGER_MODEL = "efficientnet_lite2"
# The shares of the errors that were removed, the smallest and the largest on the sets in docs/benchmarks.md: clothing
# (89.0 to 92.9 %) and 53 drawn playing cards (60.2 to 98.4 %), both with EfficientNet-Lite0.
BY_FINE_TUNING = (0.35, 0.96)
# Settings of the run that other verbs repeat, and those that another training repeats.
_OF_IMAGES = (
    *("data", "labels", "split_folders", "group", "fixes", "follow_links", "val_fraction", "test_fraction"),
    "output",
)
_KEPT = (*_OF_IMAGES, "fit", "weights", "seed")


@dataclass(frozen=True)
class Suggestion:
    """One thing to do, and between which bounds it should change the accuracy; None: no estimate."""

    what: str
    command: str
    gain: tuple[float, float] | None = None
    basis: str = ""  # what the estimate rests on

    @property
    def expected(self) -> float:
        """The middle of the estimate, by which suggestions are sorted; those without one come last."""
        return -1.0 if self.gain is None else sum(self.gain) / 2

    def to_text(self) -> str:
        """Return `200 more images: +0.3 to +0.9 points (...)`."""
        estimate = "" if self.gain is None else f": {points(self.gain)}"
        return f"{self.what}{estimate}{f' ({self.basis})' if self.basis else ''}"


@dataclass(frozen=True)
class Known:
    """What a run knows about itself when it ends, from its training and validation images."""

    config: Config
    run: str  # the folder of the run
    from_scratch: bool
    accuracy: float | None  # on the validation images; None without any
    num_images: int = 0  # with stored features
    curve: Mapping[str, Any] | None = None  # the entry `learning_curve` of metrics.json
    num_suspects: int = 0
    tta: Mapping[str, Any] | None = None  # the entry `tta` of metrics.json
    few_tested: str = ""  # `only 30 test images`, where folds would say more
    beats_baseline: bool = True  # on the validation images, significantly better than the majority-class baseline

    @property
    def is_frozen(self) -> bool:
        """Whether only a head was trained."""
        return self.config.freeze == "backbone" and not self.from_scratch


def suggestions(known: Known) -> list[Suggestion]:
    """Return up to five suggestions, the largest expected gain first, those without an estimate last."""
    found = [
        _pretrained(known),
        _fine_tuning(known),
        _more_images(known),
        _labels(known),
        _views(known),
        _backbone(known),
        _folds(known),
    ]
    useful = [each for each in found if each and (each.gain is None or each.expected >= MIN_GAIN)]
    return sorted(useful, key=lambda each: -each.expected)[:MAX_SHOWN]


def suggestion_lines(found: list[Suggestion]) -> list[str]:
    """Return the lines for the console: two for each suggestion, of which the second is the command."""
    lines = [line for each in found for line in (each.to_text(), f"    {each.command}")]
    return [f"{'improve' if not place else '':8} {line}" for place, line in enumerate(lines)]


def _pretrained(known: Known) -> Suggestion | None:
    if not known.from_scratch:
        return None
    return Suggestion("start from ImageNet weights", _train(known.config, model=LARGER_MODEL))


def _fine_tuning(known: Known) -> Suggestion | None:
    if not known.is_frozen or known.accuracy is None:
        return None
    command = _train(known.config, unfreeze_after=FINE_TUNED_EPOCHS)
    if not known.beats_baseline:  # nothing shows that there is something to learn, unlike on the other data sets
        basis = "no estimate: on the validation images the head is not significantly better than the majority class"
        return Suggestion("fine-tuning", command, basis=basis)
    low, high = ((1 - known.accuracy) * share for share in BY_FINE_TUNING)
    shares = " to ".join(f"{100 * share:.0f}" for share in BY_FINE_TUNING)
    return Suggestion(
        "fine-tuning", command, (low, high), f"on two other data sets it removed {shares} % of the errors"
    )


def _more_images(known: Known) -> Suggestion | None:
    if known.curve is None:
        return None
    names = " and ".join(drawable(name, 30) for name in known.curve["class_gains"])
    text = f"{known.curve['next_images']} more images, which help {names} most" if names else ""
    text = text or f"{known.curve['next_images']} more images"
    low, high = known.curve["gain_ci95"]
    command = "python Engine.py label PHOTOS"
    return Suggestion(f"{text}; then ask again", command, (low, high), "learning curve, 95 % interval")


def _labels(known: Known) -> Suggestion | None:
    if not known.num_suspects:
        return None
    number = known.num_suspects
    text = f"decide on {number} label{'s' if number > 1 else ''} that look{'' if number > 1 else 's'} wrong"
    words = [word for name in _OF_IMAGES for word in _stated(known.config, name)]
    command = shlex.join(["python", "Engine.py", "audit", *words])
    return Suggestion(text, command, (0.0, number / known.num_images), "if all of these are wrong")


def _views(known: Known) -> Suggestion | None:
    found = known.tta
    if not found or not found["is_better"]:
        return None
    gain = found["tta_accuracy"] - found["accuracy"]
    command = f"python Engine.py predict IMAGE_OR_FOLDER --tta --run {shlex.quote(known.run)}"
    basis = f"{found['num_images']} validation images"
    return Suggestion("average over each image and its mirror image, at twice the time", command, (gain, gain), basis)


def _backbone(known: Known) -> Suggestion | None:
    if not known.is_frozen:
        return None
    words = [word for name in _OF_IMAGES for word in _stated(known.config, name)]
    return Suggestion("compare backbones on these images", shlex.join(["python", "Engine.py", "choose", *words]))


def _folds(known: Known) -> Suggestion | None:
    if not known.few_tested or known.config.time or known.config.repeats > 1:  # `--time` plans a single training
        return None
    text = f"there are {known.few_tested}: test every image once, for a narrower interval"
    if known.is_frozen:
        return Suggestion(text, _train(known.config, folds=NUM_FOLDS))
    words = ["python", "Engine.py", "--config", f"{known.run}/config.json", "--folds", str(NUM_FOLDS)]
    return Suggestion(f"{text}, in {NUM_FOLDS + 1} times the time", shlex.join(words))


def _train(config: Config, **changed: Any) -> str:
    """Return the command that trains on the same images, with the settings `changed`."""
    words = ["python", "Engine.py", "--model", changed.pop("model", config.model)]
    words += [word for name in _KEPT for word in _stated(config, name)]
    if words[3] == config.model and config.image_size != find_model(config.model).defaults.get("image_size"):
        words += ["--image-size", str(config.image_size)]
    for name, value in changed.items():
        words += flag_words(name, value)
    return shlex.join(words)


def _stated(config: Config, name: str) -> list[str]:
    """Return the flag and the value of a setting; nothing if it has its default."""
    value = getattr(config, name)
    if value == getattr(Config, name) or (name == "data" and value == DEFAULT_DATA):
        return []
    return flag_words(name, value)
