"""A run's config, looked at before anything is trained."""

import re
from functools import cache
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from cbseg.config import CONF
from cbseg.errors import InputError, check_choice, check_whole
from cbseg.metrics import COUNTING_SCORES, SCORES
from cbseg.run_state import LAST
from cbseg.wandb_settings import wandb_mode

_WHOLE = (
    "a run ends with an epoch, after trainer.max_epochs or by selection.patience, and one that was interrupted goes on"
)
_SHARED = "the datamodule orders the slices and shares them out"
_NOT_TAKEN = {
    "val_check_interval": "validation comes after an epoch",
    "max_steps": _WHOLE,
    "min_steps": _WHOLE,
    "max_time": _WHOLE,
    "fast_dev_run": _WHOLE,
    "num_nodes": "a run trains on one machine",
    "logger": "logger=wandb and logger=csv choose",
    "plugins": "a run has its own",
    "default_root_dir": "a run writes into its folder, below runs",
    "use_distributed_sampler": _SHARED,
    "overfit_batches": _SHARED,
    "limit_test_batches": "each run is scored on its whole test split",
}
"""The Trainer's arguments that are refused, and why."""

_STRATEGIES = ["auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"]
"""Those under which each process has the whole network, and starts no others: cbseg starts them."""

_TEMPLATES = {"protocol": "paper", "logger": "wandb"}
"""Groups without a ``_target_``, and an option of each that has all keys."""


def check_config(config: DictConfig) -> None:
    """Refuse what no other part checks before hours of training.

    Raises:
        InputError: Naming the key and what exists.
    """
    _check_read(config)
    trainer = config.trainer
    check_whole("seed", config.seed, least=0)
    if config.seed >= 2**32:
        raise InputError(f"seed={config.seed}: give less than 2^32")
    check_whole("overlays", config.overlays, least=0)
    if Path(name := str(config.data.name)).name != name:
        raise InputError(f"data.name={name}: names a folder of the store; give a name without / in it")
    for key in ("compile", "rerun", "dry_run"):
        if not isinstance(config[key], bool):
            raise InputError(f"{key}={config[key]}: give true or false")
    check_whole("trainer.max_epochs", trainer.max_epochs, least=1)
    check_whole("trainer.min_epochs", trainer.get("min_epochs") or 0, least=0)
    check_choice("trainer.precision", trainer.precision, ["auto", "bf16-mixed", "16-mixed", "32-true"])
    if trainer.precision == "16-mixed" and (trainer.accelerator == "cpu" or not torch.cuda.is_available()):
        raise InputError("trainer.precision=16-mixed: a CPU has none, and would take bf16-mixed; give auto")
    check_whole("model.num_classes", config.model.num_classes, least=2)
    if config.model.num_classes != config.data.annotate.num_classes:
        raise InputError(
            f"model.num_classes={config.model.num_classes}: the data has {config.data.annotate.num_classes} classes, "
            "background included (data.annotate.num_classes); leave model.num_classes out, or change the data's"
        )
    monitor, patience = config.selection.monitor, config.selection.patience
    check_choice("selection.monitor", monitor, [*(f"val/{score}" for score in (*SCORES, *COUNTING_SCORES)), LAST])
    if patience is not None:
        check_whole("selection.patience", patience, least=1)
        if monitor == LAST:
            raise InputError(f"selection.patience={patience}: waits for a score, and selection.monitor=last has none")
    every = trainer.get("check_val_every_n_epoch", 1)
    check_whole("trainer.check_val_every_n_epoch", every, least=1)
    if every > 1 and (monitor != LAST or trainer.max_epochs % every):
        raise InputError(
            f"trainer.check_val_every_n_epoch={every}: each epoch is validated, as the best of all is selected; leave "
            f"it out, or take selection.monitor=last and a divisor of trainer.max_epochs={trainer.max_epochs}"
        )
    for key, why in _NOT_TAKEN.items():
        if key in trainer:
            raise InputError(f"trainer.{key}: {why}; leave it out")
    check_strategy(trainer)
    for part, what in (("train", "trains"), ("val", "selects the best epoch")):
        if trainer.get(f"limit_{part}_batches") == 0:
            raise InputError(f"trainer.limit_{part}_batches=0: none {what}; leave it out, or give 1 or more")
    check_whole("trainer.accumulate_grad_batches", trainer.get("accumulate_grad_batches", 1), least=1)
    if trainer.get("gradient_clip_val") and config.optim.get("fused"):
        raise InputError(
            "trainer.gradient_clip_val: a fused optimizer cannot clip in mixed precision; add optim.fused=false"
        )
    if config.get("logger"):
        wandb_mode(config.logger.mode)
        check_choice("logger.pictures", str(config.logger.pictures).lower(), ["auto", "true", "false"])
        if not isinstance(timeout := config.logger.timeout, int | float) or isinstance(timeout, bool) or timeout <= 0:
            raise InputError(f"logger.timeout={timeout}: give seconds, more than 0")


def check_strategy(trainer: DictConfig) -> None:
    """Refuse a strategy that starts processes of its own, or splits the network.

    Raises:
        InputError: Naming those that exist.
    """
    if isinstance(strategy := trainer.get("strategy", "auto"), DictConfig):
        if not str(strategy.get("_target_")).endswith(".DDPStrategy") or "start_method" in strategy:
            raise InputError(
                "trainer.strategy: give a pytorch_lightning.strategies.DDPStrategy without start_method, or one of: "
                f"{', '.join(_STRATEGIES)}"
            )
    else:
        check_choice("trainer.strategy", strategy, _STRATEGIES)


def _check_read(config: DictConfig) -> None:
    """Refuse keys that nothing reads, after which a run would be named though it is as without them.

    A key to which another refers is read. What has a ``_target_`` refuses by itself what it does not take.

    Raises:
        InputError: Naming the key, and what stands beside it.
    """
    written = OmegaConf.to_yaml(config)  # with references as they are
    for part, known in _known_keys().items():
        given = (config.get(part) or {}) if part else config
        for key in set(map(str, given)) - known:
            if not re.search(rf"\$\{{[^}}]*\b{re.escape(key)}\b", written):
                path, where = (f"{part}.{key}", part) if part else (key, "the config")
                raise InputError(f"{path}: nothing reads it; leave it out. {where} has: {', '.join(sorted(known))}")


@cache
def _known_keys() -> dict[str, set[str]]:
    """Return the keys of the whole config, under an empty name, and of each part that has no ``_target_``."""
    whole = OmegaConf.load(CONF / "config.yaml")
    parts = {"selection": whole.selection, "metrics": whole.metrics}
    parts |= {group: OmegaConf.load(CONF / group / f"{option}.yaml") for group, option in _TEMPLATES.items()}
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    top = (set(map(str, whole)) - {"defaults"}) | groups - {"hydra", "experiment"}
    return {"": top, **{part: set(map(str, keys)) for part, keys in parts.items()}}
