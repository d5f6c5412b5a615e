"""A run: trains with one composed config, selects, tests, and leaves one finished folder behind."""

import logging
from contextlib import nullcontext
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, RichProgressBar, Timer
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from cbseg.config import Job, build
from cbseg.data.datamodule import SliceDataModule
from cbseg.errors import InputError
from cbseg.hardware import compile_network, fast_memory_format, fast_precision, keep_freed_memory
from cbseg.metrics import COUNTING_SCORES, SCORES, Counts, undefined_scores
from cbseg.module import SegmentationModule
from cbseg.overlays import SliceRecorder
from cbseg.processes import StopAtOnce
from cbseg.run_state import RunState
from cbseg.settings import check_settings
from cbseg.tracking import (
    BEST,
    ERROR,
    LAST,
    METRICS,
    environment,
    is_finished,
    is_resumable,
    lock,
    open_folder,
    write_json,
)
from cbseg.wandb_log import ValidationOverlays, logged_to_wandb

log = logging.getLogger(__name__)


def run(job: Job) -> Path:
    """Train, select by validation Dice, test, and leave a run folder behind; or go on with one that was begun.

    Returns:
        The run's folder.

    Raises:
        InputError: If a setting or the data is bad; nothing was trained then, and nothing is lost.
        BusyError: If another process trains this run.
        NonFiniteLossError: If training diverged; the folder keeps ``best.ckpt``.
    """
    config, folder = job.config, job.folder
    check_settings(config)
    if not config.rerun and is_finished(folder, config):
        log.info("%s: finished before, skipped (rerun=true runs it again)", folder)
        return folder

    keep_freed_memory()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    datamodule, module = build(config.data, "data"), build_module(config)
    monitor = config.selection.monitor
    state = RunState(folder, monitor, "min" if monitor.removeprefix("val/") in COUNTING_SCORES else "max")
    trainer, timer = make_trainer(config, folder, state)
    datamodule.setup()
    code = environment()

    with lock(folder) if trainer.world_size == 1 else nullcontext():  # of several processes, the parent holds it
        if not config.rerun and is_finished(folder, config):
            log.info("%s: finished by another process", folder)
            return folder
        resumes = open_folder(folder, config) if trainer.is_global_zero else is_resumable(folder, config)
        last = state.resume(repair=trainer.is_global_zero) if resumes else None
        split = {name: len(part) for name, part in datamodule.split._asdict().items()}
        with logged_to_wandb(trainer, job, state.history) if trainer.is_global_zero else nullcontext():
            if trainer.is_global_zero:
                parts = ", ".join(f"{slices} {name}" for name, slices in split.items())
                goes_on = f", goes on after epoch {state.epochs} of {config.trainer.max_epochs}" if resumes else ""
                log.info("%s: %s slices%s", folder, parts, goes_on)
            try:
                result = fit_and_test(trainer, module, datamodule, state, timer, last)
            except MisconfigurationException as error:  # what Lightning alone can tell
                raise InputError(f"trainer: {error}") from error
        if not trainer.is_global_zero:
            return folder
        metrics = {
            "data": job.data,
            "loss": job.loss,
            "seed": config.seed,
            "settings": job.settings,
            "status": "finished",
            **result,
            "precision": str(trainer.precision),
            "split": split,
            "dataset": datamodule.store.statistics(),
            "fingerprint": datamodule.fingerprint,
            **code,
        }
        write_json(folder / METRICS, metrics)
        for leftover in (LAST, ERROR):
            (folder / leftover).unlink(missing_ok=True)
    scores = " ".join(f"{name} {_shown(metrics['test'][name])}" for name in (*SCORES, *COUNTING_SCORES))
    when = f"best epoch {metrics['best_epoch']} of {metrics['epochs']}, {metrics['seconds']:.0f} s"
    log.info("%s: test %s (%s)", folder, scores, when)
    return folder


def build_module(config: DictConfig) -> SegmentationModule:
    """The config's network with its loss and optimiser.

    Raises:
        InputError: If a setting is refused.
    """
    criterion, net, optimizer = build(config.loss, "loss"), build_network(config), build(config.optim, "optim")
    module = SegmentationModule(net, criterion, optimizer, config.model.num_classes, config.seed)
    module.configure_optimizers()  # refuses what does not do before anything is trained
    return module


