"""A mask volume's values as classes: exact labels, or what exporting and resampling made of two of them."""

import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cbseg.data.scans import looks_inverted
from cbseg.data.volumes import Volume
from cbseg.errors import InputError
from cbseg.points import is_infection

log = logging.getLogger(__name__)

_WHITE = 255  # of a mask that was scaled to be seen
_ROUNDING = 0.01  # by which a label may be off
_OVERSHOOT = 0.25  # of the label, by which interpolation goes beyond it
_FEW = 3  # greys between black and white are labels of their own; more are interpolated
_MOST_VALUES = 1000  # are remembered; more are interpolated


def read_classes(mask: Volume, labels: dict[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Read a mask's slices as classes, from foot to head.

    Values that are off a label by rounding count as it. Where all labels are of one class, 255 counts as they do, and
    interpolated values from half the lowest label on.

    Args:
        mask: The volume.
        labels: The labels that may occur, and the class that each becomes, or ``IGNORE`` where nobody looked; 0, too,
            is background unless it is among them.

    Yields:
        (H, W) uint8.

    Raises:
        InputError: If other values occur.
    """
    values = _values(mask)
    known = np.array([0, *labels])
    classes = set(labels.values())
    is_known = np.abs(values[:, None] - known).min(axis=1) < _ROUNDING
    cut = None
    if not is_known.all() and len(classes) == 1:
        unit = _unit(values, labels)
        if unit is not None:
            cut = unit / 2
            if (np.abs(values[:, None] - [0, unit]).min(axis=1) >= _ROUNDING).any():
                log.warning("%s: holds values between 0 and %g, as resampling makes; cut at %g", mask.name, unit, cut)
    if not is_known.all() and cut is None:
        _refuse(mask, values[~is_known], labels)
    infected = inverted = 0
    for k in range(mask.shape[0]):
        found = mask.slice(k)
        result = np.zeros(found.shape, np.uint8)
        if cut is not None:
            result[found >= cut] = next(iter(classes))
        else:
            for label, value in labels.items():
                result[np.abs(found - label) < _ROUNDING] = value
        infected += bool(is_infection(result).any())
        inverted += looks_inverted(is_infection(result))
        yield result
    if inverted > infected / 2:
        log.warning("%s: infection covers most of %d slices, or of their borders; is it inverted?", mask.name, inverted)


def _values(mask: Volume) -> NDArray[np.float64]:
    """Return all values of a mask, or of many its extremes and some."""
    values = np.zeros(1)
    for k in range(mask.shape[0]):
        values = np.union1d(values, np.unique(mask.slice(k)).astype(float))
        if len(values) > _MOST_VALUES:
            values = values[np.linspace(0, len(values) - 1, _MOST_VALUES // 2).astype(int)]
    return values


def _unit(values: NDArray[np.float64], labels: dict[int, int]) -> float | None:
    """Return the value that stands for infection, 1 or white; none where the values are neither's."""
    if 1 not in labels:  # pictures, whose greys are exact
        return None
    for unit, highest in ((1, max(labels)), (_WHITE, _WHITE)):
        between = values[(np.abs(values) > _ROUNDING) & (np.abs(values - unit) > _ROUNDING)]
        fits = -_OVERSHOOT * unit <= values.min() and highest - unit / 2 <= values.max() <= highest + _OVERSHOOT * unit
        if fits and (unit == 1 or not between.size or len(between) > _FEW):
            return float(unit)
    return None


def _refuse(mask: Volume, unknown: NDArray[np.float64], labels: dict[int, int]) -> None:
    """Name the first slice with an unknown value, and the values there."""
    for k in range(mask.shape[0]):
        here = np.unique(mask.slice(k))
        here = here[np.abs(here[:, None] - [0, *labels]).min(axis=1) >= _ROUNDING]
        if here.size:
            raise InputError(
                f"{mask.name}, slice {k}: holds {here[:5].tolist()}; a mask of this dataset holds 0 and "
                f"{', '.join(str(label) for label in labels if label)}. Is it another structure's mask, or an "
                "interpolated one?"
            )
