"""Dataset-level segmentation scores (paper §4.1.2) as a torchmetrics.Metric."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_stat_scores

from cbseg.points import IGNORE, MASK_SHARE

SCORES = ("dice", "iou", "ppv", "sens", "spec")
COUNTS = ("tp", "fp", "fn", "tn")

_OF_ALL_PIXELS = ("dice", "iou", "ppv")
_WHY_UNDEFINED = {
    "dice": "neither truth nor prediction holds infection (TP + FP + FN = 0)",
    "iou": "neither truth nor prediction holds infection (TP + FP + FN = 0)",
    "ppv": "nothing was predicted as infection (TP + FP = 0)",
    "sens": "the truth holds no infection (TP + FN = 0)",
    "spec": "the truth holds no background (TN + FP = 0)",
}


def _class_scores(counts: Tensor) -> dict[str, Tensor]:
    """Compute each score of each foreground class, (K,)."""
    tp, fp, fn, tn = counts.double()
    return {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
        "ppv": tp / (tp + fp),
        "sens": tp / (tp + fn),
        "spec": tn / (tn + fp),
    }


def segmentation_scores(counts: Tensor, sparse: int | Tensor = 0) -> dict[str, Tensor]:
    r"""Compute the scores from pixel counts (paper §4.1.2).

    .. math::
        \mathrm{dice} = \frac{2TP}{2TP + FP + FN},\;
        \mathrm{iou} = \frac{TP}{TP + FP + FN},\;
        \mathrm{ppv} = \frac{TP}{TP + FP},\;
        \mathrm{sens} = \frac{TP}{TP + FN},\;
        \mathrm{spec} = \frac{TN}{TN + FP}

    With several foreground classes, the mean over them. A score whose denominator is 0 is NaN;
    :func:`undefined_scores` says why.

    Args:
        counts: Count TP, FP, FN and TN of each foreground class.
        sparse: How many of the images are known at some pixels only (:func:`is_sparse`), such as clicks. How many of
            these are infection says nothing of the image, so Dice, IoU and PPV are then NaN too.

    Shape:
        - counts: :math:`(4, K)`; each score: scalar, float64.

    >>> scores = segmentation_scores(torch.tensor([[2], [1], [1], [6]]))
    >>> {name: round(score.item(), 2) for name, score in scores.items()}
    {'dice': 0.67, 'iou': 0.5, 'ppv': 0.67, 'sens': 0.67, 'spec': 0.86}
    """
    scores = {name: score.mean() for name, score in _class_scores(counts).items()}
    for name in _OF_ALL_PIXELS:
        scores[name] = torch.where(torch.as_tensor(sparse, device=counts.device) > 0, torch.nan, scores[name])
    return scores


def undefined_scores(counts: Tensor, sparse: int = 0) -> dict[str, str]:
    """Give the reason for each score that is NaN, with the classes that make it so where there are several.

    Args:
        counts: See :func:`segmentation_scores`.
        sparse: See :func:`segmentation_scores`.

    Shape:
        - counts: :math:`(4, K)`.

    >>> undefined_scores(torch.tensor([[0], [1], [0], [5]]))
    {'sens': 'the truth holds no infection (TP + FN = 0)'}
    """
    reasons = {}
    for name, score in _class_scores(counts).items():
        classes = [k + 1 for k, undefined in enumerate(score.isnan().tolist()) if undefined]
        if classes:
            which = f"of class {', '.join(map(str, classes))}: " if len(score) > 1 else ""
            reasons[name] = which + _WHY_UNDEFINED[name]
    return reasons | (
        {name: f"{sparse} slices are known at a few pixels only" for name in _OF_ALL_PIXELS} if sparse else {}
    )


def is_sparse(mask: Tensor) -> Tensor:
    """Tell which masks are known at some pixels, and at less than half. One of which nothing is known adds nothing.

    Shape:
        - mask: :math:`(B, H, W)`; output: :math:`(B,)`.
    """
    share_known = (mask != IGNORE).flatten(1).double().mean(1)
    return (share_known > 0) & (share_known < MASK_SHARE)


def count_pixels(pred_mask: Tensor, mask: Tensor, num_classes: int = 2) -> Tensor:
    """Count TP, FP, FN and TN of each foreground class, over the pixels whose class is known.

    Shape:
        - pred_mask, mask: :math:`(B, H, W)` integer, in the mask ``IGNORE`` where it is not known; output:
          :math:`(4, K)`, K foreground classes, int64.

    Raises:
        ValueError: If the shapes differ, or a value is no class.
    """
    check_masks(pred_mask, mask)
    if not (known := mask != IGNORE).all():
        pred_mask, mask = pred_mask[known][None], mask[known][None]
    for name, x in (("pred_mask", pred_mask), ("mask", mask)):
        if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < num_classes:
            raise ValueError(f"{name} holds {int(x.min())}…{int(x.max())}, classes are 0…{num_classes - 1}")
    tp, fp, tn, fn, _ = multiclass_stat_scores(
        pred_mask.long(), mask.long(), num_classes, average=None, validate_args=False
    ).unbind(-1)
    return torch.stack([tp, fp, fn, tn])[:, 1:]


def check_masks(pred_mask: Tensor, mask: Tensor) -> None:
    """Refuse masks that are not (B, H, W), integer and alike in shape.

    Raises:
        ValueError: Saying what they are.
    """
    if pred_mask.shape != mask.shape:
        raise ValueError(f"pred_mask {tuple(pred_mask.shape)} and mask {tuple(mask.shape)} differ in shape")
    if mask.ndim != 3:
        raise ValueError(f"pred_mask and mask {tuple(mask.shape)}: expected (B, H, W)")
    if pred_mask.is_floating_point() or mask.is_floating_point():
        raise ValueError(f"masks are integer, not {pred_mask.dtype} and {mask.dtype}")


class SegmentationScores(Metric):
    """Dice, IoU, PPV, sensitivity and specificity over all pixels of a dataset (paper §4.1.2).

    TP, FP, FN and TN add up over images, batches and processes; the scores come from the sums.

    Args:
        num_classes: Classes with background. The scores are means over the foreground classes.

    Shape:
        - update: pred_mask and mask, both :math:`(B, H, W)` integer; compute: a scalar for each of
          ``dice iou ppv sens spec``.

    >>> metric = SegmentationScores()
    >>> metric.update(torch.tensor([[[1, 1], [0, 0]]]), torch.tensor([[[1, 0], [0, 0]]]))
    >>> metric.compute()["ppv"].item()
    0.5
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor
    sparse: Tensor

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("counts", torch.zeros(4, num_classes - 1, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("sparse", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, pred_mask: Tensor, mask: Tensor) -> None:
        """Count a batch's pixels; see :func:`count_pixels`."""
        self.counts += count_pixels(pred_mask, mask, self.num_classes).to(self.counts)
        self.sparse += is_sparse(mask).sum().to(self.sparse)

    def compute(self) -> dict[str, Tensor]:
        """Return the scores so far; see :func:`segmentation_scores`."""
        return segmentation_scores(self.counts, self.sparse)
