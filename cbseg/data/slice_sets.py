"""The slices that train and those that are scored, as datasets of PyTorch, and how their batches come about."""

import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cbseg.data.annotate import PointAnnotator, prepare_points
from cbseg.data.store import SliceStore
from cbseg.points import IGNORE


class TrainingSet(Dataset[dict[str, Any]]):
    """Slices at training size, read a batch at a time: ``image``, ``mask``, ``points`` (B, H, W) uint8, ``name``.

    Args:
        store: Holds the slices.
        indices: Which are labelled.
        annotate: Makes their points.
        unlabelled: Which others come after these; their masks and points are ``IGNORE`` everywhere.
    """

    def __init__(
        self, store: SliceStore, indices: Sequence[int], annotate: PointAnnotator, unlabelled: Sequence[int] = ()
    ) -> None:
        self.store, self.indices = store, np.array([*indices, *unlabelled])
        self.points, self.annotate = prepare_points(store, indices, annotate), annotate
        self.resident: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, places: Sequence[int]) -> dict[str, Any]:
        """Return the batch of these slices, by their places in ``indices`` and then ``unlabelled``."""
        rows = self.indices[places]
        names = {"name": [self.store.slices[i].name for i in rows]}
        if self.resident:
            device = self.resident["image"].device
            chosen = torch.tensor(places, pin_memory=device.type == "cuda").to(device, non_blocking=True)
            return names | {key: x[chosen] for key, x in self.resident.items()}
        known = np.flatnonzero(np.asarray(places) < len(self.points))
        arrays = {"image": self.store.images[rows]}
        for key, labels, at in (("mask", self.store.masks, rows), ("points", self.points, np.asarray(places))):
            arrays[key] = np.full(arrays["image"].shape, IGNORE, np.uint8)
            arrays[key][known] = labels[at[known]]
        return names | {key: torch.from_numpy(x) for key, x in arrays.items()}

    def count_labels(self, kind: str | None) -> dict[str, int]:
        """Return how many labels a loss learns from: ``regions`` to outline for masks, else ``clicks``.

        Empty where people labelled otherwise: masks at a few pixels, or points as strokes or areas.

        Args:
            kind: ``mask``, or anything else for points. A slice that points label as a whole took one click.
        """
        labelled = self.indices[: len(self.points)]
        if kind == "mask":
            slices = [self.store.slices[i] for i in labelled]
            return {} if any(item.is_sparse for item in slices) else {"regions": sum(item.regions for item in slices)}
        if not all(self.annotate.is_clicked(self.store, i) for i in labelled):
            return {}
        counts = [int(np.count_nonzero(points != IGNORE)) for points in self.points]
        return {"clicks": sum(1 if count == self.points[0].size else count for count in counts)}

    @property
    def nbytes(self) -> int:
        """What all slices take."""
        return 3 * len(self) * self.points[0].nbytes

    def move_to(self, device: torch.device) -> None:
        """Keep all slices on a device from now on; batches then come from there."""
        whole = self.__getitems__(range(len(self)))
        self.resident = {key: x.to(device) for key, x in whole.items() if isinstance(x, Tensor)}


class EvaluationSet(Dataset[dict[str, Any]]):
    """Slices to score: ``image`` uint8 at training size, ``mask`` uint8 at native size, and ``index`` in the store."""

    def __init__(self, store: SliceStore, indices: Sequence[int]) -> None:
        self.store, self.indices = store, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, k: int) -> dict[str, Any]:
        i = self.indices[k]
        image, mask = self.store.images[i].copy(), self.store.native_mask(i).copy()
        return {"image": torch.from_numpy(image), "mask": torch.from_numpy(mask), "index": i}


def collate_training(batch: Any) -> Any:
    """Leave the batch as it is: :class:`TrainingSet` gives whole ones."""
    return batch


def collate_evaluation(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of :class:`EvaluationSet`: ``image`` is stacked, ``mask`` stays a list, its sizes differ."""
    return {
        "image": torch.stack([item["image"] for item in items]),
        "mask": [item["mask"] for item in items],
        "index": [item["index"] for item in items],
    }


def leave_signals_to_parent(worker: int) -> None:
    """Ignore SIGTERM: a worker that dies of it looks like a failure; its parent stops in good order and ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
