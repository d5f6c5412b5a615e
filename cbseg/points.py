"""Point annotations (paper §4.1.1, §4.2): one click a region, as many on the background."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.ndimage import label as scipy_label
from skimage.measure import label, regionprops

from cbseg.clicks import Click
from cbseg.errors import check_choice

IGNORE = 255
"""The value of a pixel that nobody looked at, in points and masks alike: what is known is the annotation."""

MASK_SHARE = 0.5
"""Where so large a share of a slice is known it has a mask, if only in part; below, points or strokes."""

Region = NDArray[np.bool_]


def _farthest_from_edge(region: Region, noise: NDArray[np.uint64]) -> int:
    """Return the pixel with the largest distance transform (§4.1.1), the first in reading order of equals."""
    if region.all():  # no background in sight: the image's border is the edge
        region = np.pad(region, 1)
        return int(distance_transform_edt(region)[1:-1, 1:-1].argmax())
    return int(distance_transform_edt(region).argmax())


def _uniform(region: Region, noise: NDArray[np.uint64]) -> int:
    """Return any pixel of the region, each as likely (§4.2)."""
    return int(np.where(region, noise, np.iinfo(np.uint64).max).argmin())


def _centroid(region: Region, noise: NDArray[np.uint64]) -> int:
    """Return the centroid, truncated; where it lies outside, as in a crescent, the region's nearest pixel."""
    rows, columns = np.nonzero(region)
    row, column = int(rows.mean()), int(columns.mean())
    nearest = np.argmin((rows - row) ** 2 + (columns - column) ** 2)
    return int(np.ravel_multi_index((rows[nearest], columns[nearest]), region.shape))


KNOWN = "known"
"""The sampler that takes every pixel whose class is known."""

SAMPLERS: dict[str, Callable[[Region, NDArray[np.uint64]], int]] = {
    "distance_transform": _farthest_from_edge,
    "uniform": _uniform,
    "centroid": _centroid,
}


def find_regions(mask: NDArray[np.integer | np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Find a mask's regions: 8-connected components, of one class each; ``find_regions(mask > 0)`` joins classes.

    Shape:
        - mask: :math:`(H, W)`; output: labels :math:`(H, W)`, 0 on the background and 1…n on the regions, and n.

    >>> find_regions(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]]))[1]
    2
    """
    if mask.dtype == bool:  # SciPy's is faster, but joins classes
        return scipy_label(mask, np.ones((3, 3), bool))
    return label(mask, connectivity=2, return_num=True)


def count_regions(mask: NDArray[np.integer]) -> int:
    """Count a mask's infected regions: 8-connected components, whatever their class.

    Shape:
        - mask: :math:`(H, W)`, 0 on the background.
    """
    return find_regions(is_infection(mask))[1]


def is_infection(mask: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Tell which pixels are known to be of any class but background.

    >>> is_infection(np.array([0, 1, 2, IGNORE])).tolist()
    [False, True, True, False]
    """
    return (mask > 0) & (mask != IGNORE)


