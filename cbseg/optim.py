"""The config's optimiser and its learning-rate schedule."""

from collections.abc import Callable
from functools import partial
from typing import Any

from omegaconf import DictConfig, ListConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from cbseg.config import build, without
from cbseg.errors import ArgumentError, check_choice
from cbseg.run_state import LAST, best_is

Schedule = Callable[[Optimizer], LRScheduler]


def build_optimizer(config: DictConfig) -> dict[str, Any]:
    """Return what :class:`cbseg.module.SegmentationModule` takes of ``optim``: how to make optimiser and schedule.

    Raises:
        InputError: If a setting is refused.
    """
    optimizer = build(without(config.optim, "scheduler"), "optim")
    given = config.optim.get("scheduler")
    if given is None:
        return {"optimizer": optimizer}
    key, monitor = "optim.scheduler", config.selection.monitor
    interval = given.get("interval", "epoch")
    check_choice(f"{key}.interval", interval, ["epoch", "step"])
    if waits_for_score(given):
        if monitor == LAST:
            raise ArgumentError(f"{key}: ReduceLROnPlateau looks at a score, and selection.monitor=last has none")
        if interval == "step":
            raise ArgumentError(
                f"{key}.interval=step: ReduceLROnPlateau looks at validation, once an epoch; leave it out"
            )
        if given.get("mode", "min") != best_is(monitor):
            raise ArgumentError(f"{key}.mode: give {best_is(monitor)}, as selection.monitor={monitor} is best there")
    schedule = partial(_schedule, without(given, "interval"), key)
    return {"optimizer": optimizer, "schedule": schedule, "interval": interval, "monitor": monitor}


def waits_for_score(scheduler: DictConfig | None) -> bool:
    """Tell whether a schedule goes by the score that ``selection.monitor`` names, as ReduceLROnPlateau does."""
    return scheduler is not None and str(scheduler.get("_target_")).endswith(f".{ReduceLROnPlateau.__name__}")


def _schedule(config: DictConfig, key: str, optimizer: Optimizer) -> LRScheduler:
    """Make a schedule of an optimiser; where it is made of others, as SequentialLR is, these are of the same."""
    parts = {
        str(name): [_schedule(part, f"{key}.{name!s}[{k}]", optimizer) for k, part in enumerate(value)]
        for name, value in config.items()
        if isinstance(value, ListConfig) and value and isinstance(value[0], DictConfig)
    }
    plain = without(config, *parts)
    plain._partial_ = True
    return build(plain, key)(optimizer, **parts)
