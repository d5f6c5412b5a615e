"""Validation slices for Weights & Biases, whose truth, prediction and points its dashboard toggles."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import wandb
from scipy.ndimage import grey_dilation

from cbseg.drawing import Mask
from cbseg.overlays import chosen_slices
from cbseg.points import IGNORE, is_infection
from cbseg.wandb_log import RunLogger


class ValidationOverlays(pl.Callback):
    """Log a few validation slices as ``val/overlays``, if the run's logger takes pictures.

    W&B shows pictures of one size under a name, so smaller slices get a black margin below and to the right.

    Args:
        count: How many slices, at most.
        every: Epochs from one time to the next; the last epoch is logged too.
    """

    def __init__(self, count: int, every: int) -> None:
        self.count, self.every = count, every
        self.slices: list[tuple[str, dict[str, Mask]]] = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the batch's slices that were chosen."""
        epoch, logger = trainer.current_epoch + 1, trainer.logger
        wanted = isinstance(logger, RunLogger) and logger.pictures
        if wanted and (epoch % self.every == 0 or epoch == trainer.max_epochs):
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            self.slices += chosen_slices(data, data.split.val, self.count, outputs["predictions"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was collected."""
        if self.slices and isinstance(trainer.logger, RunLogger):
            height, width = np.max([arrays["truth"].shape for _, arrays in self.slices], axis=0)
            classes = trainer.datamodule.class_names  # type: ignore[attr-defined]
            trainer.logger.log_pictures(
                "val/overlays",
                lambda: [mask_image(name, classes, (height, width), **arrays) for name, arrays in self.slices],
                trainer.global_step,
            )
        self.slices = []


def mask_image(
    name: str,
    classes: tuple[str, ...],
    size: tuple[int, int],
    image: Mask,
    points: Mask,
    truth: Mask,
    prediction: Mask,
) -> wandb.Image:
    """Make a slice with its masks for W&B to show: each class has a number of its own, and clicks are 5 × 5 pixels.

    Args:
        name: The slice's.
        classes: The names of the classes but background.
        size: The picture's height and width, no smaller than the slice's.
        image: Grey.
        points: The annotation.
        truth: The mask; what is not known of it is not shown.
        prediction: Classes.

    Shape:
        - image, points, truth, prediction: :math:`(H, W)` uint8.
    """
    count = len(classes)
    clicks = np.where(points == IGNORE, np.uint8(0), points + np.uint8(2 * count + 1))
    if (points == 0).all():  # a slice without infection is annotated as such everywhere
        clicks = np.zeros_like(clicks)
    clicked = enumerate(("background", *classes), 2 * count + 1)
    masks = {
        "truth": (truth * is_infection(truth), dict(enumerate(classes, 1))),
        "prediction": (
            np.where(prediction > 0, prediction + np.uint8(count), np.uint8(0)),
            {k: f"predicted {each}" for k, each in enumerate(classes, count + 1)},
        ),
        "points": (grey_dilation(clicks, size=5), {k: f"click on {each}" for k, each in clicked}),
    }
    margin = [(0, size[0] - truth.shape[0]), (0, size[1] - truth.shape[1])]
    padded = {key: {"mask_data": np.pad(mask, margin), "class_labels": labels} for key, (mask, labels) in masks.items()}
    return wandb.Image(np.pad(image, margin), caption=name, masks=padded)
