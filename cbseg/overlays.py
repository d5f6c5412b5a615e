"""Slices that a run keeps: image, points, truth and prediction, as arrays and pictures."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from cbseg.data.datamodule import SliceDataModule
from cbseg.data.reading import MOST_PIXELS, reading
from cbseg.drawing import Mask, legend, paint, show
from cbseg.points import IGNORE, resize_points


def spread(data: SliceDataModule, indices: list[int], count: int) -> set[int]:
    """Choose up to ``count`` of some slices, spread over them, among those with infection if there are any."""
    candidates = [i for i in indices if data.store.slices[i].regions] or indices
    chosen = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    return {candidates[k] for k in chosen}


def slice_arrays(data: SliceDataModule, index: int, prediction: Tensor) -> dict[str, Mask]:
    """Read a slice's ``image``, ``points``, ``truth`` and ``prediction`` at the mask's native size, which is scored.

    Where people's clicks leave a slice out, as they do test slices, it has no points.

    Shape:
        - prediction: :math:`(H, W)` integer; each array: :math:`(H, W)` uint8.
    """
    truth = np.array(data.store.native_mask(index))
    height, width = truth.shape
    image = Image.fromarray(data.store.images[index]).resize((width, height), Image.Resampling.BILINEAR)
    points = np.full(data.store.images.shape[1:], IGNORE, np.uint8)
    if data.annotate.covers(data.store, index):
        points = data.annotate(data.store, index)
    return {
        "image": np.asarray(image),
        "points": resize_points(points, (height, width)),
        "truth": truth,
        "prediction": prediction.cpu().numpy().astype(np.uint8),
    }


def chosen_slices(
    data: SliceDataModule, indices: list[int], count: int, predictions: dict[int, Tensor]
) -> Iterator[tuple[str, dict[str, Mask]]]:
    """Yield the name and arrays of those among ``count`` chosen slices (:func:`spread`) that a batch predicted."""
    for index in sorted(spread(data, indices, count) & set(predictions)):
        yield data.store.slices[index].name, slice_arrays(data, index, predictions[index])


_ARRAYS = ("image", "points", "truth", "prediction")


def read_slice(file: Path) -> dict[str, Mask]:
    """Read what :class:`SliceRecorder` kept of a slice: four arrays of one size, (H, W) uint8.

    Raises:
        InputError: If the file is damaged, or claims more than a slice has; nothing is unpacked then.
    """
    with reading(file, "holds no recorded slice", "it is shown nowhere"):
        with zipfile.ZipFile(file) as archive:
            if sum(item.file_size for item in archive.infolist()) > len(_ARRAYS) * (MOST_PIXELS + 2**10):
                raise ValueError("it claims more than a slice has")
        with np.load(file, allow_pickle=False) as found:
            arrays = {name: found[name] for name in _ARRAYS}
        if any(x.ndim != 2 or x.dtype != np.uint8 or x.shape != arrays["image"].shape for x in arrays.values()):
            raise ValueError("its arrays are not of one size, 8 bits a pixel")
        if not arrays["image"].size:
            raise ValueError("it is empty")
        return arrays


class SliceRecorder(pl.Callback):
    """Keep a few infected test slices as arrays (``.npz``, see :func:`slice_arrays`) and pictures (``.png``).

    Args:
        folder: Where they go.
        count: How many, at most.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record the batch's slices that were chosen, as the selected weights predict them."""
        if pl_module.test_stage != "test":
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for name, arrays in chosen_slices(data, data.split.test, self.count, outputs["predictions"]):
            self._record(name, data.class_names, **arrays)

    def _record(
        self, name: str, classes: tuple[str, ...], image: Mask, points: Mask, truth: Mask, prediction: Mask
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(self.folder / f"{name}.npz", image=image, points=points, truth=truth, prediction=prediction)
        figure = Figure(figsize=(10, 3), layout="constrained")
        axes = figure.subplots(1, 4)
        show(axes[0], image, name)
        show(axes[1], image, "points", points)
        show(axes[2], paint(image, truth), "truth")
        show(axes[3], paint(image, truth, prediction), "prediction")
        figure.supxlabel(legend(classes), fontsize=8)
        figure.savefig(self.folder / f"{name}.png", dpi=110)
