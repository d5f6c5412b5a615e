"""What a CT volume is, whatever its format: an ordered stack of axial slices in one canonical orientation."""

import logging
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cbseg.errors import InputError

log = logging.getLogger(__name__)

CANONICAL = ("L", "P", "S")
"""Columns run to the patient's left, rows to the back, slices to the head: row 0 is anterior, column 0 the right."""

MOST_TILT = 18.0  # degrees from axial


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
        """Slice ``k`` from the foot, (H, W) float32, in HU unless the volume was stored as 8-bit grey values.

        Raises:
            InputError: If it cannot be read.
        """


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


def _extremes(image: Volume, chosen: Iterable[int]) -> tuple[float, float]:
    """The lowest and highest value in some slices of a volume."""
    slices = [image.slice(k) for k in chosen]
    return min(float(x.min()) for x in slices), max(float(x.max()) for x in slices)


def grey_window(image: Volume, intensity: str, window: tuple[float, float]) -> tuple[float, float]:
    """Which of a volume's values become grey values 0 and 255.

    Args:
        image: The volume.
        intensity: ``window``, the given HU; ``raw``, the HU of a scanner's stored values 0 and 4095; for a volume of
            grey values both are 0 and 255. Or ``minmax``, the volume's own extremes.
        window: HU.

    Raises:
        InputError: If the volume's values are neither HU, in which air lies far below 0, nor grey values 0…255.
    """
    if intensity == "minmax":
        return _extremes(image, range(image.shape[0]))
    spread = np.linspace(0, image.shape[0] - 1, min(5, image.shape[0])).round().astype(int)
    low, high = _extremes(image, spread.tolist())
    if low < 0:
        return (-1024.0, 3071.0) if intensity == "raw" else window
    if not 1 < high <= 255:
        raise InputError(
            f"{image.name}: holds values {low:g}…{high:g}, neither HU, where air is near -1000, nor grey values 0…255; "
            "restore its rescale slope and intercept (often -1024), or export it again"
        )
    log.info("%s: holds grey values 0…255 already, taken as they are", image.name)
    return 0.0, 255.0


def require_numbers(values: NDArray[np.floating], name: str) -> None:
    """Refuse a slice that holds no number.

    Raises:
        InputError: If a value is NaN or infinite.
    """
    if not np.isfinite(values).all():
        share = 100 * (1 - np.isfinite(values).mean())
        raise InputError(f"{name}: {share:.0f} % of its values are NaN or infinite; export the volume again")
