"""What every loss has in common."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
Terms = dict[str, Tensor]
Net = Callable[[Tensor], Tensor]


def with_total(terms: Terms) -> Terms:
    """Return the terms, and under ``loss`` their sum, which is what training minimises."""
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def check_shapes(logits: Tensor, labels: Tensor, name: str) -> None:
    """Refuse labels that do not lie on the same pixels as the logits.

    Raises:
        ValueError: If batch or spatial shapes differ; the message gives both.
    """
    if logits.ndim != 4 or (logits.shape[0], *logits.shape[2:]) != tuple(labels.shape):
        raise ValueError(
            f"logits {tuple(logits.shape)} and {name} {tuple(labels.shape)} do not match: "
            f"expected logits (B, C, H, W) and {name} (B, H, W)"
        )


class SupervisedLoss(nn.Module):
    """A loss that compares one view's logits with its labels; subclasses implement :meth:`terms`.

    Attributes:
        labels: Which of a batch's labels it learns from, ``points`` or ``mask``, if it makes the network's
            probabilities those of the labels; else None.
    """

    labels: str | None = "points"

    def terms(self, logits: Tensor, batch: Batch) -> Terms:
        """Return the loss's terms by name, each a scalar; training minimises their sum."""
        raise NotImplementedError

    def shares(self, counts: Tensor) -> Tensor:
        """Return each class's share of the labels as this loss weighs them: here each slice's alike.

        Args:
            counts: How many labels of each class each slice has.

        Shape:
            - counts: :math:`(N, C)`; output: :math:`(C,)`, with a sum of 1.
        """
        counts = counts[counts.sum(1) > 0]
        return (counts / counts.sum(1, keepdim=True)).mean(0)

    def forward(self, net: Net, batch: Batch, generator: torch.Generator | None = None) -> Terms:
        """Run the network on the batch's images and compare. Draws nothing at random."""
        return with_total(self.terms(net(batch["image"]), batch))
