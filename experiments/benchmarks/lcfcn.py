"""LCFCN against its formulas taken word for word, as the tests do."""

import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cbseg.losses.lcfcn import lcfcn_loss
from cbseg.points import IGNORE
from experiments.benchmarks.lcfcn_oracle import lcfcn_oracle
from experiments.benchmarks.noise import SIZE


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
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        _gradient(loss, logits, points)
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds) / len(logits)


def lcfcn_words(logits: Tensor, points: Tensor) -> Tensor:
    """Compute the literal LCFCN loss that :mod:`experiments.benchmarks.lcfcn_oracle` spells out."""
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
