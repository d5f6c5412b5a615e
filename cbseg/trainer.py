"""Lightning's Trainer as the config wants it, with the callbacks of a run and those that the config adds."""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import LightningEnvironment
from omegaconf import DictConfig, ListConfig
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    LearningRateFinder,
    ProgressBar,
    RichProgressBar,
    StochasticWeightAveraging,
    Timer,
)
from pytorch_lightning.profilers import AdvancedProfiler, SimpleProfiler

from cbseg.config import build, without
from cbseg.errors import InputError
from cbseg.hardware import fast_precision
from cbseg.overlays import SliceRecorder
from cbseg.processes import StopAtOnce
from cbseg.run_state import RunState
from cbseg.wandb_pictures import ValidationOverlays

_PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}


def build_trainer(config: DictConfig, **arguments: Any) -> pl.Trainer:
    """Make the config's Trainer with more arguments; ``precision=auto`` is the one that is fast where it trains."""
    plain = without(config.trainer, "callbacks")
    trainer: pl.Trainer = build(
        plain, "trainer", precision=run_precision(config), use_distributed_sampler=False, **arguments
    )
    return trainer


def run_precision(config: DictConfig) -> Any:
    """Return the precision that the config's Trainer has on this machine, by Lightning's name."""
    precision = config.trainer.precision
    return fast_precision(config.trainer.accelerator) if precision == "auto" else precision


def build_run_trainer(config: DictConfig, state: RunState) -> tuple[pl.Trainer, Timer]:
    """Make Lightning's Trainer for a run folder, and its clock.

    Raises:
        InputError: If a setting is refused.
    """
    added = dict(added_callbacks(config))
    patience = config.selection.patience
    timer = Timer()
    callbacks: list[pl.Callback] = [state, timer, StopAtOnce(), SliceRecorder(state.folder.slices, config.overlays)]
    if config.get("logger"):
        callbacks.append(ValidationOverlays(config.overlays, every=max(config.trainer.max_epochs // 10, 1)))
    if config.trainer.enable_progress_bar and not any(isinstance(x, ProgressBar) for x in added.values()):
        callbacks.append(RichProgressBar(leave=False))
    if patience is not None:
        callbacks.append(EarlyStopping(state.monitor, mode=state.mode, patience=patience, check_finite=False))
    taken = {callback.state_key for callback in callbacks}
    for key, callback in added.items():
        if callback.state_key in taken:  # its state and the other's would be one in last.ckpt
            raise InputError(f"{key}: the run has a {type(callback).__name__} of these settings already; leave it out")
        taken.add(callback.state_key)
    arguments: dict[str, Any] = {}
    if (name := config.trainer.get("profiler")) in _PROFILERS:  # which would log, where nobody listens
        arguments["profiler"] = _PROFILERS[name](dirpath=state.folder.path, filename="profile")
    trainer = build_trainer(
        config,
        **arguments,
        callbacks=[*added.values(), *callbacks],  # the run's own see what the others changed
        plugins=[LightningEnvironment()],  # several devices' processes are ours (cbseg.processes), on a cluster too
        logger=False,
        default_root_dir=state.folder.path,
    )
    return trainer, timer


def added_callbacks(config: DictConfig) -> Iterator[tuple[str, pl.Callback]]:
    """Make the callbacks of ``trainer.callbacks``, each by its path in the config: a dict by name, or a list.

    Raises:
        InputError: If one cannot be made, or is no callback that a run can have.
    """
    given = config.trainer.get("callbacks")
    if isinstance(given, DictConfig):
        nodes = {f"trainer.callbacks.{name!s}": given[name] for name in given}
    elif isinstance(given, ListConfig):
        nodes = {f"trainer.callbacks[{k}]": node for k, node in enumerate(given)}
    else:
        nodes = {"trainer.callbacks": given}
    for key, node in nodes.items():
        if node is None:  # one of another config that is left out here
            continue
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise InputError(f"{key}={node}: give trainer.callbacks.<any name>._target_=<class>, and its arguments")
        callback = build(node, key)
        if not isinstance(callback, pl.Callback):
            raise InputError(f"{key}: {type(callback).__qualname__} is no pytorch_lightning.Callback")
        if isinstance(callback, StochasticWeightAveraging):
            raise InputError(
                f"{key}: StochasticWeightAveraging makes its weights after the last epoch, where none selects them; "
                "take pytorch_lightning.callbacks.WeightAveraging, whose average is validated in each epoch"
            )
        if isinstance(callback, BatchSizeFinder | LearningRateFinder):
            raise InputError(
                f"{key}: {type(callback).__name__} changes what the config and the run's name say; sweep over "
                "data.batch_size or optim.lr instead"
            )
        yield key, callback
