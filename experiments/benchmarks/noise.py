"""Scans of noise, as large as real ones, so that a bench needs no data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cbseg.data.scans import SliceData

NATIVE, SIZE = 512, 352  # pixels of a slice, and in training (§4.1.1)


@dataclass(frozen=True)
class NoiseScan:
    """A scan of smooth noise with one infected region a slice."""

    name: str
    length: int
    subset: str = ""
    identity: str = ""
    files: tuple[Path, ...] = ()

    def read(self) -> Iterator[SliceData]:
        """Yield the slices."""
        rng = np.random.default_rng(int(self.name))
        noise = gaussian_filter(rng.normal(size=(NATIVE, NATIVE)), 3)
        image = ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)
        mask: NDArray[np.uint8] = np.zeros((NATIVE, NATIVE), np.uint8)
        mask[200:240, 150:200] = 1
        for k in range(self.length):
            yield SliceData(f"{self.name}-{k:03d}", np.roll(image, k, 0), np.roll(mask, k, 0))
