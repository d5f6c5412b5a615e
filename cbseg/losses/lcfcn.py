"""LCFCN, the counting loss of one blob a region (paper §4.4; Laradji et al. 2018, eq. 1)."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import black_tophat, find_objects
from skimage.segmentation import watershed
from torch import Tensor

from cbseg.losses.base import Batch, SupervisedLoss, Terms, check_shapes
from cbseg.points import IGNORE, find_regions

TERMS = ("image", "point", "split", "false_positive")

_TOP_HAT = 7  # pixels; the watershed's landscape is the black top-hat of the probabilities

_NEIGHBOURS = (  # slices that lay each pixel on its neighbour: two sides, then two corners
    (np.s_[1:], np.s_[:-1]),
    (np.s_[:, 1:], np.s_[:, :-1]),
    (np.s_[1:, 1:], np.s_[:-1, :-1]),
    (np.s_[1:, :-1], np.s_[:-1, 1:]),
)

Pixels = NDArray[np.int64]


class Target(NamedTuple):
    """Pixels of one image that shall have a class, by their flat index, each with its weight."""

    pixels: Pixels
    infected: bool
    weight: NDArray[np.float64] | float = 1.0


def _split(landscape: NDArray[Any], infected: NDArray[np.bool_], blob: NDArray[np.bool_] | None = None) -> Pixels:
    """The boundaries between the basins of a watershed from the infection points, as flat indices.

    Args:
        landscape: What is flooded.
        infected: Where the points are.
        blob: Where water may flow; through corners too, as a blob's pixels hang together across them.
    """
    markers = np.zeros(landscape.shape, np.int32)
    seeds = np.flatnonzero(infected)
    markers.ravel()[seeds] = np.arange(1, len(seeds) + 1)
    connectivity = 1 if blob is None else 2
    basins = watershed(landscape, markers, connectivity, mask=blob)
    boundaries = np.zeros(landscape.shape, bool)
    for here, there in _NEIGHBOURS[: 2 * connectivity]:
        meet = (basins[here] != basins[there]) & (basins[here] > 0) & (basins[there] > 0)
        boundaries[here] |= meet
        boundaries[there] |= meet
    return np.flatnonzero(boundaries)


def lcfcn_targets(probs: NDArray[np.floating], infected: NDArray[np.bool_]) -> dict[str, list[Target]]:
    """What LCFCN's four terms ask of one image's pixels; see :func:`lcfcn_loss`.

    Args:
        probs: The probability of infection.
        infected: Where the infection points are.

    Returns:
        The targets of each of ``TERMS``, whose weighted negative log-probabilities add up to the term.

    Shape:
        - probs, infected: :math:`(H, W)`.
    """
    width = probs.shape[1]
    points = np.flatnonzero(infected)
    targets: dict[str, list[Target]] = {name: [] for name in TERMS}

    targets["image"].append(Target(np.array([probs.argmin()]), False))
    if len(points):
        targets["image"].append(Target(np.array([probs.argmax()]), True))
        targets["point"].append(Target(points, True))

    blobs, count = find_regions(probs > 0.5)
    points_in = np.bincount(blobs.ravel()[points], minlength=count + 1)
    if len(points) > 1:
        landscape = black_tophat(probs, _TOP_HAT)
        boundaries = _split(landscape, infected)
        targets["split"].append(Target(boundaries, False, (len(points) - 1) / len(boundaries)))
        for blob, box in enumerate(find_objects(blobs), start=1):
            if points_in[blob] > 1:
                inside = blobs[box] == blob
                rows, columns = np.unravel_index(_split(landscape[box], infected[box] & inside, inside), inside.shape)
                own = (rows + box[0].start) * width + columns + box[1].start
                targets["split"].append(Target(own, False, (points_in[blob] - 1) / len(own)))

    is_false = points_in == 0
    is_false[0] = False
    pixels = np.flatnonzero(is_false[blobs])
    sizes = np.bincount(blobs.ravel())
    targets["false_positive"].append(Target(pixels, False, 1 / sizes[blobs.ravel()[pixels]]))
    return targets


def lcfcn_terms(logits: Tensor, points: Tensor) -> Terms:
    """The four terms of :func:`lcfcn_loss`: ``image``, ``point``, ``split`` and ``false_positive``.

    The target pixels need no gradient and come from one copy of the probabilities on the CPU, the images in parallel
    threads, as watershed, label and top-hat release Python's lock. One look-up then gives all terms.
    """
    check_shapes(logits, points, "points")
    if logits.shape[1] != 2:
        raise ValueError(f"LCFCN tells infection from background: expected 2 classes of logits, not {logits.shape[1]}")
    log_odds = (logits[:, 1] - logits[:, 0]).to(torch.promote_types(logits.dtype, torch.float32))
    with torch.no_grad():
        infected = (points > 0) & (points != IGNORE)
        maps = torch.stack([log_odds.sigmoid(), infected.to(log_odds.dtype)]).cpu().numpy()
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lcfcn_targets, maps[0], maps[1] > 0))

    pixels, signs, weights, sizes = [], [], [], []
    for name in TERMS:
        targets = [(k, target) for k, image in enumerate(images) for target in image[name]]
        pixels += [target.pixels + k * maps[0, 0].size for k, target in targets]
        signs += [np.full(target.pixels.shape, -1.0 if target.infected else 1.0) for _, target in targets]
        weights += [np.broadcast_to(target.weight, target.pixels.shape) for _, target in targets]
        sizes.append(sum(len(target.pixels) for _, target in targets))
    sign, weight = (torch.from_numpy(np.concatenate(some)).to(log_odds) for some in (signs, weights))
    chosen = log_odds.flatten()[torch.from_numpy(np.concatenate(pixels)).to(logits.device)]
    costs = weight * F.softplus(sign * chosen)  # softplus(x) is -log(1 - sigmoid(x)), softplus(-x) is -log(sigmoid(x))
    terms = [part.sum() / len(images) for part in costs.split(sizes)]
    return dict(zip(TERMS, terms, strict=True))


def lcfcn_loss(logits: Tensor, points: Tensor) -> Tensor:
    r"""Localisation-based counting loss: one blob around each point and none elsewhere (Laradji et al. 2018, eq. 1).

    With :math:`p` the probability of infection, :math:`n` infection points :math:`I` and :math:`q = 1 - p`, an image's

    .. math::
        L = \underbrace{-\log \max_j q_j - [n > 0] \log \max_j p_j}_\mathrm{image}
            \underbrace{- \sum_{j \in I} \log p_j}_\mathrm{point}
            \underbrace{- \sum_s \frac{m_s - 1}{|B_s|} \sum_{j \in B_s} \log q_j}_\mathrm{split}
            \underbrace{- \sum_f \frac{1}{|f|} \sum_{j \in f} \log q_j}_\mathrm{false\ positive}

    and the mean over images. The splits :math:`s` are the whole image, if it holds more than one point, and each blob
    (8-connected, :math:`p > 0.5`) that does; :math:`m_s` counts their points, and :math:`B_s` are the boundaries of
    the watershed that floods :math:`s` over the black top-hat (7 × 7) of :math:`p` from these points. The :math:`f` are
    the blobs without a point. Points on the background take no part.

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
    """:func:`lcfcn_loss` as a module."""

    def terms(self, logits: Tensor, batch: Batch) -> Terms:
        """Four terms, ``image``, ``point``, ``split`` and ``false_positive``."""
        return lcfcn_terms(logits, batch["points"])
