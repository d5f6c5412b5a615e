"""How far the predicted boundary of infection lies from the true one: HD95 and surface Dice, by MONAI."""

import math
from importlib.util import find_spec

import torch
from torch import Tensor

from cbseg.errors import InputError
from cbseg.metrics.counting import is_whole

SURFACE_SCORES = ("hd95", "nsd1", "nsd2")
"""The 95 % Hausdorff distance, pixels, and the surface Dice (NSD) at tolerances of 1 and 2 pixels."""


def surface_sums(pred_mask: Tensor, mask: Tensor) -> Tensor:
    """Measure a slice's boundaries, at its own size, as terms of means over slices.

    A slice without infection in truth and prediction, or that is not known everywhere, has none and is left out. Where
    one of both is empty, the scores are the worst there can be: the image's diagonal and 0 (Metrics Reloaded,
    Maier-Hein et al. 2024).

    Shape:
        - pred_mask, mask: :math:`(H, W)` integer, 0 for background; output: (4,) float64: ``SURFACE_SCORES``, and 1 if
          the slice counts. All are 0 if it does not.
    """
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice  # takes seconds, and is an extra

    predicted, true = ((x[None, None] != 0).float() for x in (pred_mask, mask))
    if not is_whole(mask[None]) or not (predicted.any() or true.any()):
        return torch.zeros(len(SURFACE_SCORES) + 1, dtype=torch.float64)
    if not (predicted.any() and true.any()):
        return torch.tensor([math.hypot(*mask.shape), 0, 0, 1], dtype=torch.float64)
    hd95 = compute_hausdorff_distance(predicted, true, include_background=True, percentile=95).item()
    nsd = [compute_surface_dice(predicted, true, [t], include_background=True).item() for t in (1.0, 2.0)]
    return torch.tensor([hd95, *nsd, 1], dtype=torch.float64)


def surface_scores(sums: Tensor) -> dict[str, Tensor]:
    """Return the means over slices, NaN without any.

    Shape:
        - sums: (4,), added up over slices; each score: scalar, float64.
    """
    return dict(zip(SURFACE_SCORES, sums[:-1] / sums[-1], strict=True))


def check_surface(key: str) -> None:
    """Refuse to measure boundaries without MONAI.

    Args:
        key: What asked for it.

    Raises:
        InputError: Saying how to install it.
    """
    if find_spec("monai") is None:
        raise InputError(f"{key}=true: needs MONAI; pip install -e '.[metrics]', or give false")
