"""LCFCN's formulas (Laradji et al. 2018, eq. 1) word for word, blob by blob: the reference of tests and bench."""

import numpy as np
import torch
from scipy.ndimage import black_tophat
from skimage.measure import label
from skimage.segmentation import find_boundaries, watershed
from torch import Tensor


def boundaries(probs: Tensor, points: Tensor) -> Tensor:
    """Boundaries of the watershed of the whole image over the black top-hat of the probabilities, from the points."""
    seeds = torch.zeros(points.shape, dtype=torch.int)
    seeds[points] = torch.arange(1, int(points.sum()) + 1, dtype=torch.int)
    landscape = black_tophat(probs.detach().numpy(), 7).astype("float32").astype("float64")
    # points of equal height flood in reading order: each is lower than the next, by less than single precision shows
    landscape[points] -= np.arange(int(points.sum()), 0, -1) * np.spacing(landscape[points])
    return torch.from_numpy(find_boundaries(watershed(landscape, seeds.numpy())))


def lcfcn_oracle(logits: Tensor, points: Tensor) -> dict[str, Tensor]:
    """Compute the four terms, each the mean over images."""
    terms = torch.zeros(4, dtype=logits.dtype)
    for image_logits, image_points in zip(logits, points, strict=True):
        log_q, log_p = image_logits.log_softmax(0)
        p = image_logits.softmax(0)[1]
        infected = (image_points > 0) & (image_points != 255)
        n = int(infected.sum())
        blobs = torch.from_numpy(label((p > 0.5).numpy(), connectivity=2))

        image = -log_q[p == p.min()][0]
        point = torch.zeros((), dtype=logits.dtype)
        split = torch.zeros((), dtype=logits.dtype)
        false_positive = torch.zeros((), dtype=logits.dtype)
        if n > 0:
            image = image - log_p[p == p.max()][0]
            point = -log_p[infected].sum()
        if n > 1:
            split = split + (n - 1) * -log_q[boundaries(p, infected)].mean()
        for blob in range(1, int(blobs.max()) + 1):
            inside = blobs == blob
            m = int((infected & inside).sum())
            if m == 0:
                false_positive = false_positive - log_q[inside].mean()
            if m > 1:
                split = split + (m - 1) * -log_q[boundaries(p, infected & inside) & inside].mean()
        terms = terms + torch.stack([image, point, split, false_positive])
    return dict(zip(("image", "point", "split", "false_positive"), terms / len(logits), strict=True))
