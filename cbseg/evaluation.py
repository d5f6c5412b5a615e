"""The test: a run's weights, read once over its test set."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from cbseg.checkpoint import read_checkpoint
from cbseg.data.datamodule import SliceDataModule
from cbseg.metrics import Counts, score_scans
from cbseg.module import SegmentationModule
from cbseg.run_folder import RunFolder
from cbseg.threshold_curves import write_curve


def test(
    trainer: pl.Trainer, module: SegmentationModule, datamodule: SliceDataModule, weights: Path, stage: str
) -> dict[str, Any]:
    """Read the test set once with these weights: scores, why some are undefined, raw counts overall and by scan.

    Counts at other thresholds of the probability are written beside the weights.

    Raises:
        RuntimeError: If not each of its slices was counted, whatever the reason: the scores would be of others.
    """
    module.test_stage = stage
    module.load_state_dict(read_checkpoint(weights, ["state_dict"])["state_dict"])
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
