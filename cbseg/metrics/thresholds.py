"""What a test set's scores would be at other thresholds of the probability of infection."""

import torch
from torch import Tensor

from cbseg.points import IGNORE

LOG_ODDS = torch.arange(-24, 25) / 4
"""Even in log-odds, as trained networks are sure of most pixels; 0 is a probability of one half."""


def count_levels(logits: Tensor, mask: Tensor) -> Tensor:
    """Count a slice's pixels by what they are and by how many of the thresholds their log-odds of infection exceed.

    Args:
        logits: Of which the largest decides. With two classes, thresholding at 0 is the same.
        mask: The truth; pixels of ``IGNORE`` do not count.

    Shape:
        - logits: :math:`(C, H, W)`; mask: :math:`(H, W)` integer; output: :math:`(2, T + 1)` int64, of background and
          infection.
    """
    logits = logits.float()
    log_odds = logits[1:].logsumexp(0) - logits[0]
    levels = torch.bucketize(log_odds, LOG_ODDS.to(log_odds)).cpu()
    known, true = mask != IGNORE, mask != 0
    size = len(LOG_ODDS) + 1
    return torch.stack([levels[known & (true == infected)].bincount(minlength=size) for infected in (False, True)])


def threshold_counts(levels: Tensor) -> Tensor:
    """Return TP, FP, FN and TN at each threshold.

    Shape:
        - levels: :math:`(2, T + 1)`, see :func:`count_levels`; output: :math:`(4, T)`.
    """
    background, infection = levels.flip(1).cumsum(1).flip(1)  # at least so many thresholds exceeded
    tp, fp = infection[1:], background[1:]
    return torch.stack([tp, fp, infection[0] - tp, background[0] - fp])
