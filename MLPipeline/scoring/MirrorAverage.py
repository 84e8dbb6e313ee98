"""Test-time augmentation: the logits are averaged over each image and its mirror image.

With a linear head on a frozen backbone, that equals averaging the features. It takes two passes of the network for each
image. Averaged logits have their own temperature and threshold, fitted on the validation images as those without it.

Whether it helps is measured on the validation images, each compared with itself. It is better only if the mean loss
falls by more than its 95 % interval, and no fewer images are classified correctly: averages are not always better, as
D. Shanmugam et al., Better Aggregation in Test-Time Augmentation, arXiv:2011.11156, show. Where the accuracy falls by
more than its interval, as with arrows that point left and right, it must not be used.
N images, C classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from MLPipeline.scoring.Intervals import mean_interval, paired_interval
from MLPipeline.scoring.Predictions import Predictions


@dataclass(frozen=True)
class MirrorAverage:
    """How averaged logits are used, or why they must not be."""

    temperature: float  # divides the averaged logits
    threshold: float | None  # confidence below which an answer is withheld; None without such a rule
    refusal: str = ""  # why mirror images must not be used; empty if they may be


@dataclass(frozen=True)
class MirrorEffect:
    """The validation images without and with averaging, each at its own temperature."""

    num_images: int
    accuracy: float
    tta_accuracy: float
    difference_ci95: tuple[float, float]  # of the accuracy, for paired samples
    loss: float
    tta_loss: float
    loss_difference_ci95: tuple[float, float]

    @property
    def is_better(self) -> bool:
        """Whether the loss falls significantly, and the accuracy does not."""
        return self.loss_difference_ci95[1] < 0 and self.tta_accuracy >= self.accuracy

    @property
    def is_worse(self) -> bool:
        """Whether the accuracy falls significantly."""
        return self.difference_ci95[1] < 0

    def to_text(self) -> str:
        """Return `validation accuracy 84.3 % (+0.4 points, 95 % interval -0.3 to +1.1), loss 0.4401, not 0.4523`."""
        low, high = (100 * bound for bound in self.difference_ci95)
        gain = 100 * (self.tta_accuracy - self.accuracy)
        return (
            f"validation accuracy {100 * self.tta_accuracy:.1f} % ({gain:+.1f} points, 95 % interval {low:+.1f} to "
            f"{high:+.1f}), loss {self.tta_loss:.4f}, not {self.loss:.4f}"
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the figures by name."""
        bounds = {name: list(getattr(self, name)) for name in ("difference_ci95", "loss_difference_ci95")}
        return asdict(self) | bounds | {"is_better": self.is_better}


def averaged(logits: Tensor, mirrored: Tensor) -> Tensor:
    """Return the mean (N, C) of the logits of images and of their mirror images."""
    return (logits + mirrored) / 2


def mirror_effect(alone: Predictions, both: Predictions) -> MirrorEffect:
    """Return how the averaged predictions `both` compare with those of the images `alone`: at least one image."""
    was_right, is_right = (each.predicted == each.labels for each in (alone, both))
    lost, won = int((was_right & ~is_right).sum()), int((~was_right & is_right).sum())
    kept, number = int((was_right & is_right).sum()), len(alone.labels)
    return MirrorEffect(
        number,
        was_right.double().mean().item(),
        is_right.double().mean().item(),
        paired_interval(kept, lost, won, number - kept - lost - won),
        alone.losses.mean().item(),
        both.losses.mean().item(),
        mean_interval((both.losses - alone.losses).numpy()),
    )
