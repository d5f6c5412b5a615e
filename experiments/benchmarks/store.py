"""The prepared slices: building a store of COVID-19-C's size, and reading it."""

import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cbseg.data.annotate import PointAnnotator
from cbseg.data.slice_sets import TrainingSet
from cbseg.data.store import SliceStore, prepare
from experiments.benchmarks.noise import SIZE, NoiseScan

SCANS, SLICES, BATCH = 20, 176, 8  # COVID-19-C: 20 scans, 3,520 slices


def bench_store(folder: Path) -> dict[str, float]:
    """Build a store, then read its training slices in random order, in batches.

    The baseline reads and resizes a PNG picture and its mask a slice, as the authors' code does.
    """
    started = time.perf_counter()
    scans = [NoiseScan(str(k), SLICES) for k in range(SCANS)]
    store = SliceStore(prepare(scans, (SIZE, SIZE), folder, "bench"))
    built = time.perf_counter() - started
    annotate = PointAnnotator("distance_transform", 1, True, "background", num_classes=2)
    training = TrainingSet(store, range(0, len(store.slices), 2), annotate)
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0)).tolist()
    before = _own_memory()
    started = time.perf_counter()
    for k in range(0, len(order), BATCH):
        training.__getitems__(order[k : k + BATCH])
    ours = len(order) / (time.perf_counter() - started)
    grown = _own_memory() - before

    item = next(scans[0].read())
    Image.fromarray(item.image).save(folder / "image.png")
    Image.fromarray(item.mask).save(folder / "mask.png")
    started = time.perf_counter()
    for _ in range(100):
        _read_png(folder)
    plain = 100 / (time.perf_counter() - started)
    return {
        "slices in the store": len(store.slices),
        "seconds to build it": built,
        "training slices a second": ours,
        "plain PNG slices a second": plain,
        "ratio": ours / plain,
        "own memory grown by reading, MiB": grown,
        "peak resident memory, mapped files included, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _read_png(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    with Image.open(folder / "image.png") as image, Image.open(folder / "mask.png") as mask:
        return np.asarray(image.resize((SIZE, SIZE))), np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.NEAREST))


def _own_memory() -> float:
    """Return this process's own memory, MiB, without the pages of mapped files, which the system takes back at will."""
    status = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    lines = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
    return int(lines[0]) / 1024 if lines else float("nan")