def build_network(config: DictConfig) -> nn.Module:
    """The config's network, in the layout that is fast where it trains, and compiled if the config says so."""
    net: nn.Module = build(config.model, "model")
    net.to(memory_format=fast_memory_format(config.trainer.accelerator))
    if config.compile:
        compile_network(net)
    return net


def build_trainer(config: DictConfig, **arguments: Any) -> pl.Trainer:
    """The config's Trainer with more arguments, in the precision that is fast where it trains if that is ``auto``."""
    precision = config.trainer.precision
    if precision == "auto":
        precision = fast_precision(config.trainer.accelerator)
    trainer: pl.Trainer = build(config.trainer, "trainer", precision=precision, **arguments)
    return trainer


def make_trainer(config: DictConfig, folder: Path, state: RunState) -> tuple[pl.Trainer, Timer]:
    """Lightning's Trainer for a run folder, and its clock.

    Raises:
        InputError: If a setting is refused.
    """
    patience = config.selection.patience
    timer = Timer()
    callbacks: list[pl.Callback] = [state, timer, StopAtOnce(), SliceRecorder(folder / "slices", config.overlays)]
    if config.logger:
        callbacks.append(ValidationOverlays(config.overlays, every=max(config.trainer.max_epochs // 10, 1)))
    if config.trainer.enable_progress_bar:
        callbacks.append(RichProgressBar(leave=False))
    if patience is not None:
        callbacks.append(EarlyStopping(state.monitor, mode=state.mode, patience=patience, check_finite=False))
    trainer = build_trainer(
        config,
        callbacks=callbacks,
        plugins=[LightningEnvironment()],  # several devices' processes are ours (cbseg.processes), on a cluster too
        logger=False,
        default_root_dir=folder,
    )
    return trainer, timer


def fit_and_test(
    trainer: pl.Trainer,
    module: SegmentationModule,
    datamodule: SliceDataModule,
    state: RunState,
    timer: Timer,
    last: Path | None,
) -> dict[str, Any]:
    """Fit, from ``last`` on if it is given, then test: the last epoch's weights, and the selected epoch's.

    Returns:
        What ``metrics.json`` says of the test set and of the training: the selected epoch (from 1), its validation
        score, and the speed.
    """
    if not state.complete:
        trainer.fit(module, datamodule=datamodule, ckpt_path=last)
    elif last is not None:
        checkpoint = torch.load(last, map_location="cpu", weights_only=True)
        timer.load_state_dict(checkpoint["callbacks"][timer.state_key])
        datamodule.load_state_dict(checkpoint[type(datamodule).__qualname__])
    loader, limit = datamodule.train_dataloader(), trainer.limit_train_batches
    batches = int(limit * len(loader)) if isinstance(limit, float) else limit
    samples = min(len(loader.sampler), batches * (loader.batch_size or 1)) * trainer.world_size  # type: ignore[arg-type]
    last_is_best = state.best["epoch"] == state.epochs
    last_epoch = None if last_is_best else test(trainer, module, datamodule, state.folder / LAST, "last")
    seconds = timer.time_elapsed("train") + timer.time_elapsed("test")
    selected = test(trainer, module, datamodule, state.folder / BEST, "test")
    return {
        **selected,
        "last": last_epoch or selected,
        "val": {state.monitor: state.best[state.monitor]},
        "best_epoch": int(state.best["epoch"]),
        "epochs": state.epochs,
        "images_per_second": round(state.epochs * samples / state.seconds, 2),
        "seconds": round(seconds + timer.time_elapsed("test"), 2),
    }


def test(
    trainer: pl.Trainer, module: SegmentationModule, datamodule: SliceDataModule, weights: Path, stage: str
) -> dict[str, Any]:
    """Read the test set once with these weights: scores, why some are undefined, raw counts overall and by scan."""
    module.test_stage = stage
    module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True)["state_dict"])
    trainer.test(module, datamodule=datamodule, verbose=False)
    scans: dict[str, Counts] = {}
    for index, count in module.test_counts.items():
        scan = datamodule.store.slices[index].scan
        scans[scan] = scans[scan] + count if scan in scans else count
    total = reduce(add, scans.values())
    return {
        "test": {name: score.item() for name, score in total.scores().items()},
        "undefined": undefined_scores(total.pixels),
        "counts": total.named(),
        "scans": {scan: count.named() for scan, count in scans.items()},
    }


def _shown(score: float) -> str:
    return "undefined" if score != score else f"{score:.3f}"
