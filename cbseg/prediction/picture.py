"""A look at what was predicted: a few slices of a CT, with its infection painted in."""

import numpy as np
from matplotlib.figure import Figure

from cbseg.drawing import paint, show
from cbseg.prediction.segmentation import Segmentation

_MOST = 4  # slices


def draw(segmentation: Segmentation, aspect: float) -> Figure:
    """Draw up to four slices, spread over those with infection, or the middle one: as they are, and painted.

    Args:
        segmentation: What was predicted.
        aspect: A pixel's height by its width.
    """
    infected = segmentation.infected_slices
    if not infected.size:
        infected = np.array([len(segmentation.classes) // 2])
    chosen = infected[np.linspace(0, len(infected) - 1, min(_MOST, len(infected))).round().astype(int)]
    figure = Figure(figsize=(max(2.5 * len(chosen), 5), 5.4), layout="constrained")
    for (above, below), k in zip(figure.subplots(2, len(chosen), squeeze=False).T, chosen, strict=True):
        image, classes = segmentation.grey(k), segmentation.classes[k]
        show(above, image, f"slice {k + 1} of {len(segmentation.classes)} from the foot")
        show(below, paint(image, classes), f"{np.count_nonzero(classes)} pixels")
        above.set_aspect(aspect)
        below.set_aspect(aspect)
    figure.supxlabel("painted: predicted infection. Not for diagnosis", fontsize=7)
    return figure
