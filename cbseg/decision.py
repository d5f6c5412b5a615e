"""How a network's output becomes classes in testing and prediction: averaged over views, weighed by what is common."""

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cbseg.errors import check_choice
from cbseg.losses.base import Net
from cbseg.transforms import FlipRotation

log = logging.getLogger(__name__)

TTA = {
    "none": [FlipRotation(False, 0)],
    "flips": [FlipRotation(flip, turns) for flip in (False, True) for turns in (0, 2)],
    "dihedral": [FlipRotation(flip, turns) for flip in (False, True) for turns in range(4)],
}
"""The views over which test-time averaging goes."""

_PIXELS = 2**20  # at most, of which a prior is estimated
_STEPS = 200  # of expectation maximisation
_RARE = 1e-3  # a share at which an estimate has failed


class Decision(nn.Module):
    r"""Average the network over views of the image, and decide by how common each class is.

    Half of the clicks are on infection, but few of the pixels. A network that learned from clicks takes infection for
    as common as they are, and so paints too much. With ``rule=prior`` its probabilities :math:`s_c`, learned where
    class c has the share :math:`q_c`, are corrected to the shares :math:`\pi_c` of the pixels:
    :math:`p_c \propto s_c \pi_c / q_c`. The shares are estimated without a mask, by expectation maximisation over the
    training slices (Saerens et al. 2002).

    Args:
        num_classes: C.
        tta: Test-time averaging of the probabilities, over ``none``, ``flips`` (4 views) or ``dihedral`` (all 8).
        rule: ``argmax``, the likeliest class; or ``prior``, the same after the correction.

    Attributes:
        correction: :math:`\log(\pi_c / q_c)`, (C,); zeros until :meth:`estimate`. It is kept with the weights.

    Raises:
        InputError: If ``tta`` or ``rule`` does not exist.
    """

    correction: Tensor

    def __init__(self, num_classes: int = 2, tta: str = "none", rule: str = "argmax") -> None:
        super().__init__()
        check_choice("tta", tta, list(TTA))
        check_choice("rule", rule, ["argmax", "prior"])
        self.views, self.rule = TTA[tta], rule
        self.register_buffer("correction", torch.zeros(num_classes))

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
        return logits + self.correction.view(-1, 1, 1)

    @torch.no_grad()
    def estimate(self, net: Net, images: Iterable[Tensor], shares: Tensor) -> Tensor:
        r"""Estimate how common each class is, and take up the correction.

        Args:
            net: The network, in evaluation mode.
            images: Batches of training slices, normalised, (B, 3, H, W).
            shares: :math:`q`, each class's share of the labels that the network learned from, (C,).

        Returns:
            :math:`\pi`, (C,) float64.
        """
        probs = torch.cat([net(image).float().softmax(1).cpu().movedim(1, -1).flatten(0, -2) for image in images])
        probs = probs[:: -(-len(probs) // _PIXELS)].double()
        learned = shares.double().clamp(min=_RARE)
        prior = learned = learned / learned.sum()
        for _ in range(_STEPS):
            posterior = probs * (prior / learned)
            prior = (posterior / posterior.sum(1, keepdim=True)).mean(0)
        if prior.min() < _RARE:
            log.warning(
                "decision.rule=prior: class %d was estimated to be %.2g of all pixels, which it hardly is; "
                "decision.rule=argmax goes without",
                prior.argmin(),
                prior.min(),
            )
        prior = prior.clamp(min=_RARE)
        self.correction.copy_((prior / learned).log())
        return prior
