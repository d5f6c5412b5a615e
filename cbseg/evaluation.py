"""The test: a run's weights, read once over its test set."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cbseg.checkpoint import read_checkpoint
from cbseg.data.datamodule import SliceDataModule
from cbseg.metrics import Counts, score_scans
from cbseg.module import SegmentationModule
from cbseg.run_folder import RunFolder
from cbseg.threshold_curves import write_curve

log = logging.getLogger(__name__)


def test(
    trainer: pl.Trainer, module: SegmentationModule, datamodule: SliceDataModule, weights: Path, stage: str
) -> dict[str, Any]:
    """Read the test set once with these weights: scores, why some are undefined, raw counts overall and by scan.

    Counts at other thresholds of the probability are written beside the weights.

    Raises:
        RuntimeError: If not each of its slices was counted, whatever the reason: the scores would be of others.
    """
    module.test_stage = stage
    take_weights(trainer, module, datamodule, weights)
    trainer.test(module, datamodule=datamodule, verbose=False)
    if missing := set(datamodule.split.test) ^ module.test_counts.keys():
        raise RuntimeError(f"{len(missing)} slices of the test split were not counted, or counted without being of it")
    scans: dict[str, Counts] = {}
    for index, count in module.test_counts.items():
        scan = datamodule.store.slices[index].scan
        scans[scan] = scans[scan] + count if scan in scans else count
    if trainer.is_global_zero:
        folder = RunFolder(weights.parent)
        write_curve(folder.thresholds if stage == "test" else folder.last_thresholds, scans)
    return score_scans(scans)


def take_weights(trainer: pl.Trainer, module: SegmentationModule, datamodule: SliceDataModule, weights: Path) -> None:
    """Take a checkpoint's weights, and estimate for them how common each class is, where the decision asks for it.

    The estimate goes into the checkpoint, for those who predict with it.
    """
    checkpoint = read_checkpoint(weights, ["state_dict"])
    module.load_state_dict(checkpoint["state_dict"])
    if module.decision.rule != "prior":
        return
    module.eval()
    shares = datamodule.label_shares(str(module.loss.labels), module.num_classes)
    images = (image.to(module.device) for image in datamodule.training_images())
    prior = module.decision.estimate(module.net, images, shares)
    found = " ".join(f"{share:.3f}" for share in prior)
    log.info("classes are taken for %s of all pixels, and were %s of the labels", found, shares.tolist())
    if trainer.is_global_zero:
        checkpoint["state_dict"] = module.state_dict()
        part = weights.with_name(f"{weights.name}.part")
        torch.save(checkpoint, part)
        part.replace(weights)
    trainer.strategy.barrier()
