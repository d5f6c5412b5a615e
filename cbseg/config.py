"""Configs: composed by Hydra, compared with the defaults, checked, and made into objects."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from itertools import filterfalse
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from cbseg.errors import InputError, check_choice, check_whole
from cbseg.metrics import COUNTING_SCORES, SCORES
from cbseg.tracking import is_free
from cbseg.wandb_log import wandb_mode

CONF = Path(__file__).parent.parent / "conf"


def compose(overrides: Sequence[str]) -> DictConfig:
    """The config of one run, with Hydra's own under ``hydra``."""
    inside_app = GlobalHydra.instance().is_initialized()
    with nullcontext() if inside_app else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides), return_hydra_config=True)


def effective_overrides(overrides: Sequence[str]) -> list[str]:
    """Those of a run's overrides that change its config and are not free, each value as the config holds it."""
    choices = tuple(o for o in overrides if o.split("=")[0] in ("data", "loss"))
    return list(_effective(choices, tuple(filterfalse(is_free, overrides))))


@cache  # a sweep asks for each of its seeds, before and after
def _effective(choices: tuple[str, ...], overrides: tuple[str, ...]) -> tuple[str, ...]:
    def plain(some: Sequence[str]) -> DictConfig | None:
        try:
            config = compose([*choices, *some])
        except ConfigCompositionException:  # without optim=sps there is no optim.beta
            return None
        return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])

    whole = plain(overrides)
    assert whole is not None
    kept = list(overrides)
    for override in overrides:
        without = [other for other in kept if other is not override]
        if plain(without) == whole:
            kept = without
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}

    def normal(override: str) -> str:
        key = override.split("=")[0].lstrip("+")
        is_value = key.split("@")[0] not in groups and not key.startswith("~")
        return f"{key}={OmegaConf.select(whole, key)}" if is_value else override

    return tuple(normal(override) for override in kept)


def build(config: DictConfig, key: str, **arguments: Any) -> Any:
    """What a config's ``_target_`` makes of it.

    Args:
        config: Holds a ``_target_``.
        key: Where it stands in the whole config, for messages.
        arguments: Added to the config's.

    Raises:
        InputError: If a setting is refused; the message is the innermost one and not Hydra's around it.
    """
    try:
        return instantiate(config, **arguments)
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if isinstance(cause, InputError):
            raise cause from error
        if isinstance(cause, TypeError | ValueError | MisconfigurationException):
            raise InputError(f"{key}: {cause}") from error
        raise


def check_settings(config: DictConfig) -> None:
    """Refuse what no other part checks before hours of training.

    Raises:
        InputError: Naming the key and what exists.
    """
    check_whole("seed", config.seed, least=0)
    check_whole("overlays", config.overlays, least=0)
    if not isinstance(config.compile, bool):
        raise InputError(f"compile={config.compile}: give true or false")
    check_whole("trainer.max_epochs", config.trainer.max_epochs, least=1)
    check_whole("model.num_classes", config.model.num_classes, least=2)
    if config.selection.patience is not None:
        check_whole("selection.patience", config.selection.patience, least=1)
    check_choice(
        "selection.monitor", config.selection.monitor, [f"val/{score}" for score in (*SCORES, *COUNTING_SCORES)]
    )
    for key in ("check_val_every_n_epoch", "val_check_interval"):
        if key in config.trainer:
            raise InputError(
                f"trainer.{key}: each epoch is validated once, as the best of all is selected; leave it out"
            )
    if config.trainer.get("limit_val_batches") == 0:
        raise InputError(
            "trainer.limit_val_batches=0: validation selects the best epoch; leave it out, or give 1 or more"
        )
    if config.logger:
        wandb_mode(config.logger.mode)
