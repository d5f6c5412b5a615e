"""Full supervision: weighted cross-entropy and weighted IoU (paper §4.2; F3Net, Wei et al. 2019, eq. 3 and 5)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cbseg.losses.base import Batch, SupervisedLoss, Terms, check_shapes
from cbseg.points import IGNORE

_WINDOW = 31  # pixels; F3Net's neighbourhood for the weight


def _foreground_logits(logits: Tensor) -> Tensor:
    """Return each foreground class's log-odds against all others, whose sigmoid is the softmax probability."""
    others = [torch.cat([logits[:, :c], logits[:, c + 1 :]], 1).logsumexp(1) for c in range(1, logits.shape[1])]
    return logits[:, 1:] - torch.stack(others, 1)


def weighted_bce_iou_terms(logits: Tensor, mask: Tensor) -> Terms:
    """Compute the two terms of :func:`weighted_bce_iou_loss`, ``bce`` and ``iou``."""
    check_shapes(logits, mask, "mask")
    odds = _foreground_logits(logits)
    y = torch.stack([mask == c for c in range(1, logits.shape[1])], 1).to(odds.dtype)
    weight = 1 + 5 * (F.avg_pool2d(y, _WINDOW, stride=1, padding=_WINDOW // 2) - y).abs()
    weight = weight * (mask != IGNORE)[:, None]
    p = odds.sigmoid()
    bce = F.binary_cross_entropy_with_logits(odds, y, reduction="none")
    over, known = (2, 3), (mask != IGNORE).flatten(1).any(1).sum().clamp(min=1)  # images
    intersection = (weight * p * y).sum(over)
    union = (weight * (p + y - p * y)).sum(over)
    return {
        "bce": ((weight * bce).sum(over) / weight.sum(over).clamp(min=1)).mean(1).sum() / known,
        "iou": (1 - (intersection + 1) / (union + 1)).mean(1).sum() / known,
    }


def weighted_bce_iou_loss(logits: Tensor, mask: Tensor) -> Tensor:
    r"""Compute weighted binary cross-entropy plus weighted IoU (F3Net, eq. 3 and 5).

    .. math::
        w = 1 + 5\,|\mathrm{avgpool}_{31}(y) - y|, \qquad
        L = \frac{\sum w \cdot \mathrm{bce}(p, y)}{\sum w}
            + 1 - \frac{\sum w\,p\,y + 1}{\sum w\,(p + y - p\,y) + 1}

    per image, then the mean over images of which anything is known; with more than two classes also over the foreground
    classes, each against the rest. Pixels outside the image count as background in the average pool, and so do those
    whose class is not known; these have the weight 0.

    Args:
        logits: Raw scores.
        mask: The class of every pixel, 0 for background, ``IGNORE`` (255) where it is not known.

    Shape:
        - logits: :math:`(B, C, H, W)`; mask: :math:`(B, H, W)`; output: scalar.

    Raises:
        ValueError: If the spatial shapes differ; the message gives both.

    >>> sure = torch.tensor([[-20.0, 20.0]]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    >>> round(weighted_bce_iou_loss(sure, torch.ones(1, 4, 4, dtype=torch.long)).item(), 4)
    0.0
    """
    return torch.stack(list(weighted_bce_iou_terms(logits, mask).values())).sum()


class WeightedBCEIoULoss(SupervisedLoss):
    """:func:`weighted_bce_iou_loss` as a module."""

    labels = "mask"

    def terms(self, logits: Tensor, batch: Batch) -> Terms:
        """Return two terms, ``bce`` and ``iou``."""
        return weighted_bce_iou_terms(logits, batch["mask"])
