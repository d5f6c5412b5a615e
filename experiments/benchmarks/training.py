"""Training and evaluation as a run does them, and plainly, as the authors' code does."""

import logging
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from skimage.measure import label, regionprops
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cbseg.config import build, compose
from cbseg.data.annotate import PointAnnotator
from cbseg.data.datamodule import SliceDataModule
from cbseg.data.preprocess import normalise
from cbseg.data.splits import by_scan
from cbseg.hardware import keep_freed_memory
from cbseg.losses.base import SupervisedLoss, Terms, with_total
from cbseg.losses.consistency import Consistency, consistency_loss, second_view
from cbseg.metrics import count_pixels
from cbseg.module import predict_mask
from cbseg.parts import build_module
from cbseg.trainer import build_trainer
from cbseg.transforms import apply_each
from experiments.benchmarks.noise import SIZE, NoiseScan

BATCH = 8  # §4.2
GPU = torch.cuda.is_available()
WARM_UP, STEPS = (10, 60) if GPU else (1, 3)
PLAIN_STEPS = STEPS if GPU else 1  # of more than a minute each


class Clock(pl.Callback):
    """Times steps ``WARM_UP`` to ``WARM_UP + STEPS`` of a fit, and calls ``on_timed`` around them."""

    def __init__(self, on_begin: Callable[[], Any] = lambda: None, on_end: Callable[[], Any] = lambda: None) -> None:
        self.on_begin, self.on_end = on_begin, on_end
        self.seconds = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, k: int) -> None:
        """Begin, when the warm-up is over."""
        if k == WARM_UP:
            _synchronise()
            self.on_begin()
            self.seconds = -time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, k: int
    ) -> None:
        """End, when the last step is done."""
        if k == WARM_UP + STEPS - 1:
            _synchronise()
            self.seconds += time.perf_counter()
            self.on_end()


def ours(loss: str, folder: Path, overrides: tuple[str, ...] = (), clock: Clock | None = None) -> dict[str, float]:
    """Train and test as ``python -m cbseg.run`` does, from a prepared store, without the run's folder.

    Args:
        loss: Its config's name.
        folder: For the store.
        overrides: Of the config: model, loss, optim, trainer and compile.
        clock: Times the steps.

    Returns:
        Images a second in training, slices a second in testing, and peak memory in MiB.
    """
    clock = clock or Clock()
    keep_freed_memory()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    config = _config(loss, *overrides)
    module, data = build_module(config), _slices(folder)
    trainer = build_trainer(
        config,
        max_steps=WARM_UP + STEPS,
        limit_val_batches=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, datamodule=data)
    peak = torch.cuda.max_memory_allocated() / 2**20 if GPU else _peak_memory()
    started = time.perf_counter()
    trainer.test(module, datamodule=data, verbose=False)
    return {
        "images": BATCH * STEPS / clock.seconds,
        "tested": len(data.split.test) / (time.perf_counter() - started),
        "memory": peak,
    }


def plain(
    loss: str, on_begin: Callable[[], Any] = lambda: None, on_end: Callable[[], Any] = lambda: None
) -> dict[str, float]:
    """Take the same step as the authors' code does, on one batch.

    Padding by 100, single precision, contiguous memory, a pass for each view, and Adam a tensor at a time.
    Testing goes slice by slice, and scikit-image counts the regions.
    """
    device = torch.device("cuda" if GPU else "cpu")
    config = _config(loss, "model.padding=caffe")
    net = build(config.model, "model").to(device)
    criterion = build(config.loss, "loss")
    adam = torch.optim.Adam(net.parameters(), config.optim.lr, foreach=False, fused=False)
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(256, (BATCH, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    points = torch.full(grey.shape, 255, dtype=torch.uint8)
    points[:, 8 : SIZE // 2 : 16, SIZE // 4], points[:, 8 : SIZE // 2 : 16, SIZE // 2] = 1, 0
    batch = {"image": normalise(grey), "mask": (points == 1).to(torch.uint8), "points": points}
    batch = {key: value.to(device) for key, value in batch.items()}

    def step(some: dict[str, Tensor]) -> None:
        adam.zero_grad()
        two_passes(net, criterion, some, generator)["loss"].backward()
        adam.step()
        _synchronise()

    for _ in range(WARM_UP):
        step(batch)
    on_begin()
    started = time.perf_counter()
    for _ in range(PLAIN_STEPS):
        step(batch)
    seconds = time.perf_counter() - started
    on_end()
    peak = torch.cuda.max_memory_allocated() / 2**20 if GPU else _peak_memory()
    net.eval()
    mask = next(NoiseScan("0", 1).read()).mask
    tested = BATCH * 8 if GPU else 2
    started = time.perf_counter()
    for k in range(tested):
        with torch.no_grad():
            prediction = predict_mask(net(batch["image"][k % BATCH][None])[0], mask.shape).cpu()
        count_pixels(prediction[None], torch.from_numpy(mask)[None])
        for x in (prediction.numpy(), mask):
            [region.centroid for region in regionprops(label(x, connectivity=2))]
    return {"images": BATCH * PLAIN_STEPS / seconds, "tested": tested / (time.perf_counter() - started), "memory": peak}


def two_passes(net: nn.Module, loss: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Terms:
    """Compute what :class:`Consistency` does, each view by itself; other losses as they are."""
    if not isinstance(loss, Consistency):
        terms: Terms = loss(net, batch, generator)
        return terms
    supervised: SupervisedLoss = loss.supervised
    transforms = loss.transforms.sample(len(batch["image"]), batch["points"].shape[1:], generator)
    view = second_view(transforms, batch)
    logits, view_logits = net(batch["image"]), net(view["image"])
    terms, view_terms = supervised.terms(logits, batch), supervised.terms(view_logits, view)
    inconsistency = consistency_loss(apply_each(transforms, logits), view_logits, loss.compare)
    summed = {name: terms[name] + view_terms[name] for name in terms}
    return with_total(summed | {"consistency": loss.weight * inconsistency})


def flops_per_image(loss: str) -> float:
    """Floating point operations of the network's forward and backward pass, both views where a loss has two."""
    config = _config(loss)
    with torch.device("meta"):
        net = build(config.model, "model")
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 3, SIZE, SIZE)).sum().backward()
    return counter.get_total_flops() * (2 if isinstance(build(config.loss, "loss"), Consistency) else 1)


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large square matrix product, the best of several: what the chip can do."""
    size = 8192 if GPU else 2048
    a, b = (torch.randn(size, size, device="cuda" if GPU else "cpu").to(dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        _synchronise()
        started = time.perf_counter()
        a @ b
        _synchronise()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def _config(loss: str, *overrides: str) -> DictConfig:
    return compose([f"loss={loss}", "model.weights=none", f"data.image_size={SIZE}", *overrides])


def _slices(folder: Path) -> SliceDataModule:
    training, testing = BATCH * (WARM_UP + STEPS), BATCH * (16 if GPU else 1)
    lengths = {"1": training, "2": 1, "3": testing}
    return SliceDataModule(
        "bench",
        str(folder),
        find_scans=lambda root: [NoiseScan(name, length) for name, length in lengths.items()],
        split=lambda slices: by_scan(slices, train=1, val=1, test=1),
        annotate=PointAnnotator("distance_transform", 1, True, "background", num_classes=2),
        store=str(folder),
        image_size=SIZE,
        batch_size=BATCH,
    )


def _peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _synchronise() -> None:
    if GPU:
        torch.cuda.synchronize()
