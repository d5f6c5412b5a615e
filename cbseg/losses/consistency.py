"""CB, the consistency-based loss (paper §3, eq. 1 and 3, Alg. 1), around any supervised loss."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cbseg.errors import ArgumentError, check_choice
from cbseg.losses.base import Batch, Net, SupervisedLoss, Terms, with_total
from cbseg.transforms import RandomTransform, Transform, apply_each


def consistency_loss(first: Tensor, second: Tensor, compare: str = "probs") -> Tensor:
    r"""Measure how far two aligned outputs of the network are apart (paper, eq. 3).

    .. math:: L_C = \frac{1}{|\Omega|} \sum_{j \in \Omega} |t(f_\theta(X))_j - f_\theta(t(X))_j|

    averaged over classes and images. With two classes and ``probs`` that is the mean difference of the probability
    of infection.

    Args:
        first: The transformed logits of the image, :math:`t(f_\theta(X))`.
        second: The logits of the transformed image, :math:`f_\theta(t(X))`.
        compare: ``probs`` or ``logits``.

    Shape:
        - first, second: :math:`(B, C, H, W)`; output: scalar.

    Raises:
        ValueError: If the shapes differ; the message gives both.

    >>> consistency_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)).item()
    0.0
    """
    if first.shape != second.shape:
        raise ValueError(f"the two views' logits differ in shape: {tuple(first.shape)} and {tuple(second.shape)}")
    if compare == "probs":
        first, second = first.softmax(1), second.softmax(1)
    return (first - second).abs().mean()


def second_view(transforms: Sequence[Transform], batch: Batch) -> Batch:
    """Return t(X) and t(Y) of a batch's ``image``, ``mask`` and ``points`` (Alg. 1, line 7), a t for each image."""
    return {
        "image": apply_each(transforms, batch["image"]),
        "mask": apply_each(transforms, batch["mask"]),
        "points": apply_each([t.points for t in transforms], batch["points"]),
    }


class Consistency(nn.Module):
    r"""A supervised loss on an image and on its transformed view, plus λ times their inconsistency (eq. 1, Alg. 1).

    .. math:: L = L_P(X, Y) + L_P(t(X), t(Y)) + \lambda\, L_C(X), \qquad t \sim T

    Both views go through the network as one batch, and gradients flow through both. ``Consistency(PointLoss(), …)``
    is CB + PL; around an LCFCN loss it is CB-LCFCN (§4.4).

    Args:
        supervised: The loss of each view.
        transforms: The set T, from which each image draws its own transform.
        weight: λ.
        compare: What is compared, ``probs`` or ``logits``.

    Raises:
        InputError: If λ is negative, ``compare`` does not exist, or ``supervised`` is a consistency loss itself; or if
            ``transforms`` zoom, but ``supervised`` takes what lies beyond the points for healthy: a region's point may
            lie outside the part that is seen.
    """

    def __init__(
        self,
        supervised: SupervisedLoss,
        transforms: RandomTransform,
        weight: float = 1.0,
        compare: str = "probs",
    ) -> None:
        super().__init__()
        check_choice("compare", compare, ["probs", "logits"])
        if not (isinstance(weight, int | float) and weight >= 0):
            raise ArgumentError(f"weight={weight}: λ is a number, 0 or more")
        if not isinstance(supervised, SupervisedLoss):
            raise ArgumentError(f"supervised: {type(supervised).__name__} compares no single view; take such as pl")
        if supervised.labels is None and transforms.zoom > 1:
            raise ArgumentError(
                f"transforms.zoom={transforms.zoom}: leaves points outside, but this loss takes regions "
                "without a point for healthy, as LCFCN does; give 1 (loss=cb_crf in place of cb_zoom), or take pl"
            )
        self.supervised = supervised
        self.labels = supervised.labels
        self.transforms = transforms
        self.weight = weight
        self.compare = compare

    def shares(self, counts: Tensor) -> Tensor:
        """Return each class's share of the labels, (C,), of counts (N, C), as the supervised loss weighs them."""
        return self.supervised.shares(counts)

    def forward(self, net: Net, batch: Batch, generator: torch.Generator | None = None) -> Terms:
        """Return the supervised terms, summed over both views, ``consistency`` (times λ), and ``inconsistency``.

        Args:
            net: Images (B, 3, H, W) to logits (B, C, H, W).
            batch: ``image``, ``mask``, ``points``.
            generator: Draws the transforms.

        Returns:
            The supervised terms, each summed over both views; ``consistency``, times λ; their total; and
            ``inconsistency``, without λ, to watch.
        """
        images, size = len(batch["image"]), batch["points"].shape[1:]
        transforms = self.transforms.sample(images, size, generator)
        view = second_view(transforms, batch)
        logits, view_logits = net(torch.cat([batch["image"], view["image"]])).chunk(2)
        terms, view_terms = self.supervised.terms(logits, batch), self.supervised.terms(view_logits, view)
        inconsistency = consistency_loss(apply_each(transforms, logits), view_logits, self.compare)
        total = with_total(
            {name: terms[name] + view_terms[name] for name in terms} | {"consistency": self.weight * inconsistency}
        )
        return total | {"inconsistency": inconsistency.detach()}
