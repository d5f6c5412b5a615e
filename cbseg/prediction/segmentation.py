"""A CT's labels, and what is counted of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cbseg.data.volumes import window_to_uint8
from cbseg.points import count_regions
from cbseg.prediction.predictor import Grey, Predictor
from cbseg.progress import progress

BODY_HU = -500.0  # between lung and tissue


class Segmentation(NamedTuple):
    """What was predicted for a CT, and counted on the way.

    Attributes:
        grey: Gives the CT's slice ``k`` as the network saw it, (H, W) uint8.
        classes: (S, H, W) uint8; 0 is background.
        probabilities: Of each class but background, (C - 1, S, H, W) uint8, where 255 is certain; of no class, where
            nobody asked.
        regions: 8-connected components, counted slice by slice.
        body: How many pixels are denser than lung.
    """

    grey: Callable[[int], Grey]
    classes: Grey
    probabilities: Grey
    regions: int
    body: int

    def counts(self) -> dict[str, Any]:
        """Return what ``predictions.csv`` says of any CT's labels."""
        return {
            "slices": len(self.classes),
            "infected_slices": int(self.infected_slices.size),
            "regions": self.regions,
            "infected_pixels": np.count_nonzero(self.classes),
        }

    @property
    def infected_slices(self) -> NDArray[np.intp]:
        """The numbers of the slices with infection."""
        return np.flatnonzero(self.classes.any((1, 2)))


def segment(predictor: Predictor, count: int, grey: Callable[[int], Grey], probabilities: bool) -> Segmentation:
    """Segment a CT.

    Args:
        predictor: The network.
        count: Of the CT's slices.
        grey: Gives slice ``k``, (H, W) uint8.
        probabilities: Whether to keep them too.

    Raises:
        InputError: If a slice cannot be read.
    """
    air = window_to_uint8(np.array([BODY_HU]), predictor.window or (0.0, 255.0))
    classes, likely = np.empty((0, 0, 0), np.uint8), np.empty((0, 0, 0, 0), np.uint8)
    regions = body = 0
    for k, one in enumerate(progress(predictor.slices(count, grey, probabilities), "segmented", 1, count)):
        if k == 0:
            classes = np.empty((count, *one.image.shape), np.uint8)
            likely = np.empty((len(predictor.classes) * probabilities, *classes.shape), np.uint8)
        classes[k] = one.classes
        if one.probabilities is not None:
            likely[:, k] = one.probabilities[1:]
        regions += count_regions(one.classes)
        body += int(np.count_nonzero(one.image > air))
    return Segmentation(grey, classes, likely, regions, body)
