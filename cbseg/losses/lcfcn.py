"""LCFCN, the counting loss of one blob a region (paper §4.4; Laradji et al. 2018, eq. 1)."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cbseg.errors import InputError, check_choice
from cbseg.losses.base import Batch, SupervisedLoss, Terms, check_shapes
from cbseg.losses.flood import Landscape
from cbseg.points import IGNORE, find_regions

TERMS = ("image", "point", "split", "false_positive")


class Target(NamedTuple):
    """Pixels of one image that shall have a class, by their flat index, each with its weight."""

    pixels: NDArray[np.int64]
    infected: bool
    weight: NDArray[np.float64] | float = 1.0


def _dilated(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the maximum of the 7 × 7 pixels around each: of 2, then 4, then 7 in a column, and so in a row."""
    image = np.pad(image, 3, constant_values=-np.inf)
    for shift in (1, 2, 3):
        image = np.maximum(image[shift:], image[:-shift])
    for shift in (1, 2, 3):
        image = np.maximum(image[:, shift:], image[:, :-shift])
    return image


def black_top_hat(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Measure how far an image's 7 × 7 closing lies above it: SciPy's ``black_tophat``, faster.

    Shape:
        - image, output: :math:`(H, W)`.

    >>> black_top_hat(np.array([[1, 0.25, 0, 0.5]]))
    array([[0.  , 0.75, 1.  , 0.5 ]])
    """
    return -_dilated(-_dilated(image)) - image


def lcfcn_targets(probs: NDArray[np.floating], infected: NDArray[np.bool_]) -> dict[str, list[Target]]:
    """Find what LCFCN's four terms ask of one image's pixels; see :func:`lcfcn_loss`.

    Args:
        probs: The probability of infection.
        infected: Where the infection points are.

    Returns:
        The targets of each of ``TERMS``, whose weighted negative log-probabilities add up to the term.

    Shape:
        - probs, infected: :math:`(H, W)`.
    """
    points = np.flatnonzero(infected)
    targets: dict[str, list[Target]] = {name: [] for name in TERMS}

    targets["image"].append(Target(np.array([probs.argmin()]), False))
    if len(points):
        targets["image"].append(Target(np.array([probs.argmax()]), True))
        targets["point"].append(Target(points, True))

    labels, count = find_regions(probs > 0.5)
    blobs, pixels = labels.ravel(), np.flatnonzero(labels)
    sizes = np.bincount(blobs[pixels], minlength=count + 1)
    points_in = np.bincount(blobs[points], minlength=count + 1)
    if len(points) > 1:
        landscape = Landscape(black_top_hat(probs))
        several = np.flatnonzero(points_in[1:] > 1) + 1
        splits = [(points, np.arange(probs.size))]
        splits += [(points[blobs[points] == blob], pixels[blobs[pixels] == blob]) for blob in several]
        for markers, inside in splits:
            boundaries = landscape.boundaries(markers, inside)
            targets["split"].append(Target(boundaries, False, (len(markers) - 1) / len(boundaries)))

    false = pixels[points_in[blobs[pixels]] == 0]
    targets["false_positive"].append(Target(false, False, 1 / sizes[blobs[false]]))
    return targets


def _log_odds(logits: Tensor) -> Tensor:
    """Return the log-odds of infection, in single precision at least."""
    return (logits[:, 1] - logits[:, 0]).to(torch.promote_types(logits.dtype, torch.float32))


def lcfcn_terms(logits: Tensor, points: Tensor) -> Terms:
    """Compute the four terms of :func:`lcfcn_loss`: ``image``, ``point``, ``split`` and ``false_positive``.

    The target pixels need no gradient and come from one copy to the CPU, the images in parallel threads, as the flood
    and NumPy's sort release Python's lock. One look-up of their logits then gives all terms.
    """
    check_shapes(logits, points, "points")
    if logits.shape[1] != 2:
        raise InputError(
            f"LCFCN tells infection from background: expected 2 classes of logits, not {logits.shape[1]}; "
            "leave model.num_classes at 2, or take another loss"
        )
    with torch.no_grad():
        probs, infected = _log_odds(logits).sigmoid(), (points > 0) & (points != IGNORE)
        maps = torch.stack([probs, infected.to(probs.dtype)]).cpu().numpy()
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lcfcn_targets, maps[0], maps[1] > 0))

    where, signs, weights, sizes = [], [], [], []
    for name in TERMS:
        targets = [(k, target) for k, image in enumerate(images) for target in image[name]]
        where += [np.stack([np.full_like(target.pixels, k), target.pixels]) for k, target in targets]
        signs += [np.full(target.pixels.shape, -1.0 if target.infected else 1.0) for _, target in targets]
        weights += [np.broadcast_to(target.weight, target.pixels.shape) for _, target in targets]
        sizes.append(sum(len(target.pixels) for _, target in targets))
    image, pixel = torch.from_numpy(np.concatenate(where, 1)).to(logits.device)
    chosen = _log_odds(logits.flatten(2)[image, :, pixel])
    sign, weight = (torch.from_numpy(np.concatenate(some)).to(chosen) for some in (signs, weights))
    costs = weight * F.softplus(sign * chosen)  # softplus(x) is -log(1 - sigmoid(x)), softplus(-x) is -log(sigmoid(x))
    terms = [part.sum() / len(images) for part in costs.split(sizes)]
    return dict(zip(TERMS, terms, strict=True))


def lcfcn_loss(logits: Tensor, points: Tensor) -> Tensor:
    r"""Ask for one blob around each point and none elsewhere: the loss of LCFCN (Laradji et al. 2018, eq. 1).

    With :math:`p` the probability of infection, :math:`n` infection points :math:`I` and :math:`q = 1 - p`, an image's

    .. math::
        L = \underbrace{-\log \max_j q_j - [n > 0] \log \max_j p_j}_\mathrm{image}
            \underbrace{- \sum_{j \in I} \log p_j}_\mathrm{point}
            \underbrace{- \sum_s \frac{m_s - 1}{|B_s|} \sum_{j \in B_s} \log q_j}_\mathrm{split}
            \underbrace{- \sum_f \frac{1}{|f|} \sum_{j \in f} \log q_j}_\mathrm{false\ positive}

    and the mean over images. The splits :math:`s` are the whole image, if it holds more than one point, and each blob
    (8-connected, :math:`p > 0.5`) that does. :math:`m_s` counts their points. From these points the watershed floods
    the whole image over the black top-hat (7 × 7) of :math:`p`, through pixels' sides, and :math:`B_s` are those of its
    boundaries that lie in :math:`s`, as in the authors' code. The :math:`f` are the blobs without a point. Points on
    the background take no part.

    Args:
        logits: Raw scores of background and infection.
        points: A class index at each annotated pixel, ``IGNORE`` (255) elsewhere.

    Shape:
        - logits: :math:`(B, 2, H, W)`; points: :math:`(B, H, W)`; output: scalar.

    Raises:
        ValueError: If the spatial shapes differ, or there are not two classes.

    >>> logits = torch.zeros(1, 2, 2, 2)
    >>> points = torch.tensor([[[1, 255], [255, 0]]])
    >>> round(lcfcn_loss(logits, points).item(), 4)  # 3 log 2: two of the image, one of the point
    2.0794
    """
    return torch.stack(list(lcfcn_terms(logits, points).values())).sum()


class LCFCNLoss(SupervisedLoss):
    """:func:`lcfcn_loss` as a module.

    Args:
        reduction: Over a batch's images: ``mean``, or ``sum`` as in the authors' code.

    Raises:
        InputError: If the reduction does not exist.
    """

    labels = None  # what lies beyond the points counts too

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, ["mean", "sum"])
        self.reduction = reduction

    def terms(self, logits: Tensor, batch: Batch) -> Terms:
        """Return four terms, ``image``, ``point``, ``split`` and ``false_positive``."""
        scale = len(logits) if self.reduction == "sum" else 1
        return {name: scale * term for name, term in lcfcn_terms(logits, batch["points"]).items()}
