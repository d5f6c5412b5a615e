"""SegmentationModule: the network, the loss, the scores and the optimiser; it knows nothing of files."""

from collections.abc import Callable, Iterable
from functools import reduce
from operator import add
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MetricCollection

from cbseg.decision import Decision
from cbseg.finite import FiniteLossWatch
from cbseg.hardware import lay_out_as_parameters
from cbseg.metrics import CountingScores, Counts, SegmentationScores, count_levels, surface_sums
from cbseg.seeds import derived_seed


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample logits to a mask's native size.

    Shape:
        - logits: :math:`(C, H, W)`; output: :math:`(C, *size)`.
    """
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]


def predict_mask(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample logits to a mask's native size, then take each pixel's likeliest class.

    Shape:
        - logits: :math:`(C, H, W)`; output: ``size``, int64.
    """
    return upsample(logits, size).argmax(0)


def predict_probabilities(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample logits to a mask's native size, then give each class's probability there.

    Shape:
        - logits: :math:`(C, H, W)`; output: :math:`(C, *size)`.
    """
    return upsample(logits, size).softmax(0)


class SegmentationModule(pl.LightningModule):
    """Trains a network with a loss, selects by validation Dice, and scores at native size.

    Args:
        net: Images (B, 3, H, W) to logits (B, C, H, W).
        loss: ``loss(net, batch, generator)`` gives its terms, and their total under ``loss``.
        optimizer: ``optimizer(params)`` gives the optimiser.
        decision: How test slices' classes are decided.
        schedule: ``schedule(optimizer)`` gives its learning-rate schedule, if there is one.
        interval: When the schedule steps: ``epoch`` or ``step``.
        monitor: The validation score that a schedule looks at, if it looks at one.
        surface: Whether test slices' boundaries are measured; see :func:`cbseg.metrics.surface_sums`.
        seed: Decides transforms and dropout, together with epoch and batch alone, so that a resumed run draws what
            it would have drawn.

    Attributes:
        test_counts: After testing, each slice's raw counts by its index in the store.
        test_stage: What the next test's scores are logged under: ``test``, or ``last`` for the last epoch's weights.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        decision: Decision,
        seed: int = 0,
        schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
        interval: str = "epoch",
        monitor: str = "val/dice",
        surface: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.loss, self.decision = net, loss, decision
        self.optimizer = optimizer
        self.schedule, self.interval, self.monitor = schedule, interval, monitor
        self.watch = FiniteLossWatch()
        self.num_classes, self.seed = len(decision.learned), seed
        self.scores = MetricCollection([SegmentationScores(self.num_classes), CountingScores()])
        self.surface = surface
        self.test_counts: dict[int, Counts] = {}
        self.test_stage = "test"

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        return self.net(image)

    def configure_optimizers(self) -> Any:
        """Make the optimiser, which can go on from a checkpoint of another machine, and its schedule, if any."""
        optimizer = self.optimizer(self.parameters())
        optimizer.register_load_state_dict_post_hook(lay_out_as_parameters)
        if self.schedule is None:
            return optimizer
        schedule = {"scheduler": self.schedule(optimizer), "interval": self.interval, "monitor": self.monitor}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule that goes by steps; by epochs, Lightning would step it after ``last.ckpt`` is written."""
        if self.interval == "step":
            scheduler.step()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's last learning rate, and step a schedule that goes by epochs."""
        scheduler: Any = self.lr_schedulers()
        if scheduler is None:
            return
        self.log("lr", scheduler.optimizer.param_groups[0]["lr"])
        if self.interval == "epoch":
            looks = isinstance(scheduler, ReduceLROnPlateau)
            scheduler.step(*[self.trainer.callback_metrics[self.monitor]] if looks else [])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Take one step of Alg. 1.

        Raises:
            NonFiniteLossError: If the loss is not finite, on a CPU before it reaches the weights.
        """
        step = f"epoch {self.current_epoch}, batch {batch_idx}, process {self.global_rank}"
        generator = torch.manual_seed(derived_seed(self.seed, step))  # of dropout too
        terms: dict[str, Tensor] = self.loss(self.net, batch, generator)
        self.watch.add(terms, self.current_epoch + 1, batch["name"])
        averages = {f"train/{name}": value.detach() for name, value in terms.items()}
        self.log_dict(averages, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return terms["loss"]

    def on_validation_epoch_start(self) -> None:
        """Look at the last steps' losses before anything is made of the weights."""
        self.watch.look(wait=True)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Score a batch of slices, each at its native size, and give the predicted masks by index, for pictures."""
        predictions = self._predict(self(batch["image"]), batch)
        for prediction, mask in zip(predictions.values(), batch["mask"], strict=True):
            self.scores.update(prediction[None], mask[None])
        return {"predictions": predictions}

    def on_validation_epoch_end(self) -> None:
        """Log the dataset-level scores as ``val/dice`` and so on."""
        self._log_scores("val", self.scores.compute())
        self.scores.reset()

    def on_test_epoch_start(self) -> None:
        """Forget what an earlier test counted."""
        self.test_counts = {}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Count each slice apart, and give the predicted masks by index, for pictures."""
        logits = self.decision(self.net, batch["image"])
        predictions = self._predict(logits, batch)
        for (index, prediction), mask, of_slice in zip(predictions.items(), batch["mask"], logits, strict=True):
            more = {"levels": count_levels(upsample(of_slice, mask.shape), mask)}
            if self.surface:
                more["surface"] = surface_sums(prediction, mask)
            self.test_counts[index] = Counts.of(prediction, mask, self.num_classes, **more)
        return {"predictions": predictions}

    def on_test_epoch_end(self) -> None:
        """Gather what other processes counted, and log the dataset-level scores, as ``test/dice`` and so on."""
        if self.trainer.world_size > 1:
            gathered: list[dict[int, Counts]] = [{}] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, self.test_counts)
            self.test_counts = {index: counts for part in gathered for index, counts in part.items()}
        self._log_scores(self.test_stage, reduce(add, self.test_counts.values()).scores())

    def _predict(self, logits: Tensor, batch: dict[str, Any]) -> dict[int, Tensor]:
        """Give each slice's mask at its native size, on the CPU as the true one, by its index in the store."""
        on_gpu = self.device.type == "cuda"
        masks = [
            predict_mask(of_slice, mask.shape).to(mask.dtype).to("cpu", non_blocking=on_gpu)
            for of_slice, mask in zip(logits, batch["mask"], strict=True)
        ]
        if on_gpu:
            torch.cuda.synchronize(self.device)  # once a batch
        return dict(zip(batch["index"], masks, strict=True))

    def _log_scores(self, stage: str, scores: dict[str, Tensor]) -> None:
        self.log_dict({f"{stage}/{name}": score.float() for name, score in scores.items()})
