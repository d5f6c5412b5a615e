"""The parts of a run, made of its config: data, network with loss and optimiser, Lightning's Trainer, kept state."""

import logging
from dataclasses import dataclass

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Timer
from torch import nn

from cbseg.config import build
from cbseg.data.datamodule import SliceDataModule
from cbseg.decision import Decision
from cbseg.errors import InputError
from cbseg.hardware import compile_network, fast_memory_format, keep_freed_memory
from cbseg.job import Job
from cbseg.losses.consistency import Consistency
from cbseg.metrics import COUNTING_SCORES
from cbseg.module import SegmentationModule
from cbseg.run_state import LAST, RunState
from cbseg.trainer import build_run_trainer

log = logging.getLogger(__name__)


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
    if state.monitor != LAST and not datamodule.can_select:
        why = f"data.root={config.data.root}: no mask shows infection in a slice that validates"
        if config.selection.patience is not None:
            raise InputError(f"selection.patience: {why}, so no score tells when to stop; leave it out")
        log.warning(
            "%s, so no score tells epochs apart: the last one's weights are taken (selection.monitor=last)", why
        )
        state.monitor = LAST
    return Parts(datamodule, module, trainer, timer, state)


def build_module(config: DictConfig) -> SegmentationModule:
    """Make the config's network with its loss and optimiser.

    Raises:
        InputError: If a setting is refused.
    """
    criterion, net, optimizer = build(config.loss, "loss"), build_network(config), build(config.optim, "optim")
    if config.data.get("unlabelled") and not (isinstance(criterion, Consistency) and criterion.labels):
        raise InputError(
            f"data.unlabelled={config.data.unlabelled}: this loss learns nothing of slices without labels, or takes "
            "them for healthy; take 0, or a consistency loss such as loss=cb_fliprot"
        )
    decision: Decision = build(config.decision, "decision")
    if decision.rule == "prior" and criterion.labels is None:
        raise InputError(
            "decision.rule=prior: this loss learns from more than labels, so that what its probabilities assume is not "
            "known; take decision.rule=argmax"
        )
    module = SegmentationModule(net, criterion, optimizer, decision, config.seed)
    module.configure_optimizers()  # refuses what does not do before anything is trained
    return module


def build_network(config: DictConfig) -> nn.Module:
    """Make the config's network, in the layout that is fast where it trains, and compiled if the config says so."""
    net: nn.Module = build(config.model, "model")
    net.to(memory_format=fast_memory_format(config.trainer.accelerator))
    if config.compile:
        compile_network(net)
    return net
