"""How a network's output becomes classes in testing and prediction: averaged over views, weighed by what is common."""

import torch
from torch import Tensor, nn

from cbseg.errors import check_choice
from cbseg.losses.base import Net
from cbseg.transforms import FlipRotation

TTA = {
    "none": [FlipRotation(False, 0)],
    "flips": [FlipRotation(flip, turns) for flip in (False, True) for turns in (0, 2)],
    "dihedral": [FlipRotation(flip, turns) for flip in (False, True) for turns in range(4)],
}
"""The views over which test-time averaging goes."""

_STEPS = 50  # of expectation maximisation; 20 already gave the same decisions
_RARE = 1e-3  # the least share of the labels that a class is taken to have had


class Decision(nn.Module):
    r"""Average the network over views of the image, and decide by how common each class is in it.

    Half of the clicks are on infection, but few of the pixels, and more of one slice's than of another's. A network
    that learned from clicks takes infection for as common as they are, and so paints too much. With ``rule=prior`` its
    probabilities :math:`s_c`, learned where class c had the share :math:`q_c`, are corrected to the shares
    :math:`\pi_c` of the slice's pixels: :math:`p_c \propto s_c \pi_c / q_c`. These are estimated from the slice's own
    probabilities, by expectation maximisation (Saerens et al. 2002): no mask and no other slice is looked at.

    Args:
        num_classes: C.
        tta: Test-time averaging of the probabilities, over ``none``, ``flips`` (4 views) or ``dihedral`` (all 8).
        rule: ``argmax``, the likeliest class; or ``prior``, the same after the correction.

    Attributes:
        learned: :math:`q`, each class's share of the labels that the network learned from, (C,); kept with the weights.

    Raises:
        InputError: If ``tta`` or ``rule`` does not exist.
    """

    learned: Tensor

    def __init__(self, num_classes: int = 2, tta: str = "none", rule: str = "argmax") -> None:
        super().__init__()
        check_choice("tta", tta, list(TTA))
        check_choice("rule", rule, ["argmax", "prior"])
        self.views, self.rule = TTA[tta], rule
        self.register_buffer("learned", torch.full((num_classes,), 1 / num_classes))

    def sizes(self, size: tuple[int, int]) -> set[tuple[int, int]]:
        """Return the sizes of the views of an image of a size, (height, width)."""
        return {size[::-1] if view.quarter_turns % 2 else size for view in self.views}

    def learn(self, shares: Tensor) -> None:
        """Take up each class's share of the labels, (C,); one that has next to none is taken for rare."""
        shares = shares.clamp(min=_RARE)
        self.learned.copy_(shares / shares.sum())

    def forward(self, net: Net, image: Tensor) -> Tensor:
        """Return the logits of which the largest decides.

        Shape:
            - image: :math:`(B, 3, H, W)`; output: :math:`(B, C, H, W)`. Where H and W differ, the network sees
              :math:`(B, 3, W, H)` in views that are turned by 90°.
        """
        if len(self.views) == 1:
            logits = net(image)
        else:
            probs = torch.stack([view.inverse()(net(view(image)).float().softmax(1)) for view in self.views])
            logits = probs.mean(0).clamp(min=torch.finfo(torch.float32).tiny).log()
        if self.rule == "argmax":
            return logits
        prior = estimate_prior(logits.float().softmax(1), self.learned)
        return logits + (prior / self.learned).log()[:, :, None, None]


def estimate_prior(probs: Tensor, learned: Tensor) -> Tensor:
    r"""Estimate how common each class is in an image, without its mask (Saerens et al. 2002, eq. 2.2).

    .. math:: \pi_c \leftarrow \frac{1}{|\Omega|} \sum_{j \in \Omega}
              \frac{s_{cj}\, \pi_c / q_c}{\sum_k s_{kj}\, \pi_k / q_k}, \qquad \pi_c = q_c \text{ at first}

    Where nothing of a class is found, its share ends below one pixel.

    Args:
        probs: :math:`s`, a network's probabilities.
        learned: :math:`q`, each class's share of the labels that it learned from.

    Shape:
        - probs: :math:`(B, C, H, W)`; learned: :math:`(C,)`; output: :math:`(B, C)`.

    >>> probs = torch.tensor([0.9, 0.9, 0.9, 0.1]).view(1, 1, 2, 2)
    >>> estimate_prior(torch.cat([probs, 1 - probs], 1), torch.tensor([0.5, 0.5]))
    tensor([[0.8125, 0.1875]])
    """
    likelihoods = probs.flatten(2) / learned[:, None]
    prior = learned.expand(probs.shape[:2])
    for _ in range(_STEPS):
        posterior = likelihoods * prior[:, :, None]
        prior = (posterior / posterior.sum(1, keepdim=True)).mean(2)
    return prior.clamp(min=torch.finfo(prior.dtype).tiny)
