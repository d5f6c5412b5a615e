"""What the last run predicts for the scans that are clicked on, computed while people click."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Thread

import numpy as np
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from cbseg.click.scans import ClickScans, encoded
from cbseg.drawing import CLASSES
from cbseg.errors import InputError
from cbseg.prediction.predictor import PredictedSlice, Predictor
from cbseg.run_config import read_config
from cbseg.run_folder import RunFolder

log = logging.getLogger(__name__)

_DATA = "own"
_OPACITY = 90  # of 255


@dataclass
class ScanPrediction:
    """What is known of a scan so far.

    Attributes:
        overlays: A PNG for each slice, transparent where there is no infection; none yet where it is not predicted.
        doubts: How unsure the network is in each slice: the mean over its pixels of 1 − the likeliest class's share.
        error: Why it cannot be predicted.
    """

    overlays: list[bytes | None] = field(default_factory=list)
    doubts: list[float | None] = field(default_factory=list)
    error: str = ""


class Predictions:
    """Predicts slice after slice in the background, of the scan that was last asked for first.

    Args:
        predictor: The network.
        scans: What is predicted.
    """

    def __init__(self, predictor: Predictor, scans: ClickScans) -> None:
        self.predictor, self.scans = predictor, scans
        self.known: dict[int, ScanPrediction] = {}
        self._begun: dict[int, Iterator[PredictedSlice]] = {}
        self._wanted: list[int] = []
        self._changed = Condition()
        Thread(target=self._work, daemon=True).start()

    def of(self, number: int) -> ScanPrediction:
        """Return what is known of a scan, and have it predicted next."""
        with self._changed:
            if number not in self.known:
                self.known[number] = ScanPrediction()
                self._wanted.append(number)
            elif number in self._wanted:
                self._wanted.remove(number)
                self._wanted.append(number)
            self._changed.notify()
            return self.known[number]

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._wanted:
                    self._changed.wait()
                number = self._wanted[-1]
            try:
                going_on = self._step(number, self.known[number])
            except Exception as error:  # whatever it is, it is this scan's, and people go on clicking
                log.warning("%s", error)
                self.known[number].error, going_on = str(error), False
            if not going_on:
                with self._changed:
                    self._wanted.remove(number)

    def _step(self, number: int, known: ScanPrediction) -> bool:
        """Predict the next slice of a scan; return whether there was one."""
        if number not in self._begun:
            opened = self.scans.opened(number)
            count = opened.volume.shape[0]
            known.overlays, known.doubts = [None] * count, [None] * count
            self._begun[number] = self.predictor.slices(count, opened.grey, probabilities=True)
        done = sum(doubt is not None for doubt in known.doubts)
        one = next(self._begun[number], None)
        if one is None or one.probabilities is None:
            return False
        known.overlays[done] = _overlay(one.classes)
        known.doubts[done] = float(255 - one.probabilities.max(0).mean(dtype=float)) / 255
        return True


def last_run(runs: Path, root: Path) -> Path | None:
    """Return the folder of the run on the CT of a folder whose weights are the newest, if there is one."""
    found = [folder for folder in RunFolder.find(runs) if folder.best.is_file() and _is_on(folder, root)]
    return max(found, key=lambda folder: folder.best.stat().st_mtime).path if found else None


def _is_on(folder: RunFolder, root: Path) -> bool:
    try:
        data = read_config(folder.config).data
        return data.name == _DATA and Path(data.root).resolve() == root.resolve()
    except (InputError, OmegaConfBaseException, AttributeError, TypeError):  # whatever somebody left there
        return False


def _overlay(classes: np.ndarray) -> bytes:
    rgba = np.zeros((*classes.shape, 4), np.uint8)
    for k in np.unique(classes[classes > 0]).tolist():
        rgba[classes == k] = (*CLASSES[(k - 1) % len(CLASSES)], _OPACITY)
    return encoded(Image.fromarray(rgba))
