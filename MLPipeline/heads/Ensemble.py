"""`--ensemble`: the average of what all folds have trained, kept where it validates better."""

from __future__ import annotations

from dataclasses import dataclass

NOT_COMPARED = "--ensemble: there are no validation images to compare the average with, so it is not used"


@dataclass(frozen=True)
class Ensemble:
    """The validation losses of the head or network of a run, and of the average of those of all folds."""

    alone: float
    loss: float

    @property
    def is_better(self) -> bool:
        """Whether the average is kept."""
        return self.loss < self.alone

    def to_line(self, average: str, own: str) -> str:
        """Return the line for the console that says which of the two is kept, by their names."""
        better, worse = sorted((self.loss, self.alone))
        return f"         kept {average if self.is_better else own}: validation loss {better:.4f}, not {worse:.4f}"

    def to_plain(self) -> dict[str, float | bool]:
        """Return the entry `ensemble` of metrics.json."""
        return {"alone": self.alone, "loss": self.loss, "is_kept": self.is_better}
