"""What things cost, as measured here and now: ``make bench`` prints a table and writes ``runs/bench.json``.

Speeds are compared with a plain baseline in the same run; alone they say more about the machine than about the code.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cbseg.data.annotate import PointAnnotator
from cbseg.data.datamodule import TrainingSet
from cbseg.data.scans import SliceData
from cbseg.data.store import SliceStore, prepare
from cbseg.losses.lcfcn import lcfcn_loss
from cbseg.points import IGNORE
from cbseg.tracking import environment, write_json
from tests.lcfcn_oracle import lcfcn_oracle

SCANS, SLICES, NATIVE, SIZE = 20, 176, 512, 352  # COVID-19-C: 20 scans, 3,520 slices


@dataclass(frozen=True)
class NoiseScan:
    """A scan of smooth noise with one infected region a slice; as large as a real one."""

    name: str
    subset: str = ""
    settings: str = ""
    files: tuple[Path, ...] = ()

    def read(self) -> Iterator[SliceData]:
        """The slices."""
        rng = np.random.default_rng(int(self.name))
        noise = gaussian_filter(rng.normal(size=(NATIVE, NATIVE)), 3)
        image = ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)
        mask: NDArray[np.uint8] = np.zeros((NATIVE, NATIVE), np.uint8)
        mask[200:240, 150:200] = 1
        for k in range(SLICES):
            yield SliceData(f"{self.name}-{k:03d}", np.roll(image, k, 0), np.roll(mask, k, 0))


def bench_store(folder: Path) -> dict[str, float]:
    """Build a store of COVID-19-C's size, then read its training slices in random order.

    The baseline reads and resizes a PNG picture and its mask a slice, as the authors' code does.
    """
    started = time.perf_counter()
    store = SliceStore(prepare([NoiseScan(str(k)) for k in range(SCANS)], (SIZE, SIZE), folder, "bench"))
    built = time.perf_counter() - started
    annotate = PointAnnotator("distance_transform", 1, True, "background", num_classes=2)
    training = TrainingSet(store, range(0, len(store.slices), 2), annotate)
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0)).tolist()
    before = _resident()
    ours = _seconds(lambda k: training[k], order) / len(order)
    grown = _resident() - before

    item = next(NoiseScan("0").read())
    Image.fromarray(item.image).save(folder / "image.png")
    Image.fromarray(item.mask).save(folder / "mask.png")

    def plain(_: int) -> tuple[NDArray[Any], NDArray[Any]]:
        with Image.open(folder / "image.png") as image, Image.open(folder / "mask.png") as mask:
            return np.asarray(image.resize((SIZE, SIZE))), np.asarray(mask.resize((SIZE, SIZE), 0))

    baseline = _seconds(plain, list(range(100))) / 100
    return {
        "slices in the store": len(store.slices),
        "seconds to build it": built,
        "training slices a second": 1 / ours,
        "plain PNG slices a second": 1 / baseline,
        "ratio": baseline / ours,
        "anonymous memory grown by reading, MiB": grown,
        "own memory after it, libraries included, MiB": _resident(),
        "peak resident memory, mapped files included, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def bench_lcfcn(repeats: int = 10) -> dict[str, float]:
    """LCFCN forward and backward on a batch of 8, against its formulas taken word for word, in milliseconds an image.

    The best of several repeats, as others may use the machine. The predictions are those of a half-trained network:
    blobs around the regions, some merged, and false ones.
    """
    results: dict[str, float] = {}
    for regions in (1, 8, 32):
        logits, points = half_trained(8, regions, np.random.default_rng(regions))
        ours, words = (_gradient(loss, logits, points) for loss in (lcfcn_loss, lcfcn_words))
        assert torch.allclose(ours, words, rtol=1e-5, atol=1e-5), "LCFCN differs from its formulas"
        ours_ms, words_ms = (_best_ms(loss, logits, points, repeats) for loss in (lcfcn_loss, lcfcn_words))
        title = f"{regions} region{'s' if regions > 1 else ''}"
        results |= {f"{title}, ms": ours_ms, f"{title}, word for word, ms": words_ms}
        results[f"{title}, ratio"] = words_ms / ours_ms
    return results


def _gradient(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, points: Tensor) -> Tensor:
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(loss(leaf, points), leaf)[0]


def _best_ms(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, points: Tensor, repeats: int) -> float:
    return 1000 / len(logits) * min(_seconds(lambda _: _gradient(loss, logits, points), [k]) for k in range(repeats))


def lcfcn_words(logits: Tensor, points: Tensor) -> Tensor:
    """The literal LCFCN loss that the tests use."""
    return torch.stack(list(lcfcn_oracle(logits, points).values())).sum()


def half_trained(images: int, regions: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Logits (B, 2, 352, 352) with a blob about each of the regions' points and smooth noise, and the points."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    logits, points = torch.zeros(images, 2, SIZE, SIZE), torch.full((images, SIZE, SIZE), IGNORE, dtype=torch.uint8)
    for k in range(images):
        noise = gaussian_filter(rng.normal(size=(SIZE, SIZE)), 5)
        log_odds = 1.5 * noise / noise.std() - 4
        for row, column in rng.integers(20, SIZE - 20, (regions, 2)):
            distance = np.hypot(rows - row, columns - column)
            log_odds += 8 * np.exp(-((distance / rng.uniform(8, 16)) ** 2))
            points[k, row, column] = 1
        logits[k, 1] = torch.from_numpy(log_odds)
    return logits, points


def _seconds(read: Any, order: list[int]) -> float:
    started = time.perf_counter()
    for k in order:
        read(k)
    return time.perf_counter() - started


def _resident() -> float:
    """This process's own memory, MiB, without the pages of mapped files, which the system takes back at will."""
    status = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    lines = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
    return int(lines[0]) / 1024 if lines else float("nan")


def _processor() -> str:
    try:
        listed = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
        return next(line.split(":")[1].strip() for line in listed.splitlines() if line.startswith("Model name"))
    except (OSError, subprocess.SubprocessError, StopIteration):
        return platform.processor() or "unknown"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure what things cost.")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        results = {"store": bench_store(Path(folder)), "lcfcn": bench_lcfcn()}
    machine = {"processor": _processor(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, {"machine": machine, **environment(), "results": results})
    print(f"{machine['processor']}, {machine['cpus']} CPUs, torch {torch.__version__}")
    for name, rows in results.items():
        for what, value in rows.items():
            print(f"{name:8} {what:50} {value:10.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
