"""Gated CRF (Obukhov et al. 2019): neighbours of like grey shall have like classes, beside any supervised loss."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cbseg.data.preprocess import grey_values
from cbseg.errors import ArgumentError, check_whole
from cbseg.losses.base import Batch, SupervisedLoss, Terms
from cbseg.points import IGNORE


def gated_crf_energy(
    probs: Tensor, grey: Tensor, radius: int = 5, sigma_xy: float = 6.0, sigma_grey: float = 0.05
) -> Tensor:
    r"""Measure how much neighbours of like grey differ in class (Obukhov et al. 2019, Potts model).

    .. math:: E = \frac{1}{|\Omega|} \sum_{a \in \Omega} \sum_{b \in N(a)} k_{ab} \Big(1 - \sum_c p_a^c p_b^c\Big),
              \qquad k_{ab} = \exp\Big(-\frac{|a - b|^2}{2 \sigma_{xy}^2} - \frac{(I_a - I_b)^2}{2 \sigma_I^2}\Big)

    averaged over images; :math:`N(a)` are the pixels of the image at most ``radius`` rows and columns away, :math:`a`
    itself aside. The energy is quadratic and its kernel symmetric, so that one pass over half of the shifts gives it
    and its gradient :math:`-2 K p / |\Omega|`.

    Args:
        probs: The probability of each class.
        grey: The image's grey values, 0 to 1.
        radius: How far neighbours reach, pixels.
        sigma_xy: Pixels over which distance counts.
        sigma_grey: Difference of grey values at which likeness ends.

    Shape:
        - probs: :math:`(B, C, H, W)`; grey: :math:`(B, H, W)`; output: scalar.

    Raises:
        ValueError: If the shapes differ, or the radius does not fit into the image; the message gives both.

    >>> right = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]])
    >>> halves = torch.stack([1 - right, right], 1)
    >>> round(gated_crf_energy(halves, torch.zeros_like(right), radius=1).item(), 2)  # on ``right`` itself it is 0
    0.98
    """
    if (probs.shape[0], *probs.shape[2:]) != tuple(grey.shape):
        raise ValueError(f"probabilities {tuple(probs.shape)} and grey {tuple(grey.shape)} do not match")
    height, width = grey.shape[1:]
    if not 0 < radius < min(height, width):
        raise ArgumentError(
            f"radius={radius}: give 1 or more, and less than the sides of the image, {height} × {width}"
        )
    with torch.no_grad():
        messages = torch.zeros_like(probs)  # K p
        scaled = grey / (math.sqrt(2) * sigma_grey)
        for distance, here, there in _pairs(height, width, radius):
            kernel = (scaled[there] - scaled[here]).square_().neg_().exp_()[:, None]
            near = math.exp(-(distance**2) / (2 * sigma_xy**2))
            messages[here].addcmul_(kernel, probs[there], value=near)
            messages[there].addcmul_(kernel, probs[here], value=near)
    # the classes' probabilities add up to 1, so that K p adds up to K; the second sum's value is that of p' K p, its
    # gradient that of 2 K p
    return (messages.sum() - ((2 * probs - probs.detach()) * messages).sum()) / grey.numel()


Window = tuple[Any, slice, slice]


def _pairs(height: int, width: int, radius: int) -> Iterator[tuple[float, Window, Window]]:
    """Give each unordered pair of neighbours once: for every shift its length and the windows of both ends."""
    for down in range(radius + 1):
        for right in range(-radius if down else 1, radius + 1):
            here = (..., slice(height - down), slice(max(-right, 0), width - max(right, 0)))
            there = (..., slice(down, None), slice(max(right, 0), width + min(right, 0)))
            yield math.hypot(down, right), here, there


def fit_of_clicks(logits: Tensor, points: Tensor) -> Tensor:
    r"""Tell how well the network fits its clicks: 0 as by chance, 1 surely.

    .. math:: \Big[1 - \frac{1}{|C'|\,\log C} \sum_{c \in C'} \mathrm{CE}_c\Big]_+

    with the mean cross-entropy of the annotated pixels of each class in :math:`C'`, those that are annotated at all; 0
    where none is.

    Shape:
        - logits: :math:`(B, C, H, W)`; points: :math:`(B, H, W)`; output: scalar, without gradient.

    >>> points = torch.tensor([[[1, 0, 255]]])
    >>> fit_of_clicks(torch.zeros(1, 2, 1, 3), points).item()
    0.0
    """
    with torch.no_grad():
        cross_entropy = F.cross_entropy(logits, points.long(), ignore_index=IGNORE, reduction="none")
        of_class = torch.stack([points == c for c in range(logits.shape[1])])
        counts = of_class.flatten(1).sum(1)
        sums = (of_class * cross_entropy).flatten(1).sum(1)
        mean = (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
        # no number is looked at, as a GPU would have to be waited for
        return torch.where(counts.any(), (1 - mean / math.log(logits.shape[1])).clamp(min=0), 0)


class GatedCRF(SupervisedLoss):
    """A supervised loss and, times ``weight``, :func:`gated_crf_energy` as ``crf``.

    A network that predicts one class everywhere has no energy, so that before it knows anything the energy would keep
    it there: of five folds of COVID-19-A one never got away. So the energy counts as much as the clicks are fit
    already; see :func:`fit_of_clicks`.

    Args:
        supervised: The loss that compares with labels.
        weight: Of the energy.
        radius: How far neighbours reach, pixels at training size.
        sigma_xy: Pixels over which distance counts.
        sigma_grey: Difference of grey values, of 0 to 1, at which likeness ends.

    Raises:
        InputError: If the weight is negative, the radius below 1, or a σ not above 0.
    """

    def __init__(
        self,
        supervised: SupervisedLoss,
        weight: float = 0.1,
        radius: int = 5,
        sigma_xy: float = 6.0,
        sigma_grey: float = 0.05,
    ) -> None:
        super().__init__()
        check_whole("radius", radius, least=1)
        for name, value in (("sigma_xy", sigma_xy), ("sigma_grey", sigma_grey)):
            if not value > 0:
                raise ArgumentError(f"{name}={value}: give a number above 0")
        if not weight >= 0:
            raise ArgumentError(f"weight={weight}: give a number, 0 or more")
        self.supervised, self.weight, self.radius = supervised, weight, radius
        self.labels = supervised.labels
        self.sigma_xy, self.sigma_grey = sigma_xy, sigma_grey

    def shares(self, counts: Tensor) -> Tensor:
        """Return each class's share of the labels as the supervised loss weighs them."""
        return self.supervised.shares(counts)

    def terms(self, logits: Tensor, batch: Batch) -> Terms:
        """Return the supervised loss's terms and ``crf``.

        Raises:
            InputError: If the radius does not fit into the image.
        """
        grey = grey_values(batch["image"])
        energy = gated_crf_energy(logits.softmax(1), grey, self.radius, self.sigma_xy, self.sigma_grey)
        weight = self.weight * fit_of_clicks(logits, batch["points"])
        return self.supervised.terms(logits, batch) | {"crf": weight * energy}
