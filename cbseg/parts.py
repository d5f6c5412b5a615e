"""The parts of a run, made of its config: data, network with loss and optimiser, Lightning's Trainer, kept state."""

import logging
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Timer
from torch import Tensor, nn

from cbseg.config import build
from cbseg.data.datamodule import SliceDataModule
from cbseg.decision import Decision
from cbseg.errors import ArgumentError, InputError
from cbseg.explain import own_frames
from cbseg.hardware import compile_network, fast_memory_format, keep_freed_memory
from cbseg.job import Job
from cbseg.losses.consistency import Consistency
from cbseg.metrics import check_surface
from cbseg.models import library
from cbseg.module import SegmentationModule
from cbseg.optim import build_optimizer, waits_for_score
from cbseg.run_state import LAST, RunState, best_is
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
    state = RunState(job.folder, monitor, best_is(monitor))
    trainer, timer = build_run_trainer(config, state)
    if str(config.optim.get("_target_")).startswith("momo."):
        require_one_loss(config, trainer)
    datamodule.setup()
    if not config.compile:
        for size in module.decision.sizes(datamodule.image_size):
            check_network(module.net, size, config.model.num_classes)
    if not datamodule.can_teach(module.loss.labels):
        what = "mask shows infection" if module.loss.labels == "mask" else "pixel is annotated"
        raise InputError(
            f"data.root={config.data.root}: no {what} in a slice that trains; this loss learns nothing there"
        )
    if module.decision.rule == "prior":
        loss: Any = module.loss
        module.decision.learn(loss.shares(datamodule.label_counts(loss.labels, module.num_classes)))
    if module.loss.labels is None and datamodule.annotate.by_people:
        log.warning(
            "data.root=%s: this loss takes what nobody clicked on for background, in each slice with clicks; click on "
            "every region there, or take loss=cb_fliprot",
            config.data.root,
        )
    if state.monitor != LAST and not datamodule.can_select(monitor):
        why = (
            f"data.root={config.data.root}: no mask shows infection in a slice that validates, or too little of it is "
            f"known to tell {monitor}"
        )
        if config.selection.patience is not None:
            raise InputError(f"selection.patience: {why}, so no score tells when to stop; leave it out")
        if waits_for_score(config.optim.get("scheduler")):
            raise InputError(f"optim.scheduler: {why}, so no score tells when to lower the rate; take another schedule")
        log.warning(
            "%s, so no score tells epochs apart: the last one's weights are taken (selection.monitor=last)", why
        )
        state.monitor = LAST
    return Parts(datamodule, module, trainer, timer, state)


def require_one_loss(config: DictConfig, trainer: pl.Trainer) -> None:
    """Refuse settings under which an optimiser that steps by its loss is given another loss than its gradient's.

    Raises:
        InputError: If several processes train, each with its own loss, or gradients are accumulated over batches; or if
            the optimiser averages losses, which a run that goes on would have lost.
    """
    for key, given, usual in (
        ("trainer.devices", trainer.world_size, 1),
        ("trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, 1),
        ("optim.beta", config.optim.get("beta", 0.0), 0.0),
    ):
        if given != usual:
            raise InputError(
                f"{key}={given}: SPS takes its step from the loss of one batch on one device, without averages; give "
                f"{usual:g}, or take optim=adam"
            )


def build_module(config: DictConfig) -> SegmentationModule:
    """Make the config's network with its loss and optimiser.

    Raises:
        InputError: If a setting is refused.
    """
    criterion, net = build(config.loss, "loss"), build_network(config)
    if not (isinstance(criterion, nn.Module) and hasattr(criterion, "labels")):
        raise InputError(
            f"loss._target_={config.loss.get('_target_')}: is no loss; take loss=<name>, or a subclass of "
            "cbseg.losses.base.SupervisedLoss"
        )
    if config.data.get("unlabelled") and not (isinstance(criterion, Consistency) and criterion.labels):
        raise InputError(
            f"data.unlabelled={config.data.unlabelled}: this loss learns nothing of slices without labels, or takes "
            "them for healthy; take 0, or a consistency loss such as loss=cb_fliprot"
        )
    if config.metrics.surface:
        check_surface("metrics.surface")
    decision: Decision = build(config.decision, "decision")
    if decision.rule == "prior" and criterion.labels is None:
        raise InputError(
            "decision.rule=prior: this loss learns from more than labels, so that what its probabilities assume is not "
            "known; take decision.rule=argmax"
        )
    module = SegmentationModule(
        net,
        criterion,
        decision=decision,
        seed=config.seed,
        surface=config.metrics.surface,
        **build_optimizer(config),
    )
    module.configure_optimizers()  # refuses what does not do before anything is trained
    return module


def build_network(config: DictConfig) -> nn.Module:
    """Make the config's network, in the layout that is fast where it trains, and compiled if the config says so."""
    net: nn.Module = build(config.model, "model")
    if not isinstance(net, nn.Module):
        raise InputError(f"model._target_={config.model.get('_target_')}: is no network; name a torch.nn.Module")
    net.to(memory_format=fast_memory_format(config.trainer.accelerator))
    if config.compile:
        compile_network(net)
    return net


def check_network(net: nn.Module, size: tuple[int, int], num_classes: int) -> None:
    """Refuse a network that gives no logits of each class for each pixel, before anything is trained.

    Raises:
        InputError: If it gives something else, or takes no images of this size.
    """
    expected = (1, num_classes, *size)
    modes = {part: part.training for part in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            logits = net(torch.zeros(1, 3, *size))
    except ArgumentError as error:
        raise InputError(f"model.{error}") from error
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        if any(frame.filename not in (__file__, library.__file__) for frame in own_frames(error)):  # a user's own
            raise
        raise InputError(f"model: takes no image of {size[0]} × {size[1]} pixels ({error!r})") from error
    finally:
        for part, training in modes.items():
            part.training = training
    if not isinstance(logits, Tensor):
        raise InputError(
            f"model: gives a {type(logits).__name__}, not logits; name where they are with "
            "model._target_=cbseg.models.library.LibraryNetwork (see README)"
        )
    if logits.shape != expected:
        raise InputError(
            f"model: gives {tuple(logits.shape)} for one image, not {expected}: num_classes classes, at its size"
        )
