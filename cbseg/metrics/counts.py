"""The raw counts that all scores of a slice, a scan or a dataset follow from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from cbseg.metrics.counting import count_errors, counting_scores, is_whole
from cbseg.metrics.segmentation import COUNTS, count_pixels, is_sparse, segmentation_scores, undefined_scores
from cbseg.metrics.surface import SURFACE_SCORES, surface_scores
from cbseg.metrics.thresholds import LOG_ODDS


@dataclass(frozen=True)
class Counts:
    """What was counted over some slices.

    Attributes:
        pixels: (4, K), see :func:`count_pixels`.
        errors: (5,), see :func:`count_errors`.
        slices: How many.
        whole: How many of them are known everywhere; the errors are theirs.
        sparse: How many are known at some pixels only, such as clicks; see :func:`is_sparse`.
        surface: (4,), see :func:`surface_sums`; zeros where boundaries were not measured.
        levels: (2, T + 1), see :func:`count_levels`; zeros where no probabilities were given.

    >>> from torch import tensor
    >>> one = Counts.of(tensor([[1, 0]]), tensor([[1, 1]]))
    >>> (one + one).scores()["sens"].item()
    0.5
    """

    pixels: Tensor
    errors: Tensor
    slices: int
    whole: int
    sparse: int = 0
    surface: Tensor = field(default_factory=lambda: torch.zeros(len(SURFACE_SCORES) + 1, dtype=torch.float64))
    levels: Tensor = field(default_factory=lambda: torch.zeros(2, len(LOG_ODDS) + 1, dtype=torch.long))

    @classmethod
    def of(cls, pred_mask: Tensor, mask: Tensor, num_classes: int = 2, **more: Tensor) -> "Counts":
        """Count one slice, on the CPU; both masks (H, W) integer. ``surface`` and ``levels`` are given, if wanted."""
        masks = pred_mask[None], mask[None]
        pixels, errors = count_pixels(*masks, num_classes).cpu(), count_errors(*masks).cpu()
        return cls(pixels, errors, 1, int(is_whole(mask[None])), int(is_sparse(mask[None])), **more)

    @classmethod
    def of_named(cls, named: Mapping[str, Any]) -> "Counts":
        """Return the counts of which :meth:`named` gave this."""
        pixels = torch.tensor([named[name] for name in COUNTS]).reshape(len(COUNTS), -1)
        slices = named["slices"]
        counts = cls(
            pixels, torch.tensor(named["count_errors"]), slices, named.get("whole", slices), named.get("sparse", 0)
        )
        return (
            replace(counts, surface=torch.tensor(named["surface"], dtype=torch.float64))
            if "surface" in named
            else counts
        )

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def scores(self) -> dict[str, Tensor]:
        """Return ``SCORES`` and ``COUNTING_SCORES``, and ``SURFACE_SCORES`` where measured: each a scalar, float64."""
        scores = segmentation_scores(self.pixels, self.sparse) | counting_scores(self.errors, self.whole)
        return scores | (surface_scores(self.surface) if self.surface.any() else {})

    def class_scores(self) -> list[dict[str, Tensor]]:
        """Return ``SCORES`` of each foreground class alone, each a scalar, float64."""
        return [segmentation_scores(pixels, self.sparse) for pixels in self.pixels.split(1, dim=1)]

    def own_dice(self) -> Tensor:
        """Return the mean of the classes' Dice, of those that truth or prediction holds; NaN if there is none.

        Unlike the dataset's Dice it is defined where a scan lacks one of several classes. Shape: scalar, float64.
        """
        return torch.stack([scores["dice"] for scores in self.class_scores()]).nanmean()

    def undefined(self) -> dict[str, str]:
        """Return why scores are undefined, by name."""
        return undefined_scores(self.pixels, self.sparse)

    def named(self) -> dict[str, Any]:
        """Return them for JSON: TP, FP, FN, TN, each a list for several foreground classes; errors by level; slices.

        Where slices are not known everywhere, also how many are (``whole``), and how many at some pixels (``sparse``);
        where boundaries were measured, their sums (``surface``).
        """
        pixels = (self.pixels[:, 0] if self.pixels.shape[1] == 1 else self.pixels).tolist()
        named = dict(zip(COUNTS, pixels, strict=True)) | {"count_errors": self.errors.tolist(), "slices": self.slices}
        named |= {} if self.whole == self.slices else {"whole": self.whole, "sparse": self.sparse}
        return named | ({"surface": self.surface.tolist()} if self.surface.any() else {})


def score_scans(scans: Mapping[str, Counts]) -> dict[str, Any]:
    """Return what a run's result says of a test set: ``test``, ``undefined``, ``counts`` and ``scans``.

    The scores are those of the sum over scans, None where they are undefined; ``dice_mean`` is the mean of the scans'
    own Dice (:meth:`Counts.own_dice`), without those where neither truth nor prediction holds infection.

    Args:
        scans: Each scan's counts.
    """
    total = reduce(add, scans.values())
    scores = {name: score.item() for name, score in total.scores().items()}
    scores["dice_mean"] = torch.stack([counts.own_dice() for counts in scans.values()]).nanmean().item()
    return {
        "test": {name: None if math.isnan(score) else score for name, score in scores.items()},
        "undefined": total.undefined(),
        "counts": total.named(),
        "scans": {scan: count.named() for scan, count in scans.items()},
    }
