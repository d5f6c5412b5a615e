"""PL, the plain point loss (paper, eq. 2; Bearman et al. 2016)."""

import torch.nn.functional as F
from torch import Tensor

from cbseg.errors import check_choice
from cbseg.losses.base import Batch, SupervisedLoss, Terms, check_shapes
from cbseg.points import IGNORE


def point_loss(logits: Tensor, points: Tensor, reduction: str = "image") -> Tensor:
    r"""Compute the cross-entropy on the annotated pixels only (paper, eq. 2).

    .. math:: L_P = -\frac{1}{|I|} \sum_{j \in I} \log f_\theta(X)_{j, Y_j}

    Args:
        logits: Raw scores.
        points: A class index at each annotated pixel, ``IGNORE`` (255) elsewhere.
        reduction: ``image``, the mean over an image's annotated pixels, then over images; or ``batch``, the mean over
            the batch's annotated pixels. An image without annotated pixels contributes 0.

    Shape:
        - logits: :math:`(B, C, H, W)`; points: :math:`(B, H, W)`; output: scalar.

    Raises:
        ValueError: If the spatial shapes differ; the message gives both.

    >>> import torch
    >>> logits = torch.zeros(1, 2, 2, 2)
    >>> points = torch.tensor([[[1, 255], [255, 0]]])
    >>> round(point_loss(logits, points).item(), 4)  # log 2
    0.6931
    """
    check_shapes(logits, points, "points")
    cross_entropy = F.cross_entropy(logits, points.long(), ignore_index=IGNORE, reduction="none").flatten(1).sum(1)
    annotated = (points != IGNORE).flatten(1).sum(1)
    if reduction == "batch":
        return cross_entropy.sum() / annotated.sum().clamp(min=1)
    return (cross_entropy / annotated.clamp(min=1)).mean()


class PointLoss(SupervisedLoss):
    """:func:`point_loss` as a module.

    Args:
        reduction: ``image`` or ``batch``.

    Raises:
        InputError: If the reduction does not exist.
    """

    def __init__(self, reduction: str = "image") -> None:
        super().__init__()
        check_choice("reduction", reduction, ["image", "batch"])
        self.reduction = reduction

    def terms(self, logits: Tensor, batch: Batch) -> Terms:
        """Return one term, ``point``."""
        return {"point": point_loss(logits, batch["points"], self.reduction)}
