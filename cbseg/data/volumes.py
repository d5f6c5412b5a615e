"""What a CT volume is, whatever its format: an ordered stack of axial slices in one canonical orientation."""

import logging
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cbseg.errors import InputError

log = logging.getLogger(__name__)

AIR = -1024.0  # HU; scanners pad outside the field of view with less
_MOST_HU = 31_000.0  # of metal on an extended scale; more is padding below 0 that was stored without a sign

_TISSUES = {"air": (-1100.0, -500.0), "soft tissue": (-200.0, 200.0)}  # HU
_LEAST_SHARE = 0.02  # of each; 26 real scans had 0.36 to 0.67 and 0.27 to 0.53, values that are no HU at most 0.001
_MOST_STEP = 500.0  # HU between the means of neighbouring slices: half of what a lost intercept of -1024 makes
_LEAST_WHITE = 128  # the highest of an 8-bit volume's grey values; attenuation and percentages stay below
_STRIDE = 4  # of the pixels that are looked at, in rows and columns


class Volume(Protocol):
    """A stack of axial slices from foot to head; in each, row 0 is anterior and column 0 the patient's right."""

    @property
    def name(self) -> str:
        """The file or folder that it came from, for messages."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between slices, rows and columns, mm."""

    @property
    def orientation(self) -> str:
        """How it is stored: where its columns, rows and slices run to, such as ``LPS``."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""

    def slice(self, k: int) -> NDArray[np.floating]:
        """Read slice ``k`` from the foot, (H, W) float32, in HU unless the volume was stored as 8-bit grey values.

        Raises:
            InputError: If it cannot be read.
        """


def padding_to_air(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Make air of what scanners write where they saw nothing: HU below -1024, or beyond any metal.

    >>> padding_to_air(np.array([-2000.0, -1000.0, 62512.0])).tolist()
    [-1024.0, -1000.0, -1024.0]
    """
    return np.where((values < AIR) | (values > _MOST_HU), values.dtype.type(AIR), values)


def window_to_uint8(
    values: NDArray[np.floating], window: tuple[float, float], truncate: bool = False
) -> NDArray[np.uint8]:
    """Bring HU to grey values: the window's lower end is 0, its upper end 255; beyond it is clipped.

    Args:
        values: HU, or others in the window's unit.
        window: Its lower and upper end.
        truncate: Whether fractions are cut off, as the authors' code does, or rounded.

    >>> window_to_uint8(np.array([-2000.0, -1250.0, -500.0, 250.0]), (-1250, 250)).tolist()
    [0, 0, 128, 255]
    """
    low, high = window
    grey = (np.clip(values, low, high) - low) / max(high - low, 1e-6) * 255
    return (grey if truncate else np.round(grey)).astype(np.uint8)


def grey_window(image: Volume, intensity: str, window: tuple[float, float]) -> tuple[float, float]:
    """Decide which of a volume's values become grey values 0 and 255; all of its slices are looked at.

    Args:
        image: The volume.
        intensity: ``window``, the given HU; ``raw``, the HU of a scanner's stored values 0 and 4095; for a volume of
            grey values both are 0 and 255. Or ``minmax``, the volume's own extremes.
        window: HU.

    Raises:
        InputError: If the volume's values are neither HU, among which are air and soft tissue, nor grey values 0…255.
    """
    low, high, means = np.inf, -np.inf, []
    seen, lowest, tissues = 0, 0, np.zeros(len(_TISSUES), int)
    for k in range(image.shape[0]):
        values = image.slice(k)
        least, high = float(values.min()), max(high, float(values.max()))
        if least < low:
            low, lowest = least, 0
        means.append(float(values.mean()))
        some = values[::_STRIDE, ::_STRIDE]
        seen, lowest = seen + some.size, lowest + int(np.count_nonzero(some == low))
        tissues += [np.count_nonzero((some >= first) & (some <= last)) for first, last in _TISSUES.values()]
    if intensity == "minmax":
        return low, high
    if low < 0:
        tissues -= [lowest * (first <= low <= last) for first, last in _TISSUES.values()]
        _require_hu(image.name, tissues / max(seen - lowest, 1), low, high)
        _require_steady(image.name, np.array(means))
        return (-1024.0, 3071.0) if intensity == "raw" else window
    if not _LEAST_WHITE <= high <= 255:
        raise InputError(
            f"{image.name}: holds values {low:g}…{high:g}, neither HU, where air is near -1000, nor grey values 0…255; "
            "restore its rescale slope and intercept (often -1024), or export it again"
        )
    log.info("%s: holds grey values 0…255 already, taken as they are", image.name)
    return 0.0, 255.0


def _require_hu(name: str, shares: NDArray[np.floating], low: float, high: float) -> None:
    """Refuse values among which are not both air and soft tissue; the lowest may be padding, and does not count."""
    for (what, (first, last)), share in zip(_TISSUES.items(), shares, strict=True):
        if share < _LEAST_SHARE:
            raise InputError(
                f"{name}: its values {low:g}…{high:g} are no HU: {share:.1%} of them are {what} ({first:g}…{last:g}). "
                "Were they scaled or standardised, or was the rescale intercept (often -1024) lost or applied twice? "
                "Export the scanner's own CT in HU"
            )


def _require_steady(name: str, means: NDArray[np.floating]) -> None:
    """Refuse slices that are so much brighter or darker than their neighbours that they are on another scale."""
    steps = np.abs(np.diff(means))
    if steps.size and steps.max() > _MOST_STEP:
        k = int(steps.argmax())
        raise InputError(
            f"{name}: slices {k} and {k + 1} from the foot differ by {steps[k]:.0f} HU on average, so one of them "
            "lacks its rescale slope and intercept, or belongs to another volume; export it again"
        )


def require_numbers(values: NDArray[np.floating], name: str) -> None:
    """Refuse a slice that holds no number.

    Raises:
        InputError: If a value is NaN or infinite.
    """
    if not np.isfinite(values).all():
        share = 100 * (1 - np.isfinite(values).mean())
        raise InputError(f"{name}: {share:.0f} % of its values are NaN or infinite; export the volume again")
