"""The phases of a training: the head on stored features, then more layers, as many epochs as the time allows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from MLPipeline.Augment import make_augmentation
from MLPipeline.Classifier import ModelSpec
from MLPipeline.Config import NEUTRAL, Config, flag_name
from MLPipeline.Errors import UsageError

# What `--unfreeze-after` means unless the user or the model says otherwise.
FINE_TUNE: Mapping[str, Any] = {
    "freeze": "none",
    "epochs": 13,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 0.001,
    "schedule": "cosine",
    "weight_decay": 0.01,
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "ema": 0.99,
    "swa": 0.8,
    "augment": "hflip,crop",
}
# What only gradient descent has: a head that is solved takes none of these.
OF_DESCENT = (
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "schedule",
    "weight_decay",
    "ema",
    "swa",
    "clip_norm",
    "patience",
)
OF_LAYERS = ("hidden", "dropout")  # what only a head with more than a linear layer has
DEFAULT_VIEWS = 5  # augmented views per image, where frozen stages run only once per image
TUNED_VIEWS = 10  # the same in fine-tuning, which fits them more closely than a head does
HEAD_EPOCHS = 3  # before all layers are trained, where `--time` alone asks for it
USUAL_RATES = {"adam": 0.001, "adamw": 0.001, "sgd": 0.01}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """A part of the training: `config.freeze` says what stays fixed, `config.epochs` with which epoch it ends."""

    config: Config
    first_epoch: int = 0  # epochs done before it
    number: int = 0
    is_last: bool = True


def resolve(config: Config, spec: ModelSpec) -> Config:
    """Return the settings with defaults for everything unstated: those of fine-tuning if asked for, else the model's.

    Raises:
        UsageError: flags contradict each other.
    """
    config = replace(config, head=_head(config, spec))
    if (
        config.time
        and config.unfreeze_after is None
        and config.freeze is None
        and spec.defaults["freeze"] == "backbone"
    ):
        config = replace(config, unfreeze_after=HEAD_EPOCHS)
    if config.unfreeze_after is None:
        return _checked(_suit_rate(config, spec.defaults).resolve(spec.defaults).resolve(NEUTRAL))
    config = _suit_rate(config, {**spec.defaults, **FINE_TUNE, **spec.fine_tune})
    config = config.resolve(spec.fine_tune).resolve(FINE_TUNE).resolve(spec.defaults).resolve(NEUTRAL)
    if config.freeze == "backbone":
        raise UsageError("--freeze backbone: leaves nothing for --unfreeze-after to train", "Leave one of the two out")
    if (config.unfreeze_after or 0) >= config.epochs:
        what = f"--unfreeze-after {config.unfreeze_after}: not before the last of {config.epochs} epochs"
        raise UsageError(what, "Give more --epochs")
    return _checked(config)


def is_solved(config: Config) -> bool:
    """Return whether the head on the frozen backbone is solved, rather than trained by gradient descent."""
    return config.head not in (None, "linear")


def head_epochs(config: Config) -> int:
    """Return how many epochs come before the fine-tuning: a head that is solved counts as one."""
    return 1 if is_solved(config) else config.unfreeze_after or 0


def _head(config: Config, spec: ModelSpec) -> str:
    """Return how the head is fitted: as stated, else by gradient descent where its settings are stated, else as usual.

    Raises:
        UsageError: a stated head has no use for another flag.
    """
    usual = {**NEUTRAL, **spec.defaults}
    names = OF_LAYERS if config.unfreeze_after else (*OF_DESCENT, *OF_LAYERS)  # else they are those of fine-tuning
    stated = [name for name in names if getattr(config, name) is not None]
    is_frozen = (config.freeze or usual["freeze"]) == "backbone"
    if config.head is None:
        is_free = is_frozen and not (stated or config.unfreeze_after or config.time or config.find_lr)
        return usual["head"] if is_free else NEUTRAL["head"]
    if not is_solved(config):
        return config.head
    if config.find_lr:
        what = f"--find-lr: --head {config.head} is not trained by gradient descent, so it has no learning rate"
        raise UsageError(what, "Leave one of the two out")
    # The settings of an earlier run, which `--config` repeats, hold the usual values for what it did not use.
    if odd := next((name for name in stated if getattr(config, name) != usual.get(name)), None):
        flag, kind = flag_name(odd), "a single linear layer" if odd in OF_LAYERS else "not trained by gradient descent"
        what = f"{flag} {getattr(config, odd)}: --head {config.head} is {kind}"
        raise UsageError(what, f"Leave {flag} out, or give --head linear")
    if not (is_frozen or config.unfreeze_after or config.time):
        what = f"--head {config.head}: is fitted on a frozen backbone, which this run has not"
        raise UsageError(what, "Give --freeze backbone, or --unfreeze-after N to train more layers afterwards")
    return config.head


def _suit_rate(config: Config, defaults: Mapping[str, Any]) -> Config:
    """Return the settings with a learning rate that suits the stated optimizer, where the default is for another kind.

    Adam does not learn at SGD's 0.01: 34 % instead of 67 % on CIFAR-10 with two convolutions.
    """
    stated, default = config.optimizer, defaults.get("optimizer", config.optimizer)
    if stated is None or config.lr is not None or (stated == "sgd") == (default == "sgd"):
        return config
    logger.warning(
        "--optimizer %s: used with --lr %g, since the default learning rate is for %s",
        stated,
        USUAL_RATES[stated],
        default,
    )
    return replace(config, lr=USUAL_RATES[stated])


def _checked(config: Config) -> Config:
    """Return the resolved settings, once they are known not to contradict each other."""
    _check_folds(config)
    _check_repeats(config)
    augmentation = make_augmentation(config.augment)
    if config.views and (not augmentation or config.freeze == "none"):
        what, hint = "no views can be stored", "Add --augment NAMES, and freeze at least some stages"
        raise UsageError(f"--views {config.views}: {what}", hint)
    if augmentation.mixes and config.freeze != "none":
        what = f"--augment {augmentation}: images cannot be mixed after the frozen stages"
        raise UsageError(what, "Leave mixup and cutmix out, or give --freeze none")
    return config


def folds_are_heads(config: Config) -> bool:
    """Return whether `--folds` of these resolved settings fits heads on stored features, and repeats no training."""
    return config.freeze == "backbone" and not make_augmentation(config.augment)


def _check_folds(config: Config) -> None:
    """Make sure that the resolved settings leave something to do for `--folds` and `--ensemble`."""
    if config.folds and config.time:
        what = f"--folds {config.folds}: repeats a training, and --time plans a single one"
        raise UsageError(what, "Leave one of the two out, and give --unfreeze-after 3 to fine-tune")
    if config.ensemble and not config.folds:
        raise UsageError("--ensemble: averages what --folds trains", "Give it with --folds 5")
    if config.ensemble and folds_are_heads(config) and not is_solved(config):
        what = "--ensemble: averages the heads of the folds, each of a single layer and fitted in closed form"
        raise UsageError(what, "Give it with --head auto")


def _check_repeats(config: Config) -> None:
    """Make sure that the resolved settings leave something to average for `--repeats`."""
    what = f"--repeats {config.repeats}"
    if config.repeats == 1:
        return
    if config.time:
        raise UsageError(f"{what}: repeats a training, and --time plans a single one", "Leave one of the two out")
    if config.folds:
        raise UsageError(f"{what}: the folds would not test its average", "Leave it or --folds out")
    if config.freeze == "backbone" and is_solved(config):
        why = "a head that is fitted in closed form is the same each time"
        raise UsageError(f"{what}: {why}", "Give --unfreeze-after 3 to fine-tune")


def plan(config: Config, spec: ModelSpec) -> list[Phase]:
    """Return the phases of a run with resolved settings.

    The first phase trains the head with the model's own learning rate, batch size and optimizer: the flags are those of
    the fine-tuning.
    """
    if config.unfreeze_after is None:
        return [Phase(replace(config, epochs=1) if is_solved(config) else config)]
    own = {name: value for name, value in {**NEUTRAL, **spec.defaults}.items() if name not in ("image_size", "head")}
    number = head_epochs(config)
    head = replace(config, **own | {"freeze": "backbone", "epochs": number, "augment": "none"})
    tuned = replace(config, epochs=config.epochs - config.unfreeze_after + number, head=NEUTRAL["head"])
    return [Phase(head, is_last=False), Phase(tuned, number, number=1)]


def fit_into(phase: Phase, seconds_left: float, seconds_per_epoch: float) -> Phase:
    """Return the phase with as many of its epochs as fit into the time, perhaps none."""
    fitting = max(0, int(seconds_left / max(seconds_per_epoch, 1e-9)))
    num_epochs = min(phase.config.epochs, phase.first_epoch + fitting)
    return replace(phase, config=replace(phase.config, epochs=max(1, num_epochs)))
