"""One LightningDataModule for every dataset and split; the configs in ``conf/data`` say which."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cbseg.class_names import class_names
from cbseg.data.annotate import PointAnnotator
from cbseg.data.preprocess import height_and_width, normalise
from cbseg.data.samplers import EpochSampler, MixedSampler
from cbseg.data.scans import Scan
from cbseg.data.slice_sets import (
    EvaluationSet,
    TrainingSet,
    collate_evaluation,
    collate_training,
    leave_signals_to_parent,
)
from cbseg.data.sources import explain_missing
from cbseg.data.splits import Split, labelled_alone
from cbseg.data.store import SliceInfo, SliceStore, prepare
from cbseg.errors import ArgumentError, InputError, check_whole
from cbseg.metrics import COUNTING_SCORES
from cbseg.points import IGNORE

log = logging.getLogger(__name__)

_RESIDENT_SHARE = 0.25  # of a GPU's free memory that training slices may take


class SliceDataModule(pl.LightningDataModule):
    """Prepares a dataset's store, splits it, annotates the training slices and batches.

    Args:
        name: The dataset's name.
        root: Where its files lie.
        find_scans: ``find_scans(root)`` gives its scans.
        split: ``split(slices)`` gives its parts.
        annotate: Makes the training slices' points.
        store: Where prepared datasets are kept.
        labelled: How many of the training slices train, at most; see :func:`cbseg.data.splits.labelled_alone`.
        unlabelled: How many slices of each batch are others of the training slices, without labels: consistency alone
            learns from them.
        image_size: Height and width in training, or one number for both, pixels.
        batch_size: Slices a batch, over all processes that train together.
        num_workers: Processes that read; 0 reads in the main process, which the memory-mapped store makes fast enough.
        epoch: Samples an epoch: ``once``, every training slice once; ``released``, twice the size of the test set,
            with replacement, as the authors' code does; or a number, so that runs on several datasets take as many
            steps: none is drawn again before all others were.
        drop_last: Whether an epoch's last batch is left out if it is not full.
        seed: Decides the order of the training slices.
        generate: ``generate(root)`` makes the files first, if given: the phantom.
        grows: Whether the annotation grows from run to run. A run on other clicks then trains anew, and the former one
            is kept aside; else it is refused.

    Raises:
        InputError: If a setting is impossible; from :meth:`setup`, if the data is.
    """

    def __init__(
        self,
        name: str,
        root: str,
        find_scans: Callable[[Path], Sequence[Scan]],
        split: Callable[[Sequence[SliceInfo]], Split],
        annotate: PointAnnotator,
        store: str,
        labelled: int | None = None,
        unlabelled: int = 0,
        image_size: int | Sequence[int] = 352,
        batch_size: int = 8,
        num_workers: int = 0,
        epoch: str | int = "once",
        drop_last: bool = False,
        seed: int = 0,
        generate: Callable[[Path], None] | None = None,
        grows: bool = False,
    ) -> None:
        super().__init__()
        if epoch not in ("once", "released") and not (type(epoch) is int and epoch >= 1):
            raise ArgumentError(f"epoch={epoch}: give once, released, or a number of samples, 1 or more")
        if labelled is not None:
            check_whole("labelled", labelled, least=1)
        check_whole("batch_size", batch_size, least=1)
        check_whole("unlabelled", unlabelled, least=0)
        if unlabelled >= batch_size:
            raise ArgumentError(f"unlabelled={unlabelled}: of each batch of {batch_size}; give less")
        check_whole("num_workers", num_workers, least=0)
        self.image_size = height_and_width(image_size)
        self.dataset, self.root, self.store_root = name, Path(root).expanduser(), Path(store).expanduser()
        if generate is None and not self.root.is_dir():
            raise InputError(explain_missing({self.root: name}))
        self.find_scans, self.split_slices, self.annotate, self.generate = (
            find_scans,
            split,
            annotate,
            generate,
        )
        self.labelled, self.unlabelled = labelled, unlabelled
        self.batch_size, self.num_workers = batch_size, num_workers
        self.epoch, self.drop_last, self.seed, self.grows = epoch, drop_last, seed, grows
        self.store: SliceStore
        self.split: Split

    def setup(self, stage: str | None = None) -> None:
        """Prepare the store if it is not there, open it, split it and annotate; once, whatever the stage."""
        if hasattr(self, "store"):
            return
        if self.generate is not None:
            self.generate(self.root)
        self.store = SliceStore(prepare(self.find_scans(self.root), self.image_size, self.store_root, self.dataset))
        whole = self.split_slices(self.store.slices)
        self.split = self._annotated(whole)
        if self.labelled is not None:
            self.split = labelled_alone(self.split, self.store.slices, self.labelled)
        others = [i for i in whole.train if i not in self.split.train] if self.unlabelled else []
        if self.unlabelled and not others:
            raise InputError(
                f"data.unlabelled={self.unlabelled}: each of the {len(whole.train)} training slices is labelled; "
                "give 0, or fewer labels (data.labelled)"
            )
        self.training_set = TrainingSet(self.store, self.split.train, self.annotate, others)
        classes = range(1, self.annotate.num_classes)
        missing = sorted(set(classes) - set(np.unique(self.store.masks[self.split.val]).tolist()))
        if missing and self.can_select("val/dice"):
            log.warning(
                "%s: no validation slice holds class %s, so Dice is undefined for an epoch that rightly predicts none, "
                "and selects badly; choose other validation slices, or selection.monitor=last",
                self.dataset,
                ", ".join(map(str, missing)),
            )

    def _annotated(self, split: Split) -> Split:
        """Leave out training slices of which nothing is annotated.

        Raises:
            InputError: If none is left.
        """
        train = [i for i in split.train if self.annotate.covers(self.store, i)]
        source = self.annotate.file or self.root
        if not train:
            example = self.store.slices[split.train[0]].name
            raise InputError(
                f"{source}: none of the {len(split.train)} training slices, such as {example}, is annotated; click in "
                "some of these, or change the split"
            )
        items = [self.store.slices[i] for i in train]
        if self.annotate.clicks is None and any(item.unknown for item in items) and not any(i.regions for i in items):
            raise InputError(
                f"{source}: no training slice shows infection; click on some. In a mask 1 and more are infection, and "
                f"{IGNORE} means that nobody looked"
            )
        if len(train) < len(split.train):
            log.warning(
                "%s: of %d training slices %d are annotated; the others take no part, as not clicked is not healthy",
                source,
                len(split.train),
                len(train),
            )
        return split._replace(train=train)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes but background, as the data config gives them."""
        return class_names(getattr(self.find_scans, "keywords", {}).get("classes"), self.annotate.num_classes)

    def can_select(self, monitor: str) -> bool:
        """Return whether a score of the validation slices tells epochs apart: of masks that show infection.

        Clicks that were held out do not, also beside masks. Regions are counted where a mask is known everywhere.

        Args:
            monitor: ``val/dice``, ``val/mae`` and so on.
        """
        slices = [self.store.slices[i] for i in self.split.val]
        if monitor.removeprefix("val/") in COUNTING_SCORES:
            return any(item.regions and not item.unknown for item in slices)
        return any(item.regions for item in slices) and not any(item.is_sparse for item in slices)

    @property
    def fingerprint(self) -> str:
        """Equal for equal files, read in the same way, and equal points; whichever of the slices train."""
        points = hashlib.sha256(self.annotate.identity.encode()).hexdigest()[:12]
        return f"{self.store.folder.name}-{points}"

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into ``last.ckpt`` (Lightning's hook)."""
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check what comes from ``last.ckpt`` (Lightning's hook).

        Raises:
            InputError: If the data or the points changed since.
        """
        if state_dict["fingerprint"] != self.fingerprint:
            raise InputError(
                f"data.root={self.root}: its slices, or their points, are no longer those with which this run began; "
                "put them back as they were, or remove the run's folder to begin anew"
            )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batch the training slices, shuffled. On a GPU with room for all of them they move there, once."""
        sampler = self._sampler()
        device = self._device()
        if device.type == "cuda" and not self.num_workers and not self.training_set.resident:
            free, _ = torch.cuda.mem_get_info(device)
            if self.training_set.nbytes < _RESIDENT_SHARE * free:
                self.training_set.move_to(device)
        return DataLoader(
            self.training_set,
            self.batch_size // self._share()[1],
            sampler=sampler,
            num_workers=self.num_workers,
            drop_last=self.drop_last,
            collate_fn=collate_training,
            pin_memory=device.type == "cuda" and not self.training_set.resident,
            worker_init_fn=leave_signals_to_parent,
        )

    def _sampler(self) -> EpochSampler | MixedSampler:
        """Make the sampler of an epoch, or of this process's share of it.

        Raises:
            InputError: If processes cannot share a batch evenly, or no batch is full.
        """
        share = self._share()
        processes = share[1]
        labelled, unlabelled = self.batch_size - self.unlabelled, self.unlabelled
        if labelled % processes or unlabelled % processes:
            raise InputError(f"data.batch_size={self.batch_size}: {processes} processes cannot share it evenly")
        slices = len(self.split.train)
        samples = {"once": slices, "released": 2 * len(self.split.test)}.get(str(self.epoch))
        if samples is None:
            samples = round(int(self.epoch) * labelled / self.batch_size)
        if self.drop_last and samples < labelled:
            raise InputError(f"data.batch_size={self.batch_size}: an epoch has {samples} samples, and no full batch")
        replacement = self.epoch == "released"
        sampler = EpochSampler(range(slices), samples, replacement, self.seed, share)
        if not unlabelled:
            return sampler
        others = range(slices, len(self.training_set))
        batches = -(-len(sampler) // (labelled // processes))
        more = EpochSampler(others, batches * unlabelled, replacement, self.seed, share, "unlabelled epoch")
        return MixedSampler(sampler, more, labelled // processes, unlabelled // processes)

    def can_teach(self, labels: str | None) -> bool:
        """Return whether a loss that learns from these labels, ``mask`` or points, finds any in the training slices."""
        if labels == "mask":
            return any(self.store.slices[i].regions for i in self.split.train)
        return bool((self.training_set.points != IGNORE).any())

    def label_counts(self, labels: str, num_classes: int) -> Tensor:
        """Count each class's labels in each training slice: ``points``, or pixels of the ``mask``.

        Shape:
            - output: :math:`(N, C)`, float64.
        """
        by_slice = self.training_set.points if labels == "points" else (self.store.masks[i] for i in self.split.train)
        counts = [np.bincount(x[x != IGNORE], minlength=num_classes)[:num_classes] for x in by_slice]
        return torch.from_numpy(np.stack(counts)).double()

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batch the validation slices."""
        return self._evaluation(self.split.val)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batch the test slices."""
        return self._evaluation(self.split.test)

    def _share(self) -> tuple[int, int]:
        """Return this process's number and how many train together."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _device(self) -> torch.device:
        """Return where training happens."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _evaluation(self, indices: list[int]) -> DataLoader[dict[str, Any]]:
        rank, processes = self._share()
        if len(indices) < processes:
            raise InputError(
                f"trainer.devices={processes}: there are {len(indices)} slices to score; give no more devices"
            )
        return DataLoader(
            EvaluationSet(self.store, indices[rank::processes]),
            self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate_evaluation,
            worker_init_fn=leave_signals_to_parent,
        )

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Move tensors; masks to score at native size, a list, stay on the CPU, where regions are counted."""
        return {
            key: value.to(device, non_blocking=device.type == "cuda") if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Normalise on the device: only one byte a pixel travels."""
        return batch | {"image": normalise(batch["image"])}