def is_lone(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which labelled pixels have no neighbour of their class: clicks, where others are strokes and areas.

    >>> is_lone(np.array([[1, 0, 0, IGNORE, 1]], np.uint8)).tolist()
    [[True, False, False, False, True]]
    """
    known = labels != IGNORE
    parts, _ = find_regions(np.where(known, labels.astype(np.int64) + 1, 0))
    return known & (np.bincount(parts.ravel())[parts] == 1)


def sample_points(
    mask: NDArray[np.integer], sampler: str = "distance_transform", seed: int = 0, empty: str = "background"
) -> NDArray[np.uint8]:
    """Annotate a mask as a radiologist would: one point in each region of one class, and as many on the background.

    Every pixel draws one random number, from a bit generator whose stream NumPy guarantees. A ``uniform`` point is the
    region's pixel with the smallest, and the background points are the background's pixels with the smallest, so they
    do not depend on the sampler.

    Args:
        mask: The class of every pixel, 0 for background, ``IGNORE`` where it is not known.
        sampler: Which pixel of a region: ``distance_transform`` (§4.1.1), ``uniform`` (§4.2) or ``centroid``; or
            ``known``, every pixel whose class is known, for masks that are people's own annotation.
        seed: Decides every draw; see :func:`cbseg.seeds.derived_seed`.
        empty: What a mask without regions gives: ``background``, every known pixel annotated as background (§4.2); or
            ``ignore``, no annotation. To ``known`` it is the same.

    Returns:
        The class at each annotated pixel, ``IGNORE`` elsewhere.

    Shape:
        - mask: :math:`(H, W)`; output: :math:`(H, W)`.

    Raises:
        InputError: If the sampler or ``empty`` does not exist.
        ValueError: If the mask is not 2-D or has a value that is no class.

    >>> sample_points(np.array([[0, 0, 0], [0, 2, 0]]))
    array([[255, 255, 255],
           [  0,   2, 255]], dtype=uint8)
    """
    check_choice("sampler", sampler, [*SAMPLERS, KNOWN])
    check_choice("empty", empty, ["background", "ignore"])
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.min() < 0 or mask.max() > IGNORE:
        raise ValueError(
            f"a mask is (H, W) with classes from 0 to 254, or {IGNORE}, not {mask.shape} with {mask.min()}…{mask.max()}"
        )
    if sampler == KNOWN:
        return mask.astype(np.uint8)
    labels, count = find_regions(np.where(mask == IGNORE, 0, mask))
    points = np.full(mask.shape, IGNORE, np.uint8)
    if count == 0:
        return np.where(mask == 0, np.uint8(0), points) if empty == "background" else points
    noise = np.random.PCG64(seed).random_raw(mask.size).reshape(mask.shape)
    for region in regionprops(labels):
        box = _grown(region.slice)
        chosen = SAMPLERS[sampler](labels[box] == region.label, noise[box])
        at = np.unravel_index(chosen, labels[box].shape)
        points[box][at] = mask[box][at]
    background = np.flatnonzero(mask == 0)
    order = np.argsort(noise.ravel()[background], kind="stable")
    points.ravel()[background[order[:count]]] = 0
    return points


def _grown(box: tuple[slice, slice]) -> tuple[slice, slice]:
    """Grow a bounding box by a pixel: in it a region's distance transform is the whole image's."""
    rows, columns = (slice(max(side.start - 1, 0), side.stop + 1) for side in box)
    return rows, columns


def place_points(clicks: list[Click], shape: tuple[int, int], empty: str = "background") -> NDArray[np.uint8]:
    """Make points of coordinates.

    Args:
        clicks: (row, column, class) of each.
        shape: The native image's height and width.
        empty: What a slice without clicks gives; see :func:`sample_points`.

    Shape:
        - output: ``shape``.

    Raises:
        ValueError: If a point lies outside the image; the message names it.

    >>> place_points([(0, 1, 1), (1, 0, 0)], (2, 2))
    array([[255,   1],
           [  0, 255]], dtype=uint8)
    """
    points = np.full(shape, 0 if not clicks and empty == "background" else IGNORE, np.uint8)
    for row, column, value in clicks:
        if not (0 <= row < shape[0] and 0 <= column < shape[1] and 0 <= value < IGNORE):
            swapped = 0 <= column < shape[0] and 0 <= row < shape[1] and 0 <= value < IGNORE
            raise ValueError(
                f"the point row {row}, column {column}, class {value} lies outside {shape[0]} rows × {shape[1]} columns"
                + ("; are row and column swapped?" if swapped else "")
            )
        points[row, column] = value
    return points


def resize_points(points: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring points to another image size: each to the pixel that covers its centre.

    A region's lone click is never lost: it takes its pixel from others, and where two meet, one moves to the nearest
    free pixel. Of strokes, whose pixels touch, and of background points, the class that has most on a pixel gets it,
    and of equals the highest; a stroke that gets none moves like a click. A slice that is background everywhere stays
    so.

    Args:
        points: A class at each annotated pixel, ``IGNORE`` elsewhere.
        size: The new height and width.

    Shape:
        - points: :math:`(H, W)`; output: ``size``.

    >>> resize_points(np.array([[255, 255, 255, 1], [255, 255, 0, 255]], np.uint8), (1, 2))
    array([[255,   1]], dtype=uint8)
    """
    if (points == 0).all():
        return np.zeros(size, np.uint8)
    resized = np.full(size, IGNORE, np.uint8)
    rows, columns = np.nonzero(points != IGNORE)
    if not rows.size:
        return resized
    classes = points[rows, columns]
    strokes = label(np.where(points == IGNORE, 0, points), connectivity=2)[rows, columns]  # 0: background points
    rows = (2 * rows + 1) * size[0] // (2 * points.shape[0])
    columns = (2 * columns + 1) * size[1] // (2 * points.shape[1])
    lone = (strokes > 0) & (np.bincount(strokes)[strokes] == 1)
    for k in np.flatnonzero(lone):
        _place(resized, rows[k], columns[k], classes[k])
    _vote(resized, rows[~lone], columns[~lone], classes[~lone])
    kept = np.unique(strokes[lone | (resized[rows, columns] == classes)])
    for stroke, first in zip(*np.unique(strokes, return_index=True), strict=True):
        if stroke and stroke not in kept:
            _place(resized, rows[first], columns[first], classes[first])
    return resized


def _vote(
    resized: NDArray[np.uint8], rows: NDArray[np.int64], columns: NDArray[np.int64], classes: NDArray[np.uint8]
) -> None:
    """Give each free pixel the class that has most points there, and of equals the highest."""
    kinds, kind = np.unique(classes, return_inverse=True)
    if not kinds.size:
        return
    votes = np.zeros((len(kinds), *resized.shape), np.int32)
    np.add.at(votes, (kind, rows, columns), 1)
    winner = kinds[len(kinds) - 1 - votes[::-1].argmax(axis=0)]
    chosen = votes.any(axis=0) & (resized == IGNORE)
    resized[chosen] = winner[chosen]


def _place(resized: NDArray[np.uint8], row: int, column: int, value: int) -> None:
    """Give a point the free pixel nearest to its place, the first in reading order of equals; none if all are taken."""
    reach = 0
    while True:
        top, left = max(row - reach, 0), max(column - reach, 0)
        near = resized[top : row + reach + 1, left : column + reach + 1]
        rows, columns = np.nonzero(near == IGNORE)
        distances = (rows + top - row) ** 2 + (columns + left - column) ** 2
        nearest = distances.argmin() if distances.size else None
        whole = near.shape == resized.shape
        if nearest is not None and (whole or distances[nearest] <= reach**2):  # none is nearer outside
            near[rows[nearest], columns[nearest]] = value
        elif not whole:
            reach = max(1, 2 * reach)
            continue
        return
