"""Pictures of slices: image, points, truth and prediction."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from cbseg.points import IGNORE, resize_points

Mask = NDArray[np.uint8]
CORRECT, MISSED, FALSE = (60, 200, 80), (70, 130, 255), (255, 60, 50)
COLOURS = "green: infection found, blue: missed, red: falsely predicted"


def paint(image: Mask, truth: Mask, prediction: Mask | None = None, opacity: float = 0.5) -> NDArray[np.uint8]:
    """A slice in grey, its true infection in green; or, given a prediction, found, missed and false in colours.

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


class SliceRecorder(pl.Callback):
    """Keeps a few infected test slices, spread over the test set, as arrays (``.npz``) and pictures (``.png``).

    Each ``.npz`` holds ``image``, ``points``, ``truth`` and ``prediction``, all (H, W) uint8 at the mask's native size,
    at which slices are scored.

    Args:
        folder: Where they go.
        count: How many, at most.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record the batch's slices that were chosen."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        infected = [i for i in data.split.test if data.store.slices[i].regions]
        test = infected or data.split.test
        chosen = {test[k] for k in np.linspace(0, len(test) - 1, min(self.count, len(test))).round().astype(int)}
        for index in chosen & set(batch["index"]):
            truth = np.array(data.store.native_mask(index))
            height, width = truth.shape
            image = Image.fromarray(data.store.images[index]).resize((width, height), Image.Resampling.BILINEAR)
            self._record(
                data.store.slices[index].name,
                image=np.asarray(image),
                points=resize_points(self._points(data, index), truth.shape),
                truth=truth,
                prediction=outputs["predictions"][index].cpu().numpy().astype(np.uint8),
            )

    def _points(self, data: Any, index: int) -> Mask:
        """What the annotator gives, or no points where people's clicks leave the slice out, as they do test slices."""
        if data.annotate.covers(data.store, index):
            return data.annotate(data.store, index)
        return np.full(data.store.images.shape[1:], IGNORE, np.uint8)

    def _record(self, name: str, image: Mask, points: Mask, truth: Mask, prediction: Mask) -> None:
        self.folder.mkdir(exist_ok=True)
        np.savez_compressed(self.folder / f"{name}.npz", image=image, points=points, truth=truth, prediction=prediction)
        figure = Figure(figsize=(10, 3), layout="constrained")
        axes = figure.subplots(1, 4)
        show(axes[0], image, name)
        show(axes[1], image, "points", points)
        show(axes[2], paint(image, truth), "truth")
        show(axes[3], paint(image, truth, prediction), "prediction")
        figure.supxlabel(COLOURS, fontsize=8)
        figure.savefig(self.folder / f"{name}.png", dpi=110)
