"""The watershed of LCFCN's splits: Meyer's flood from markers, as scikit-image defines it, compiled."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, for later processes too, to run without Python's lock."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder can be written that would keep it: neither this one nor the user's cache
        return numba.njit(nogil=True)(function)


def find_boundaries(
    landscape: NDArray[np.floating], markers: NDArray[np.int64], connectivity: int, mask: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The pixels at which basins meet, when a landscape is flooded from markers (Meyer 1994).

    Water spreads from the lowest pixel that it has reached, of equals from the one reached first. Each neighbour joins
    that pixel's basin at once, and counts as no lower than it. Markers are a hair lower than others of their height,
    and than each other in reading order. Such is ``skimage.segmentation.watershed`` from version 0.25.2 on, which
    leaves the order of markers of one height open and is slower.

    Args:
        landscape: Heights of at least 0, taken in single precision.
        markers: Flat indices of the pixels from which water comes, each for its own basin.
        connectivity: 1 if water flows through pixels' sides, 2 if through their corners too.
        mask: Where water may flow. The markers lie there.

    Returns:
        Flat indices of the pixels that have a neighbour in another basin, in reading order.

    Shape:
        - landscape, mask: :math:`(H, W)`; markers: :math:`(M,)`; output: :math:`(N,)`.

    >>> find_boundaries(np.array([[0, 1, 2, 1, 0]]), np.array([0, 4]), 1, np.ones((1, 5), bool))
    array([2, 3])
    """
    down = mask.shape[1] + 2  # to the pixel below, in an image with a margin of 1 that stays dry
    steps = np.array([-down, -1, 1, down, -down - 1, -down + 1, down - 1, down + 1])[: 4 * connectivity]
    keys = np.pad(landscape.astype(np.float32), 1).ravel().view(np.uint32) * 2 + 1  # its bits order as a height does
    rows, columns = np.divmod(markers, mask.shape[1])
    keys[(rows + 1) * down + columns + 1] -= 1  # the hair; markers alone are even
    pixels = np.flatnonzero(np.pad(mask, 1))
    low, high = (keys[pixels] >> shift for shift in (0, 16))
    order = np.lexsort((low.astype(np.uint16), high.astype(np.uint16)))  # NumPy sorts 16 bits by digits: linear time
    meet = _flood(keys, pixels[order], steps)
    return np.flatnonzero(meet.reshape(-1, down)[1:-1, 1:-1])


@compiled
def _flood(keys: NDArray[np.uint32], pixels: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where basins meet, by a queue for each level; as water never falls, the levels follow each other.

    Args:
        keys: Heights, of which the even ones are markers.
        pixels: Those where water may flow, from the lowest to the highest.
        steps: From a pixel to its neighbours.
    """
    basins = np.full(keys.size, -1, np.int32)  # 0 where no water came yet, -1 where none may flow
    levels = np.empty(keys.size, np.int32)
    first, last = np.zeros(pixels.size, np.int32), np.empty(pixels.size, np.int32)  # of each level's queue
    following = np.zeros(keys.size, np.int32)  # in a pixel's queue; 0, in the margin, ends it
    meet = np.zeros(keys.size, np.bool_)
    count = 0
    for k, pixel in enumerate(pixels):
        is_marker = keys[pixel] % 2 == 0
        if k == 0 or is_marker or keys[pixel] > keys[pixels[k - 1]]:
            count += 1
        levels[pixel] = count - 1
        basins[pixel] = count if is_marker else 0
        if is_marker:
            first[count - 1] = last[count - 1] = pixel
    for level in range(count):
        pixel = first[level]
        while pixel:
            for step in steps:
                other = pixel + step
                if basins[other] == 0:
                    basins[other] = basins[pixel]
                    queue = max(level, levels[other])
                    if first[queue]:
                        following[last[queue]] = other
                    else:
                        first[queue] = other
                    last[queue] = other
                elif basins[other] > 0 and basins[other] != basins[pixel]:
                    meet[pixel] = meet[other] = True
            pixel = following[pixel]
    return meet
