"""The watershed of LCFCN's splits: Meyer's flood from markers, as scikit-image defines it, compiled."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_DRY, _NO_WATER, _AWAITED = -1, -2, -3  # the margin, where none flows; pixels that it has not reached yet


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, for later processes too, to run without Python's lock."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder can be written that would keep it: neither this one nor the user's cache
        return numba.njit(nogil=True)(function)


class Landscape:
    """Heights that are flooded from markers (Meyer 1994), sorted once for any number of floods.

    Water spreads from the lowest pixel that it has reached, of equals from the one reached first, through pixels'
    sides. Each neighbour joins that pixel's basin at once, and counts as no lower than it. Markers are a hair lower
    than others of their height, and than each other in reading order. Such is ``skimage.segmentation.watershed`` from
    version 0.25.2 on, which leaves the order of markers of one height open and is slower.

    Args:
        heights: At least 0, taken in single precision.

    Shape:
        - heights: :math:`(H, W)`.

    >>> Landscape(np.array([[0, 1, 2, 1, 0]])).boundaries(markers=np.array([0, 4]), within=np.arange(5))
    array([2, 3])
    """

    def __init__(self, heights: NDArray[np.floating]) -> None:
        self._shape = heights.shape
        keys = heights.astype(np.float32).ravel().view(np.uint32)  # its bits order as a height does
        ranks = np.zeros(keys.size, np.int32)
        above = np.flatnonzero(keys)  # half of a top-hat lies at 0
        low, high = (keys[above] >> shift for shift in (0, 16))
        above = above[np.lexsort((low.astype(np.uint16), high.astype(np.uint16)))]  # by digits: linear time
        ranks[above] = np.cumsum(np.diff(keys[above], prepend=0) != 0, dtype=np.int32)
        self._ranks = np.pad(ranks.reshape(heights.shape), 1, constant_values=_DRY)

    def boundaries(self, markers: NDArray[np.int64], within: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the pixels at which basins meet: those that have a neighbour in another basin.

        Args:
            markers: Flat indices of the pixels from which water comes, each for its own basin, in reading order.
            within: Flat indices of the pixels to look at. The flood ends once it reached them and their neighbours.

        Returns:
            Those of ``within`` that are boundaries.

        Shape:
            - markers: :math:`(M,)`; within: :math:`(K,)`; output: :math:`(N,)`.
        """
        markers = self._padded(markers)
        by_rank = np.argsort(self._ranks.ravel()[markers], kind="stable")
        return within[_flood(self._ranks, markers[by_rank], self._padded(within))]

    def _padded(self, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pixels' flat indices in the image with a margin of 1."""
        rows, columns = np.divmod(pixels, self._shape[1])
        return (rows + 1) * (self._shape[1] + 2) + columns + 1


@compiled
def _flood(ranks: NDArray[np.int32], markers: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which of the chosen pixels have a neighbour in another basin.

    Each height has a queue, as water never falls.

    Args:
        ranks: Of the heights, ``_DRY`` in the margin.
        markers: From the lowest to the highest, those of one height in reading order.
        chosen: Any pixels; the flood ends once it reached them and their neighbours.
    """
    down, heights = ranks.shape[1], ranks.ravel()
    basins = np.where(heights == _DRY, _DRY, _NO_WATER).astype(np.int16)
    for pixel in chosen:
        for other in (pixel, pixel - down, pixel - 1, pixel + 1, pixel + down):
            basins[other] = _DRY if heights[other] == _DRY else _AWAITED
    for k, marker in enumerate(markers):
        basins[marker] = k + 1
    left = (basins == _AWAITED).sum()
    own = heights.max() + 1  # the queue of a marker, which floods what is lower before others of its height
    last = np.zeros(own + 1, np.int32)  # of each height's queue, a ring; 0, in the margin, for an empty one
    following = np.empty(heights.size, np.int32)
    coming = 0
    for height in range(own):
        while left > 0:
            is_marker = coming < len(markers) and heights[markers[coming]] == height
            queue = own if is_marker else height
            if is_marker:
                pixel = markers[coming]
                following[pixel] = last[own] = pixel
                coming += 1
            while last[queue]:
                tail = last[queue]
                pixel = following[tail]
                following[tail] = following[pixel]
                last[queue] = 0 if pixel == tail else tail
                for other in (pixel - down, pixel - 1, pixel + 1, pixel + down):
                    if basins[other] <= _NO_WATER:
                        left -= basins[other] == _AWAITED
                        basins[other] = basins[pixel]
                        joins = max(height, heights[other])
                        if is_marker and heights[other] < height:
                            joins = own
                        tail = last[joins]
                        if tail:
                            following[other] = following[tail]
                            following[tail] = other
                        else:
                            following[other] = other
                        last[joins] = other
            if not is_marker:
                break

    meet = np.zeros(chosen.size, np.bool_)
    for k, pixel in enumerate(chosen):
        for other in (pixel - down, pixel - 1, pixel + 1, pixel + down):
            meet[k] |= basins[other] != _DRY and basins[other] != basins[pixel]
    return meet
