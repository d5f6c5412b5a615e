"""A run's network, ready to segment slices that it has never seen."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbseg.checkpoint import damage_refused
from cbseg.class_names import class_names
from cbseg.data.preprocess import height_and_width, normalise, resized
from cbseg.data.reading import reading_values
from cbseg.data.volume_scan import require_window
from cbseg.data.volumes import Volume, grey_window, window_to_uint8
from cbseg.errors import InputError, check_choice, check_whole
from cbseg.hardware import autocast_to, fast_memory_format, find_device
from cbseg.json_file import read_json
from cbseg.module import predict_mask, predict_probabilities
from cbseg.points import IGNORE
from cbseg.run_config import read_config
from cbseg.run_folder import RunFolder
from cbseg.saved_parts import load_parts
from cbseg.trainer import run_precision

log = logging.getLogger(__name__)

WEIGHTS = ("best", "last")

_BATCH = {"cpu": 4, "cuda": 32}  # a CPU's cores are busy with few slices, and more only take memory

Grey = NDArray[np.uint8]


class PredictedSlice(NamedTuple):
    """What a network makes of a slice.

    Attributes:
        image: Its grey values, (H, W) uint8.
        classes: (H, W) uint8; 0 is background.
        probabilities: Of each class, (C, H, W) uint8, where 255 is certain; none where nobody asked.
    """

    image: Grey
    classes: Grey
    probabilities: Grey | None


class Predictor:
    """A run's network, in the precision and with the decision that the run was tested in.

    Args:
        run: The run's folder.
        weights: ``best``, which were selected and tested, or ``last``, those of the last epoch.
        device: ``auto`` takes a GPU if there is one; or ``cpu``, ``cuda``, ``cuda:1``.
        trusted: What its config may name beside the project's own networks; see :func:`cbseg.saved_parts.load_parts`.

    Attributes:
        classes: The names of the classes but background, class 1 first.
        weights: As given.
        device: Where the network is.

    Raises:
        InputError: If the run holds no readable config or no such weights, its network is not trusted, or it was
            trained on slices that were read in its dataset's own way; or if there is no such device.
    """

    def __init__(self, run: Path, weights: str = "best", device: str = "auto", trusted: Sequence[str] = ()) -> None:
        check_choice("weights", weights, list(WEIGHTS))
        folder = RunFolder(run)
        if not folder.best.is_file() or not folder.config.is_file():
            raise InputError(
                f"{run}: holds no {folder.best.name} or no {folder.config.name}; give a run's folder, "
                "runs/<data>/<loss>/seed<k>"
            )
        if not folder.has_result:
            log.warning("%s: is not finished; its %s weights so far are taken", run, weights)
        self.run, self.weights, self.device = run, weights, find_device(device)
        config = read_config(folder.config)
        with reading_values(folder.config):
            self._read(config)
        parts = load_parts(config, folder.config, folder.best if weights == "best" else _last_weights(folder), trusted)
        self.net, self.decision = parts["model"], parts["decision"]
        self.net.to(memory_format=fast_memory_format(config.trainer.accelerator))
        self.decision.to(self.device)
        self.net.to(self.device)

    def _read(self, config: Any) -> None:
        """Take over what a run's config says of its slices.

        Raises:
            InputError: If a value is none that a run has, or the slices were read in their dataset's own way.
        """
        found = config.data.find_scans
        for key, usual in (("intensity", "window"), ("crop", None)):
            if found.get(key, usual) != usual:
                raise InputError(
                    f"data.find_scans.{key}={found[key]}: was trained on slices that were read in a way which fits its "
                    "dataset alone; give a run of protocol=paper"
                )
        self.window = require_window(found.window) if "window" in found else None
        self.size = height_and_width(config.data.image_size)
        self.num_classes: int = config.model.num_classes
        check_whole("model.num_classes", self.num_classes, least=2)
        if self.num_classes > IGNORE:
            raise InputError(f"model.num_classes={self.num_classes}: {IGNORE} are the most that labels hold")
        self.classes = class_names(found.get("classes"), self.num_classes)
        config.trainer.accelerator = "cpu" if self.device.type == "cpu" else "gpu"
        self._autocast = autocast_to(run_precision(config), self.device)

    def slices(self, count: int, grey: Callable[[int], Grey], probabilities: bool = False) -> Iterator[PredictedSlice]:
        """Segment some slices of one size, a batch at a time; the next is read while the network is busy.

        Args:
            count: How many.
            grey: Gives slice ``k``, (H, W) uint8.
            probabilities: Whether to give them too.

        Yields:
            Each slice, in order.
        """
        size = _BATCH.get(self.device.type, 1)
        batches = [range(start, min(start + size, count)) for start in range(0, count, size)]

        def read(batch: range) -> tuple[list[Grey], Tensor]:
            images = [grey(k) for k in batch]
            return images, torch.from_numpy(np.stack([resized(image, self.size) for image in images]))

        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(read, batches[0])
            for after in [*batches[1:], None]:
                images, batch = ahead.result()
                if after is not None:
                    ahead = reader.submit(read, after)
                yield from map(PredictedSlice, images, *self._predict(batch, images[0].shape, probabilities))

    @torch.inference_mode()
    def _predict(
        self, batch: Tensor, size: tuple[int, int], probabilities: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | list[None]]:
        """Predict a batch (B, h, w) at its native size: classes (B, H, W), and what is likely (B, C, H, W)."""
        with self._autocast():
            logits = self.decision(self.net, normalise(batch.to(self.device)))
        classes = torch.stack([predict_mask(one, size).to(torch.uint8) for one in logits]).cpu().numpy()
        if not probabilities:
            return classes, [None] * len(classes)
        likely = [(255 * predict_probabilities(one, size)).round().to(torch.uint8) for one in logits]
        return classes, torch.stack(likely).cpu().numpy()

    def grey(self, volume: Volume) -> Callable[[int], Grey]:
        """Return what gives a volume's slices from the foot as the network was trained on them.

        Raises:
            InputError: If a slice cannot be read, or the run was trained on pictures.
        """
        if self.window is None:
            raise InputError(
                f"{volume.name}: is a volume, but {self.run} has no data.find_scans.window, so it was trained on "
                "pictures (COVID-19-A's are cropped to the lungs and turned); give pictures like those, or a run of "
                "data=covidB_… or covidC_…"
            )
        window = grey_window(volume, "window", self.window)
        return lambda k: window_to_uint8(volume.slice(k), window)


def _last_weights(folder: RunFolder) -> Path:
    """Return the file with the weights of a run's last epoch.

    Raises:
        InputError: If it kept none.
    """
    for file in (folder.last, folder.last_weights):
        if file.is_file():
            return file
    with damage_refused(folder.metrics, "Run it again with rerun=true"):
        result = read_json(folder.metrics, "take --weights best")
        if result["best_epoch"] == result["epochs"]:
            return folder.best
    raise InputError(f"{folder}: kept no weights of its last epoch; take --weights best, or run it with rerun=true")
