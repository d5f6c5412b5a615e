"""The entry point: one composed config in, one finished run folder out.

``python -m cbseg.run loss=pl data=covidA`` is one run; ``-m`` and commas make it a sweep.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, Timer
from pytorch_lightning.loggers import CSVLogger

from cbseg.config import CONF, build, check_settings, effective_overrides
from cbseg.data.datamodule import SliceDataModule
from cbseg.errors import InputError
from cbseg.metrics import SCORES, Counts, undefined_scores
from cbseg.module import NonFiniteLossError, SegmentationModule
from cbseg.overlays import SliceRecorder
from cbseg.tracking import (
    CONFIG,
    METRICS,
    environment,
    is_finished,
    run_folder,
    set_aside,
    settings_name,
    wandb_logger,
    write_json,
)

log = logging.getLogger("cbseg")


def run(config: DictConfig, data: str, loss: str, overrides: Sequence[str]) -> Path:
    """Train, select by validation Dice, test once, and leave a run folder behind.

    Args:
        config: The composed config.
        data: The name of its data config.
        loss: The name of its loss config.
        overrides: The overrides that it was composed with.

    Returns:
        The run's folder.

    Raises:
        InputError: If a setting or the data is bad; nothing was written or moved then.
        NonFiniteLossError: If training diverged; the folder keeps ``best.ckpt``.
    """
    check_settings(config)
    settings = settings_name(effective_overrides(overrides))
    folder = run_folder(config.runs, data, loss, config.seed, settings)
    if not config.rerun and is_finished(folder, config):
        log.info("%s: finished before, skipped (rerun=true runs it again)", folder)
        return folder

    pl.seed_everything(config.seed, workers=True, verbose=False)
    criterion, datamodule = build(config.loss, "loss"), build(config.data, "data")
    net, optimizer = build(config.model, "model"), build(config.optim, "optim")
    module = SegmentationModule(net, criterion, optimizer, config.model.num_classes, config.seed)
    try:
        module.configure_optimizers()
    except (TypeError, ValueError) as error:
        raise InputError(f"optim: {error}") from error
    trainer, best, timer = make_trainer(config, folder)
    datamodule.setup()
    split = {part: len(indices) for part, indices in datamodule.split._asdict().items()}
    code = environment()
    log.info("%s: %s slices", folder, ", ".join(f"{count} {part}" for part, count in split.items()))

    set_aside(folder)
    folder.mkdir(parents=True)
    OmegaConf.save(config, folder / CONFIG, resolve=True)
    started = time.monotonic()
    failed = True
    try:
        trainer.loggers = [CSVLogger(folder, name="", version="")]
        if config.logger:
            trainer.loggers += [wandb_logger(folder, data, loss, config.seed, settings, config, **config.logger)]
        training = fit_and_test(trainer, module, datamodule, best, timer)
        failed = False
    finally:
        wandb.finish(exit_code=int(failed))
    metrics = {
        "data": data,
        "loss": loss,
        "seed": config.seed,
        "settings": settings,
        "status": "finished",
        **test_scores(module.test_counts, datamodule.store.slices),
        **training,
        "seconds": round(time.monotonic() - started, 2),
        "split": split,
        "dataset": datamodule.store.statistics(),
        **code,
    }
    write_json(folder / METRICS, metrics)
    scores = " ".join(f"{name} {_shown(metrics['test'][name])}" for name in (*SCORES, "mae", "game"))
    when = f"best epoch {metrics['best_epoch']} of {metrics['epochs']}, {metrics['seconds']:.0f} s"
    log.info("%s: test %s (%s)", folder, scores, when)
    return folder


def make_trainer(config: DictConfig, folder: Path) -> tuple[pl.Trainer, ModelCheckpoint, Timer]:
    """Lightning's Trainer for a run folder, the callback that keeps the best weights, and the clock.

    Raises:
        InputError: If a setting is refused, or asks for several devices.
    """
    selection = config.selection
    best = ModelCheckpoint(folder, "best", monitor=selection.monitor, mode=selection.mode, save_weights_only=True)
    timer = Timer()
    callbacks: list[pl.Callback] = [best, timer, SliceRecorder(folder / "slices", config.overlays)]
    if config.trainer.enable_progress_bar:
        callbacks.append(RichProgressBar(leave=False))
    if selection.patience is not None:
        callbacks.append(
            EarlyStopping(selection.monitor, mode=selection.mode, patience=selection.patience, check_finite=False)
        )
    trainer = build(config.trainer, "trainer", callbacks=callbacks, logger=False, default_root_dir=folder)
    if trainer.world_size > 1:
        raise InputError(f"trainer.devices={config.trainer.devices}: a run uses one device; sweep over several instead")
    return trainer, best, timer


def fit_and_test(
    trainer: pl.Trainer,
    module: SegmentationModule,
    datamodule: SliceDataModule,
    best: ModelCheckpoint,
    timer: Timer,
) -> dict[str, Any]:
    """Fit, then read the test set once with the selected epoch's weights.

    Returns:
        What ``metrics.json`` says of the training: the selected epoch (from 1), its validation score, and the speed.
    """
    trainer.fit(module, datamodule=datamodule)
    epochs = trainer.current_epoch
    samples = len(datamodule.train_dataloader().sampler)  # type: ignore[arg-type]
    images = epochs * min(samples, int(trainer.num_training_batches) * datamodule.batch_size)
    seconds = timer.time_elapsed("train") - timer.time_elapsed("validate")
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    trainer.test(module, datamodule=datamodule, verbose=False)
    assert best.best_model_score is not None
    return {
        "val": {str(best.monitor): best.best_model_score.item()},
        "best_epoch": checkpoint["epoch"] + 1,
        "epochs": epochs,
        "images_per_second": round(images / seconds, 2),
    }


def test_scores(counts: dict[int, Counts], slices: Sequence[Any]) -> dict[str, Any]:
    """What ``metrics.json`` says of the test set: scores, why some are undefined, raw counts overall and by scan."""
    scans: dict[str, Counts] = {}
    for index, count in counts.items():
        scan = slices[index].scan
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


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _hydra_main(config: DictConfig) -> str:
    chosen = HydraConfig.get()
    choices = chosen.runtime.choices
    return str(run(config, choices["data"], choices["loss"], list(chosen.overrides.task)))


def _explained(error: ConfigCompositionException) -> str:
    """Hydra's message, and for a misspelt key the keys that exist beside it."""
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        exist = ", ".join(str(key) for key in cause.parent_node)
        where = str(cause.full_key).rpartition(".")[0] or "the config"
        return f"{error}\n{cause.full_key} does not exist; {where} has: {exist}"
    return str(error)


def main() -> None:
    """Run the command line; bad input ends it with one clear message and exit code 1."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing its own digest
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    try:
        _hydra_main()
    except ConfigCompositionException as error:
        sys.exit(f"error: {_explained(error)}")
    except (InputError, NonFiniteLossError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
