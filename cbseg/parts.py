"""The parts of a run, made of its config: data, network with loss and optimiser, Lightning's Trainer, kept state."""

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import LightningEnvironment
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, RichProgressBar, Timer
from torch import nn

from cbseg.config import build
from cbseg.data.datamodule import SliceDataModule
from cbseg.hardware import compile_network, fast_memory_format, fast_precision, keep_freed_memory
from cbseg.job import Job
from cbseg.metrics import COUNTING_SCORES
from cbseg.module import SegmentationModule
from cbseg.overlays import SliceRecorder
from cbseg.processes import StopAtOnce
from cbseg.run_state import RunState
from cbseg.wandb_log import ValidationOverlays


@dataclass(frozen=True)
class Parts:
    """A run's parts, ready to train."""

    datamodule: SliceDataModule
    module: SegmentationModule
    trainer: pl.Trainer
    timer: Timer
    state: RunState


def prepare(job: Job) -> Parts:
    """Make a run's parts; nothing is written into its folder.

    Raises:
        InputError: If the config or the data is bad.
    """
    config = job.config
    keep_freed_memory()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    datamodule, module = build(config.data, "data"), build_module(config)
    monitor = config.selection.monitor
    state = RunState(job.folder, monitor, "min" if monitor.removeprefix("val/") in COUNTING_SCORES else "max")
    trainer, timer = build_run_trainer(config, state)
    datamodule.setup()
    return Parts(datamodule, module, trainer, timer, state)


def build_module(config: DictConfig) -> SegmentationModule:
    """Make the config's network with its loss and optimiser.

    Raises:
        InputError: If a setting is refused.
    """
    criterion, net, optimizer = build(config.loss, "loss"), build_network(config), build(config.optim, "optim")
    module = SegmentationModule(net, criterion, optimizer, config.model.num_classes, config.seed)
    module.configure_optimizers()  # refuses what does not do before anything is trained
    return module


def build_network(config: DictConfig) -> nn.Module:
    """Make the config's network, in the layout that is fast where it trains, and compiled if the config says so."""
    net: nn.Module = build(config.model, "model")
    net.to(memory_format=fast_memory_format(config.trainer.accelerator))
    if config.compile:
        compile_network(net)
    return net


def build_trainer(config: DictConfig, **arguments: Any) -> pl.Trainer:
    """Make the config's Trainer with more arguments; ``precision=auto`` is the one that is fast where it trains."""
    precision = config.trainer.precision
    if precision == "auto":
        precision = fast_precision(config.trainer.accelerator)
    trainer: pl.Trainer = build(config.trainer, "trainer", precision=precision, **arguments)
    return trainer


def build_run_trainer(config: DictConfig, state: RunState) -> tuple[pl.Trainer, Timer]:
    """Make Lightning's Trainer for a run folder, and its clock.

    Raises:
        InputError: If a setting is refused.
    """
    patience = config.selection.patience
    timer = Timer()
    callbacks: list[pl.Callback] = [state, timer, StopAtOnce(), SliceRecorder(state.folder.slices, config.overlays)]
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
        default_root_dir=state.folder.path,
    )
    return trainer, timer
