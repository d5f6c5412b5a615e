"""The raw counts that all scores of a slice, a scan or a dataset follow from."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cbseg.metrics.counting import count_errors, counting_scores
from cbseg.metrics.segmentation import COUNTS, count_pixels, segmentation_scores


@dataclass(frozen=True)
class Counts:
    """Pixels (4, K), see :func:`count_pixels`; counting errors (5,), see :func:`count_errors`; and how many slices.

    >>> from torch import tensor
    >>> one = Counts.of(tensor([[1, 0]]), tensor([[1, 1]]))
    >>> (one + one).scores()["sens"].item()
    0.5
    """

    pixels: Tensor
    errors: Tensor
    slices: int

    @classmethod
    def of(cls, pred_mask: Tensor, mask: Tensor, num_classes: int = 2) -> "Counts":
        """Count one slice, on the CPU; both masks (H, W) integer."""
        pixels = count_pixels(pred_mask[None], mask[None], num_classes)
        return cls(pixels.cpu(), count_errors(pred_mask[None], mask[None]).cpu(), 1)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.pixels + other.pixels, self.errors + other.errors, self.slices + other.slices)

    def scores(self) -> dict[str, Tensor]:
        """Return ``SCORES`` and ``COUNTING_SCORES``, each a scalar, float64."""
        return segmentation_scores(self.pixels) | counting_scores(self.errors, self.slices)

    def named(self) -> dict[str, Any]:
        """Return them for JSON: TP, FP, FN, TN, each a list for several foreground classes; errors by level; slices."""
        pixels = (self.pixels[:, 0] if self.pixels.shape[1] == 1 else self.pixels).tolist()
        return dict(zip(COUNTS, pixels, strict=True)) | {"count_errors": self.errors.tolist(), "slices": self.slices}
