"""Drawing slices: grey pictures, masks as colours over them, and points as dots."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cbseg.points import IGNORE, is_infection

Mask = NDArray[np.uint8]
CORRECT, MISSED, FALSE, CONFUSED = (60, 200, 80), (70, 130, 255), (255, 60, 50), (255, 130, 220)
CLASSES = (CORRECT, (255, 180, 40), (160, 90, 255), (40, 210, 210), (200, 220, 60), (180, 120, 70))
"""Each class's colour, from class 1 on; where there are more, they begin anew."""

_NAMES = ("green", "orange", "violet", "cyan", "lime", "brown")
_DOTS = ("red", "orange", "violet", "cyan", "lime", "brown")


def legend(classes: tuple[str, ...] = ("infection",)) -> str:
    """Say what the colours of :func:`paint` mean.

    Args:
        classes: The names of the classes but background.

    >>> legend()
    'green: infection found, blue: missed, red: falsely predicted'
    """
    found = ", ".join(f"{_NAMES[k % len(_NAMES)]}: {name}" for k, name in enumerate(classes))
    confused = ", pink: predicted as another class" if len(classes) > 1 else ""
    return f"{found} found, blue: missed, red: falsely predicted{confused}"


def paint(image: Mask, truth: Mask, prediction: Mask | None = None, opacity: float = 0.5) -> NDArray[np.uint8]:
    """Colour a grey slice: its true classes; or, given a prediction, what is found, missed, false and confused.

    Where the truth is not known, a prediction has its class's colour.

    Shape:
        - image, truth, prediction: :math:`(H, W)` uint8; output: :math:`(H, W, 3)` uint8.
    """
    rgb = np.repeat(image[..., None], 3, -1).astype(float)
    found = truth if prediction is None else prediction
    infected, predicted = is_infection(truth), is_infection(found)
    right = predicted & ((truth == found) | (truth == IGNORE))
    parts = [(right & (found % len(CLASSES) == k % len(CLASSES)), CLASSES[k - 1]) for k in range(1, len(CLASSES) + 1)]
    parts += [(infected & (found == 0), MISSED), ((truth == 0) & predicted, FALSE)]
    parts += [(infected & predicted & ~right, CONFUSED)]
    for where, colour in parts:
        rgb[where] = (1 - opacity) * rgb[where] + opacity * np.array(colour)
    return rgb.round().astype(np.uint8)


def show(axes: Axes, picture: NDArray[np.uint8], title: str, points: Mask | None = None) -> None:
    """Draw a picture without ticks; points as dots, yellow on background, red on class 1, others as painted."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()
    if points is not None and (points == IGNORE).any():
        for value in np.unique(points[points != IGNORE])[::-1].tolist():
            rows, columns = np.nonzero(points == value)
            colour = _DOTS[(value - 1) % len(_DOTS)] if value else "yellow"
            axes.scatter(columns, rows, s=9, c=colour, edgecolors="black", linewidths=0.4)
