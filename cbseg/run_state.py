"""What a run keeps from epoch to epoch: its learning curves, its best weights, and all that it needs to go on."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from cbseg.checkpoint import damage_refused, read_checkpoint
from cbseg.run_folder import RunFolder

log = logging.getLogger(__name__)


LAST = "last"
"""What to monitor where no score tells epochs apart: the last epoch's weights are taken."""

_REMEDY = (
    "The state_dict of each of trainer.callbacks may hold numbers, texts, lists, dicts and tensors alone. "
    "Remove the file, and the run begins anew"
)


class RunState(Checkpoint):
    """Write ``metrics.csv``, ``best.ckpt`` and ``last.ckpt`` after each epoch, each whole or not at all.

    A run that was killed goes on from ``last.ckpt``, which is written first and holds all that the others do. What it
    repeats of the epoch in which it died, it repeats exactly, as every random draw depends on seed and epoch alone.

    Args:
        folder: The run's folder.
        monitor: The score that selects the best epoch; or ``last``, and the last one is.
        mode: ``max`` or ``min``.

    Attributes:
        history: A row for each epoch: ``epoch`` (from 1), ``step``, and every logged average by its name.
        best: The selected epoch's row; the first of equals. A score that is NaN loses against every other.
        complete: Whether training is over, so that only the test remains.
        seconds: Spent on training, without validation.
        precision: That of the trainer; a run that goes on in another says so.
    """

    def __init__(self, folder: RunFolder, monitor: str, mode: str) -> None:
        self.folder, self.monitor, self.mode = folder, monitor, mode
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.complete = False
        self.seconds = 0.0
        self.precision = ""
        self._begun = 0.0

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return len(self.history)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say if the run goes on in another precision: ``trainer.precision=auto`` on another machine."""
        now = str(trainer.precision)
        if self.precision not in ("", now):
            log.warning("%s: began in %s and goes on in %s (trainer.precision=auto)", self.folder, self.precision, now)
        self.precision = now

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Time the epoch's training from its first batch on, to its validation."""
        if batch_idx == 0:
            self._begun = time.monotonic()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock, once a GPU has done what it was given."""
        if trainer.sanity_checking:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.seconds += time.monotonic() - self._begun

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what the epoch gave; after all other callbacks, so that ``last.ckpt`` holds their states."""
        averages = {name: value.item() for name, value in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **averages}
        self.history.append(row)
        self.complete = trainer.should_stop or self.epochs == trainer.max_epochs
        improved = not self.best or self._value(row) > self._value(self.best)
        if improved:
            self.best = row
        part = _part(self.folder.last)
        trainer.save_checkpoint(part, weights_only=False)
        if trainer.is_global_zero:
            part.replace(self.folder.last)
            if improved:
                self.write_best(self.read_last())
            self.write_curves()
        trainer.strategy.barrier()

    def read_last(self) -> dict[str, Any]:
        """Read ``last.ckpt``, of which what is not looked at stays on disk.

        Raises:
            InputError: If it is damaged, or a callback keeps there what only code can read back.
        """
        return read_checkpoint(self.folder.last, ("state_dict", "callbacks", "epoch", "global_step"), _REMEDY)

    def write_best(self, last: dict[str, Any]) -> None:
        """Write ``best.ckpt``, the weights in ``last.ckpt`` that were validated, which a callback may have averaged."""
        _write_weights(last, self.folder.best)

    def write_last_weights(self) -> None:
        """Write ``last_weights.ckpt``, if the last epoch's weights are not the best ones."""
        if self.best["epoch"] != self.epochs:
            _write_weights(self.read_last(), self.folder.last_weights)

    def write_curves(self) -> None:
        """Write ``metrics.csv``."""
        part = _part(self.folder.curves)
        pd.DataFrame(self.history).to_csv(part, index=False)
        part.replace(self.folder.curves)

    def resume(self, repair: bool) -> Path:
        """Take over what ``last.ckpt`` knows, and return its path.

        Args:
            repair: Whether to write what the other files lack, if the run was killed before they were written.

        Raises:
            InputError: If it is damaged.
        """
        last = self.read_last()
        with damage_refused(self.folder.last, _REMEDY):
            self.load_state_dict(last["callbacks"][self.state_key])
        if repair:
            self.write_curves()
            if self.best["epoch"] == self.epochs:
                self.write_best(last)
        return self.folder.last

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into ``last.ckpt``, for Lightning."""
        kept = ("history", "best", "complete", "seconds", "precision")
        return {name: getattr(self, name) for name in kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what comes from ``last.ckpt``, for Lightning."""
        self.history, self.best = list(state_dict["history"]), state_dict["best"]
        self.complete, self.seconds = state_dict["complete"], state_dict["seconds"]
        self.precision = state_dict.get("precision", "")

    def _value(self, row: dict[str, float]) -> float:
        if self.monitor == LAST:
            return row["epoch"]
        score = row[self.monitor] * (1 if self.mode == "max" else -1)
        return -math.inf if math.isnan(score) else score


def _write_weights(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint's weights alone, whole or not at all."""
    part = _part(path)
    torch.save({key: checkpoint[key] for key in ("epoch", "global_step", "state_dict")}, part)
    part.replace(path)


def _part(path: Path) -> Path:
    """Return where a file is written before it is whole."""
    return path.with_name(f"{path.name}.part")
