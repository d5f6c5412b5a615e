"""A run's settings, looked at before anything is trained."""

from omegaconf import DictConfig

from cbseg.errors import InputError, check_choice, check_whole
from cbseg.metrics import COUNTING_SCORES, SCORES
from cbseg.wandb_log import wandb_mode


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
    for key in ("max_steps", "max_time", "fast_dev_run"):
        if key in config.trainer:
            raise InputError(
                f"trainer.{key}: a run ends with an epoch, after trainer.max_epochs or by selection.patience, and one "
                "that was interrupted goes on; leave it out"
            )
    if config.trainer.get("gradient_clip_val") and config.optim.get("fused"):
        raise InputError(
            "trainer.gradient_clip_val: a fused optimizer cannot clip in mixed precision; add optim.fused=false"
        )
    if config.trainer.get("limit_val_batches") == 0:
        raise InputError(
            "trainer.limit_val_batches=0: validation selects the best epoch; leave it out, or give 1 or more"
        )
    if config.logger:
        wandb_mode(config.logger.mode)
