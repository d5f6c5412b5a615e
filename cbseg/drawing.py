"""Drawing slices: grey pictures, masks as colours over them, and points as dots."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cbseg.points import IGNORE

Mask = NDArray[np.uint8]
CORRECT, MISSED, FALSE = (60, 200, 80), (70, 130, 255), (255, 60, 50)
COLOURS = "green: infection found, blue: missed, red: falsely predicted"


def paint(image: Mask, truth: Mask, prediction: Mask | None = None, opacity: float = 0.5) -> NDArray[np.uint8]:
    """Colour a grey slice: its true infection green; or, given a prediction, what is found, missed and false.

    Shape:
        - image, truth, prediction: :math:`(H, W)` uint8; output: :math:`(H, W, 3)` uint8.
    """
    rgb = np.repeat(image[..., None], 3, -1).astype(float)
    found = truth if prediction is None else prediction
    for where, colour in (
        ((truth > 0) & (found > 0), CORRECT),
        ((truth > 0) & (found == 0), MISSED),
        ((truth == 0) & (found > 0), FALSE),
    ):
        rgb[where] = (1 - opacity) * rgb[where] + opacity * np.array(colour)
    return rgb.round().astype(np.uint8)


def show(axes: Axes, picture: NDArray[np.uint8], title: str, points: Mask | None = None) -> None:
    """Draw a picture without ticks; points as dots, red on infection and yellow on background."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()
    if points is not None and (points == IGNORE).any():
        for where, colour in (((points > 0) & (points != IGNORE), "red"), (points == 0, "yellow")):
            rows, columns = np.nonzero(where)
            axes.scatter(columns, rows, s=9, c=colour, edgecolors="black", linewidths=0.4)
