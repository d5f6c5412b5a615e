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

from cbseg.checkpoint import damage_refused, read_checkpoint, require_intact
from cbseg.metrics import COUNTING_SCORES
from cbseg.run_folder import RunFolder
from cbseg.whole_file import part_of, whole

log = logging.getLogger(__name__)


LAST = "last"
"""What to monitor where no score tells epochs apart: the last epoch's weights are taken."""

_SHARE, _QUICK = 0.1, 0.5
"""Of a run's time, writing its state may take so much; but what takes less than so many seconds is always written."""

_KEYS = ("state_dict", "callbacks", "epoch", "global_step", "optimizer_states", "lr_schedulers", "loops")
_REMEDY = (
    "The state_dict of each of trainer.callbacks may hold numbers, texts, lists, dicts and tensors alone. "
    "Remove the file, and the run begins anew"
)


def best_is(monitor: str) -> str:
    """Return which of a validation score's values is the best, ``max`` or ``min``.

    >>> best_is("val/dice"), best_is("val/mae")
    ('max', 'min')
    """
    return "min" if monitor.removeprefix("val/") in COUNTING_SCORES else "max"


class RunState(Checkpoint):
    """Write ``metrics.csv``, ``best.ckpt`` and ``last.ckpt`` after each epoch, each whole or not at all.

    A run that was killed goes on from ``last.ckpt``, which is written first and holds all that the others do. What it
    repeats of the epoch in which it died, it repeats exactly, as every random draw depends on seed and epoch alone.
    Where writing takes long beside training, as the paper's network does on a GPU, the checkpoints are written after
    the best epochs, the last one, and else so often that it takes a tenth of the time.

    Args:
        folder: The run's folder.
        monitor: The score that selects the best epoch; or ``last``, and the last one is.
        mode: ``max`` or ``min``.

    Attributes:
        history: A row for each epoch: ``epoch`` (from 1), ``step``, and every logged average by its name.
        best: The selected epoch's row; the first of equals. A score that is NaN loses against every other.
        complete: Whether training is over, so that only the test remains.
        stopping: Whether a callback asked to stop, which is heeded from ``trainer.min_epochs`` on.
        stopped: Whether that was heeded.
        seconds: Spent on training, without validation.
        sitting: The code of this sitting: its first epoch, the commit, and whether it was dirty.
        earlier: The same of those before, if it was interrupted.
        precision: That of the trainer; a run that goes on in another says so.
    """

    def __init__(self, folder: RunFolder, monitor: str, mode: str) -> None:
        self.folder, self.monitor, self.mode = folder, monitor, mode
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.complete = self.stopping = self.stopped = False
        self.seconds = 0.0
        self.sitting: dict[str, Any] = {}
        self.earlier: list[dict[str, Any]] = []
        self.precision = ""
        self._begun: float | None = None
        self._written, self._took = 0.0, 0.0

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

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask to stop again, if it was asked for before the run was interrupted."""
        trainer.should_stop = trainer.should_stop or self.stopping

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Time the epoch's training from its first batch on, to its validation."""
        if batch_idx == 0:
            self._begun = time.monotonic()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stop_clock(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what the epoch gave; after all other callbacks, so that ``last.ckpt`` holds their states."""
        self._stop_clock(pl_module)
        averages = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1):  # an earlier epoch's are still there
            averages = {name: value for name, value in averages.items() if not name.startswith("val/")}
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **averages}
        self.history.append(row)
        self.stopping = trainer.should_stop
        self.stopped = self.stopping and self.epochs >= (trainer.min_epochs or 0)
        self.complete = self.stopped or self.epochs == trainer.max_epochs
        improved = not self.best or self._value(row) > self._value(self.best)
        if improved:
            self.best = row
        if trainer.strategy.broadcast(self._is_due(improved)):
            self._write(trainer, improved)
        if trainer.is_global_zero:
            self.write_curves()
        trainer.strategy.barrier()

    def _is_due(self, improved: bool) -> bool:
        """Tell whether the checkpoints are to be written after this epoch."""
        if self.complete or (improved and self.monitor != LAST) or self._took < _QUICK:
            return True
        return time.monotonic() - self._written >= self._took * (1 / _SHARE - 1)

    def _write(self, trainer: pl.Trainer, improved: bool) -> None:
        begun = time.monotonic()
        part = part_of(self.folder.last)  # which all processes write together
        trainer.save_checkpoint(part, weights_only=False)
        if trainer.is_global_zero:
            part.replace(self.folder.last)
            if improved:
                self.write_best(read_last(self.folder))
        self._written = time.monotonic()
        self._took = self._written - begun

    def _stop_clock(self, pl_module: pl.LightningModule) -> None:
        """Count the epoch's training, once a GPU has done what it was given; nothing if it was counted."""
        if self._begun is None:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.seconds += time.monotonic() - self._begun
        self._begun = None

    def write_best(self, last: dict[str, Any]) -> None:
        """Write ``best.ckpt``, the weights in ``last.ckpt`` that were validated, which a callback may have averaged."""
        _write_weights(last, self.folder.best)

    def write_last_weights(self) -> None:
        """Write ``last_weights.ckpt``, if the last epoch's weights are not the best ones."""
        if self.best["epoch"] != self.epochs:
            _write_weights(read_last(self.folder), self.folder.last_weights)

    def write_curves(self) -> None:
        """Write ``metrics.csv``."""
        with whole(self.folder.curves) as part:
            pd.DataFrame(self.history).to_csv(part, index=False)

    def resume(self, begun: RunFolder, max_epochs: int, repair: bool) -> Path:
        """Take over what ``last.ckpt`` knows, and return its path.

        Args:
            begun: Whose it is: this run's folder, or that of a shorter run from which it goes on.
            max_epochs: After how many training is over.
            repair: Whether to write what the other files lack, if the run was killed before they were written.

        Raises:
            InputError: If it is damaged.
        """
        last = read_last(begun)
        require_intact(begun.last, _REMEDY)
        with damage_refused(begun.last, _REMEDY):
            self.load_state_dict(last["callbacks"][self.state_key])
            if not 1 <= self.best["epoch"] <= self.epochs:
                raise ValueError(f"its best epoch is {self.best['epoch']} of {self.epochs}")
        self.complete = self.stopped or self.epochs >= max_epochs
        if repair:
            self.write_curves()
            if self.best["epoch"] == self.epochs:
                self.write_best(last)
        return begun.last

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into ``last.ckpt``, for Lightning."""
        kept = ("history", "best", "stopping", "stopped", "seconds", "precision")
        return {name: getattr(self, name) for name in kept} | {"earlier": [*self.earlier, self.sitting]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what comes from ``last.ckpt``, for Lightning."""
        self.history, self.best = list(state_dict["history"]), state_dict["best"]
        self.seconds = state_dict["seconds"]
        self.precision, self.earlier = state_dict.get("precision", ""), list(state_dict.get("earlier", []))
        self.stopping, self.stopped = state_dict.get("stopping", False), state_dict.get("stopped", False)

    def _value(self, row: dict[str, float]) -> float:
        if self.monitor == LAST:
            return row["epoch"]
        score = row[self.monitor] * (1 if self.mode == "max" else -1)
        return -math.inf if math.isnan(score) else score


def _write_weights(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint's weights alone, whole or not at all."""
    with whole(path) as part:
        torch.save({key: checkpoint[key] for key in ("epoch", "global_step", "state_dict")}, part)


def read_last(folder: RunFolder, *more: str) -> dict[str, Any]:
    """Read a run's ``last.ckpt``, of which what is not looked at stays on disk.

    Args:
        folder: The run's.
        more: What it must hold beside what each run's holds.

    Raises:
        InputError: If it is damaged, or a callback keeps there what only code can read back.
    """
    return read_checkpoint(folder.last, (*_KEYS, *more), _REMEDY)
