"""Weights & Biases: one W&B run for each run folder."""

import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import wandb
from omegaconf import OmegaConf
from pytorch_lightning.loggers import WandbLogger
from scipy.ndimage import grey_dilation

from cbseg.drawing import Mask
from cbseg.errors import InputError, check_choice
from cbseg.job import Job
from cbseg.overlays import chosen_slices
from cbseg.points import IGNORE, is_infection

log = logging.getLogger(__name__)


def wandb_mode(mode: str) -> str:
    """Return ``online`` or ``offline`` for a configured mode, and never ask.

    The environment's ``WANDB_MODE`` goes before it.

    Raises:
        InputError: If the mode does not exist, or is ``online`` without a login.
    """
    check_choice("logger.mode", mode, ["auto", "online", "offline"])
    mode = os.environ.get("WANDB_MODE", mode)
    if mode not in ("auto", "online"):
        return mode
    logged_in = wandb.login(prompt=False, verify=False)
    if mode == "online" and not logged_in:
        raise InputError("logger.mode=online: you are not logged in to W&B; run `wandb login`, or logger.mode=offline")
    return "online" if logged_in else "offline"


@contextmanager
def logged_to_wandb(trainer: pl.Trainer, job: Job, history: Sequence[dict[str, float]]) -> Iterator[None]:
    """Log what a trainer does to W&B, if its job's config says so; W&B is told whether it ended well.

    Args:
        trainer: It gets the logger.
        job: The run.
        history: See :func:`wandb_logger`.

    Raises:
        InputError: See :func:`wandb_logger`.
    """
    failed = True
    try:
        if job.config.logger:
            trainer.loggers = [wandb_logger(job, history, **job.config.logger)]
        yield
        failed = False
    finally:
        wandb.finish(exit_code=int(failed))


def wandb_logger(
    job: Job, history: Sequence[dict[str, float]], mode: str, project: str, entity: str | None
) -> WandbLogger:
    """Start a W&B run for a run folder: grouped by data, its job type the loss.

    A run that goes on keeps its W&B run. Offline, where W&B cannot take up a run again, a new file with all epochs so
    far replaces that of the process that died.

    Args:
        job: The run; W&B's files go into ``wandb`` in its folder.
        history: The averages of the epochs that are done, of a run that goes on.
        mode: See :func:`wandb_mode`. ``auto`` goes on offline where W&B cannot be reached.
        project: W&B's project.
        entity: W&B's user or team; the user's default if it is null.

    Raises:
        InputError: If the mode does not exist, or W&B was asked for and cannot be reached.
    """
    folder, data, loss, settings = job.folder, job.data, job.loss, job.settings
    identity = folder.wandb / "id"
    identity.parent.mkdir(exist_ok=True)
    if not identity.is_file():
        identity.write_text(secrets.token_hex(4))

    def start(mode: str) -> Any:
        return wandb.init(
            mode=mode,  # type: ignore[arg-type]
            dir=folder.path,
            project=project,
            entity=entity,
            name=" ".join(filter(None, [data, loss, f"seed{job.config.seed}", settings])),
            group=data,
            job_type=loss,
            tags=[data, loss, *filter(None, [settings[:64]])],
            config={**OmegaConf.to_container(job.config, resolve=True), "settings": settings or "defaults"},  # type: ignore
            settings=wandb.Settings(silent=True, x_transaction_log_flush_interval=1),
            reinit="finish_previous",
            id=identity.read_text(),
            resume="allow" if mode == "online" else None,
        )

    try:
        experiment = start(wandb_mode(mode))
    except wandb.errors.CommError as error:
        if mode != "auto":
            raise InputError(f"logger.mode={mode}: W&B cannot be reached ({error}); logger.mode=offline") from error
        log.warning("W&B cannot be reached (%s): logging offline", error)
        experiment = start("offline")
    experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    if experiment.offline:
        current = Path(experiment.dir).parent
        for dead in set(folder.wandb.glob("offline-run-*")) - {current}:
            shutil.rmtree(dead)
        for row in history:
            # as Lightning logs them, its epochs counted from 0
            experiment.log({**row, "trainer/global_step": row["step"], "epoch": row["epoch"] - 1})
    return WandbLogger(experiment=experiment, save_dir=folder.path)


class ValidationOverlays(pl.Callback):
    """Log a few validation slices as ``val/overlays``, whose truth, prediction and points the dashboard toggles.

    Args:
        count: How many slices, at most.
        every: Epochs from one time to the next; the last epoch is logged too.
    """

    def __init__(self, count: int, every: int) -> None:
        self.count, self.every = count, every
        self.images: list[wandb.Image] = []

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
        epoch = trainer.current_epoch + 1
        if not isinstance(trainer.logger, WandbLogger) or (epoch % self.every and epoch != trainer.max_epochs):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for name, arrays in chosen_slices(data, data.split.val, self.count, outputs["predictions"]):
            self.images.append(mask_image(name, data.class_names, **arrays))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was collected."""
        if self.images and isinstance(trainer.logger, WandbLogger):
            trainer.logger.experiment.log({"val/overlays": self.images, "trainer/global_step": trainer.global_step})
        self.images = []


def mask_image(
    name: str, classes: tuple[str, ...], image: Mask, points: Mask, truth: Mask, prediction: Mask
) -> wandb.Image:
    """Make a slice with its masks for W&B to show: each class has a number of its own, and clicks are 5 × 5 pixels.

    Args:
        name: The slice's.
        classes: The names of the classes but background.
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
    masks = {
        "truth": {"mask_data": truth * is_infection(truth), "class_labels": dict(enumerate(classes, 1))},
        "prediction": {
            "mask_data": np.where(prediction > 0, prediction + np.uint8(count), np.uint8(0)),
            "class_labels": {k: f"predicted {each}" for k, each in enumerate(classes, count + 1)},
        },
        "points": {
            "mask_data": grey_dilation(clicks, size=5),
            "class_labels": {k: f"click on {each}" for k, each in enumerate(("background", *classes), 2 * count + 1)},
        },
    }
    return wandb.Image(image, caption=name, masks=masks)
