"""How well regions are counted and localised (paper §4.4), as torchmetrics.Metric classes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from cbseg.metrics.segmentation import check_masks
from cbseg.points import IGNORE, find_regions, is_infection

COUNTING_SCORES = ("mae", "game1", "game2", "game3", "game")
"""GAME at levels 0 to 4: the first is the mean absolute error, the last the paper's GAME."""


def region_grid(mask: NDArray[np.integer | np.bool_], level: int) -> NDArray[np.int64]:
    r"""Count the regions that have their centroid in each cell of a grid that tiles the whole image.

    Args:
        mask: A slice's mask; a region is an 8-connected component of what is not background.
        level: L; the grid has :math:`2^L \times 2^L` cells, whose sides need not be whole pixels.

    Shape:
        - mask: :math:`(H, W)`; output: :math:`(2^L, 2^L)`.

    >>> region_grid(np.array([[1, 0, 0, 0], [0, 0, 0, 1]]), level=1)
    array([[1, 0],
           [0, 1]])
    """
    regions, count = find_regions(is_infection(np.asarray(mask)))
    pixels = np.nonzero(regions)
    region = regions[pixels] - 1
    sizes = np.bincount(region, minlength=count)
    grid = np.zeros((2**level, 2**level), np.int64)
    cells = [
        # pixel k reaches from k to k + 1
        ((np.bincount(region, places, count) / sizes + 0.5) / side * 2**level).astype(int)
        for places, side in zip(pixels, mask.shape, strict=True)
    ]
    np.add.at(grid, tuple(cells), 1)
    return grid


def is_whole(mask: Tensor) -> Tensor:
    """Tell which masks are known everywhere.

    Shape:
        - mask: :math:`(B, H, W)`; output: :math:`(B,)`.
    """
    return (mask != IGNORE).flatten(1).all(1)


def count_errors(pred_mask: Tensor, mask: Tensor, level: int = 4) -> Tensor:
    """Sum the counting errors of :class:`GAME` over cells and images, at each level from 0 to ``level``.

    Images that are not known everywhere are left out, as are their regions; see :func:`is_whole`.

    Shape:
        - pred_mask, mask: :math:`(B, H, W)` integer, 0 for background; output: :math:`(L + 1,)`, int64.

    Raises:
        ValueError: If the shapes differ or the masks are not integer.
    """
    check_masks(pred_mask, mask)
    errors = np.zeros(level + 1, np.int64)
    whole = is_whole(mask)
    for predicted, true in zip(pred_mask[whole].cpu().numpy(), mask[whole].cpu().numpy(), strict=True):
        surplus = region_grid(predicted, level) - region_grid(true, level)
        for k in range(level + 1):
            cells, merged = 2**k, 2 ** (level - k)
            errors[k] += np.abs(surplus.reshape(cells, merged, cells, merged).sum((1, 3))).sum()
    return torch.from_numpy(errors).to(mask.device)


def counting_scores(errors: Tensor, images: int | Tensor) -> dict[str, Tensor]:
    """Compute the mean absolute error and GAME at levels 1 to 4 (``game``) from errors summed over images.

    Shape:
        - errors: :math:`(5,)`; each score: scalar, float64.

    >>> {name: score.item() for name, score in counting_scores(torch.tensor([1, 2, 2, 3, 4]), 2).items()}
    {'mae': 0.5, 'game1': 1.0, 'game2': 1.0, 'game3': 1.5, 'game': 2.0}
    """
    return dict(zip(COUNTING_SCORES, errors.double() / images, strict=True))


class _CountErrors(Metric):
    """The errors of :func:`count_errors`, added up over images, batches and processes."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    errors: Tensor
    images: Tensor

    def __init__(self, level: int) -> None:
        super().__init__()
        if level < 0:
            raise ValueError(f"level={level}: GAME's level is 0 or more")
        self.level = level
        self.add_state("errors", torch.zeros(level + 1, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, pred_mask: Tensor, mask: Tensor) -> None:
        """Count a batch's regions; see :func:`count_errors`."""
        self.errors += count_errors(pred_mask, mask, self.level).to(self.errors)
        self.images += is_whole(mask).sum().to(self.images)


class GAME(_CountErrors):
    r"""Grid average mean absolute error of the number of regions (paper §4.4; Guerrero-Gómez-Olmedo et al. 2015).

    .. math:: \mathrm{GAME}(L) = \frac{1}{N} \sum_{n=1}^{N} \sum_{c=1}^{4^L} |\hat{r}_n^c - r_n^c|

    over N images, where :math:`\hat{r}_n^c` and :math:`r_n^c` count the predicted and the true regions whose
    centroid lies in cell c of a grid of :math:`2^L \times 2^L` cells that tile the image. Regions are 8-connected.
    Errors add up over images, batches and processes.

    Args:
        level: L. ``GAME(0)`` is :class:`CountMAE`, and GAME never falls as L grows.

    Raises:
        ValueError: If L is negative.

    Shape:
        - update: pred_mask and mask, both :math:`(B, H, W)` integer, 0 for background; compute: scalar, NaN without
          images.

    >>> metric = GAME(level=1)
    >>> metric.update(torch.tensor([[[1, 0], [0, 0]]]), torch.tensor([[[0, 0], [0, 1]]]))
    >>> metric.compute().item()
    2.0
    """

    def __init__(self, level: int = 4) -> None:
        super().__init__(level)

    def compute(self) -> Tensor:
        """Return GAME so far."""
        return self.errors[-1].double() / self.images


class CountingScores(_CountErrors):
    """``COUNTING_SCORES`` in one pass: the mean absolute error, and GAME at levels 1 to 4.

    Shape:
        - update: see :class:`GAME`; compute: a scalar for each of ``mae game1 game2 game3 game``.
    """

    def __init__(self) -> None:
        super().__init__(level=4)

    def compute(self) -> dict[str, Tensor]:
        """Return the scores so far; see :func:`counting_scores`."""
        return counting_scores(self.errors, self.images)


class CountMAE(GAME):
    """Mean absolute error of the number of regions in an image (paper §4.4): ``GAME(level=0)``.

    >>> metric = CountMAE()
    >>> metric.update(torch.tensor([[[1, 0, 1]]]), torch.tensor([[[0, 1, 0]]]))
    >>> metric.compute().item()
    1.0
    """

    def __init__(self) -> None:
        super().__init__(level=0)
