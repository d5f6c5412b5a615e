"""LCFCN's formulas (Laradji et al. 2018, eq. 1) word for word, blob by blob: the reference of tests and bench."""

import torch
from scipy.ndimage import black_tophat
from skimage.measure import label
from skimage.segmentation import find_boundaries, watershed


def boundaries(probs, points):
    """Boundaries of the watershed over the black top-hat of the probabilities, seeded at the points."""
    seeds = torch.zeros(points.shape, dtype=torch.int)
    seeds[points] = torch.arange(1, int(points.sum()) + 1, dtype=torch.int)
    return lambda box: torch.from_numpy(
        find_boundaries(watershed(black_tophat(probs.detach().numpy(), 7)[box], seeds.numpy()[box]))
    )


def bounding_box(blob):
    rows, columns = torch.nonzero(blob, as_tuple=True)
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)


def lcfcn_oracle(logits, points):
    """The four terms, each the mean over images."""
    terms = torch.zeros(4, dtype=logits.dtype)
    for image_logits, image_points in zip(logits, points, strict=True):
        log_q, log_p = image_logits.log_softmax(0)
        p = image_logits.softmax(0)[1]
        infected = (image_points > 0) & (image_points != 255)
        n = int(infected.sum())
        blobs = torch.from_numpy(label((p > 0.5).numpy(), connectivity=2))
        everywhere = (slice(None), slice(None))

        image = -log_q[p == p.min()][0]
        point = torch.zeros((), dtype=logits.dtype)
        split = torch.zeros((), dtype=logits.dtype)
        false_positive = torch.zeros((), dtype=logits.dtype)
        if n > 0:
            image = image - log_p[p == p.max()][0]
            point = -log_p[infected].sum()
        if n > 1:
            split = split + (n - 1) * -log_q[boundaries(p, infected)(everywhere)].mean()
        for blob in range(1, int(blobs.max()) + 1):
            inside = blobs == blob
            m = int((infected & inside).sum())
            if m == 0:
                false_positive = false_positive - log_q[inside].mean()
            if m > 1:
                box = bounding_box(inside)
                own = torch.zeros_like(inside)
                own[box] = boundaries(p, infected & inside)(box)
                split = split + (m - 1) * -log_q[own & inside].mean()
        terms = terms + torch.stack([image, point, split, false_positive])
    return dict(zip(("image", "point", "split", "false_positive"), terms / len(logits), strict=True))
