"""PL, the plain point loss (paper, eq. 2; Bearman et al. 2016), and clicks grown to discs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cbseg.errors import ArgumentError, check_choice
from cbseg.losses.base import Batch, SupervisedLoss, Terms, check_shapes
from cbseg.points import IGNORE


def point_loss(logits: Tensor, points: Tensor, reduction: str = "image") -> Tensor:
    r"""Compute the cross-entropy on the annotated pixels only (paper, eq. 2).

    .. math:: L_P = -\frac{1}{|I|} \sum_{j \in I} \log f_\theta(X)_{j, Y_j}

    Args:
        logits: Raw scores.
        points: A class index at each annotated pixel, ``IGNORE`` (255) elsewhere.
        reduction: ``image``, the mean over an image's annotated pixels, then over the images that have any; or
            ``batch``, the mean over the batch's annotated pixels. It is 0 where nothing is annotated.

    Shape:
        - logits: :math:`(B, C, H, W)`; points: :math:`(B, H, W)`; output: scalar.

    Raises:
        ValueError: If the spatial shapes differ; the message gives both.

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
    return (cross_entropy / annotated.clamp(min=1)).sum() / (annotated > 0).sum().clamp(min=1)


def grown_point_loss(logits: Tensor, points: Tensor, radius: int, reduction: str = "image") -> Tensor:
    """Compute the cross-entropy on a disc around each click, each click weighing as much as a lone pixel would.

    The discs of :func:`grow_clicks` say that what lies beside a click is of its class, which clicks amid their regions
    mostly allow.

    Args:
        logits: Raw scores.
        points: A class index at each annotated pixel, ``IGNORE`` elsewhere.
        radius: Of the discs, pixels.
        reduction: See :func:`point_loss`, with clicks for pixels.

    Shape:
        - logits: :math:`(B, C, H, W)`; points: :math:`(B, H, W)`; output: scalar.

    Raises:
        ValueError: If the spatial shapes differ; the message gives both.
    """
    check_shapes(logits, points, "points")
    labels, weights = grow_clicks(points, radius, logits.shape[1])
    cross_entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    by_image = (weights * cross_entropy).flatten(1).sum(1)
    clicks = (points != IGNORE).flatten(1).sum(1)
    if reduction == "batch":
        return by_image.sum() / clicks.sum().clamp(min=1)
    return (by_image / clicks.clamp(min=1)).sum() / (clicks > 0).sum().clamp(min=1)


def grow_clicks(points: Tensor, radius: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Label a disc around each click with its class; where discs of several classes meet, nothing but the clicks.

    Args:
        points: A class index at each annotated pixel, ``IGNORE`` elsewhere.
        radius: Of the discs, pixels.
        num_classes: C.

    Returns:
        The labels, int64, with ``IGNORE`` elsewhere; and weights, by which each click's pixels have a sum of 1.

    Shape:
        - points: :math:`(B, H, W)`; both outputs: the same.

    >>> labels, weights = grow_clicks(torch.tensor([[[1, 255, 255, 255, 0]]]), 1, 2)
    >>> labels, weights
    (tensor([[[  1,   1, 255,   0,   0]]]), tensor([[[0.5000, 0.5000, 0.0000, 0.5000, 0.5000]]]))
    """
    offsets = torch.arange(-radius, radius + 1, device=points.device)
    disc = (offsets[:, None] ** 2 + offsets**2 <= radius**2).float()

    def spread(x: Tensor) -> Tensor:
        """Sum over the discs around each pixel."""
        return F.conv2d(x.flatten(0, 1)[:, None], disc[None, None], padding=radius).view_as(x)

    with torch.no_grad(), torch.autocast(points.device.type, enabled=False):
        clicks = torch.stack([(points == c).float() for c in range(num_classes)], 1)
        covered = spread(clicks) > 0.5
        lone = covered & (covered.sum(1, keepdim=True) == 1)
        labelled = torch.where(clicks.any(1, keepdim=True), clicks, lone).float()
        share = clicks / spread(labelled).clamp(min=1)
        labels = torch.where(labelled.any(1), labelled.argmax(1), IGNORE)
        return labels, (spread(share) * labelled).sum(1)


class PointLoss(SupervisedLoss):
    """:func:`point_loss` as a module, or :func:`grown_point_loss`.

    Args:
        reduction: ``image`` or ``batch``.
        radius: Of the disc that a click labels, as a share of the image's longer side; 0 labels the pixel alone.

    Raises:
        InputError: If the reduction does not exist, or the radius is no share.
    """

    def __init__(self, reduction: str = "image", radius: float = 0.0) -> None:
        super().__init__()
        check_choice("reduction", reduction, ["image", "batch"])
        if not 0 <= radius < 0.5:
            raise ArgumentError(f"radius={radius}: give a share of the image's side, from 0 to below 0.5")
        self.reduction, self.radius = reduction, radius

    def shares(self, counts: Tensor) -> Tensor:
        """Return each class's share of the labels, of which each slice's, or each one (``batch``), counts alike."""
        return super().shares(counts if self.reduction == "image" else counts.sum(0, keepdim=True))

    def terms(self, logits: Tensor, batch: Batch) -> Terms:
        """Return one term, ``point``."""
        points = batch["points"]
        radius = round(self.radius * max(points.shape[1:]))
        if radius == 0:
            return {"point": point_loss(logits, points, self.reduction)}
        return {"point": grown_point_loss(logits, points, radius, self.reduction)}
