"""The scans that are clicked on, opened when they are looked at."""

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cbseg.click.clicks import ClickFile
from cbseg.data.dicom import DicomSeries
from cbseg.data.markups import SUFFIX
from cbseg.data.nifti import NiftiVolume
from cbseg.data.own import OwnCT, find_annotations, find_cts
from cbseg.data.volumes import grey_window, window_to_uint8
from cbseg.errors import InputError

_OPEN = 2  # scans at a time: the one that is looked at, and the one that is predicted
_TRAINED = "as trained"
_WINDOWS = {"lung": (-1350.0, 150.0), "soft tissue": (-160.0, 240.0), "wide": (-1024.0, 1024.0)}  # HU


class Opened(NamedTuple):
    """A scan that was opened.

    Attributes:
        volume: The CT.
        windows: By the name of each preset, what becomes grey values 0 and 255; the first is the network's.
    """

    volume: NiftiVolume | DicomSeries
    windows: dict[str, tuple[float, float]]

    def grey(self, k: int, preset: str = _TRAINED) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return slice ``k`` from the foot, (H, W) uint8; row 0 is anterior, column 0 the patient's right."""
        return window_to_uint8(self.volume.slice(k), self.windows[preset])


class ClickScan(NamedTuple):
    """A scan that can be clicked on, and its clicks."""

    ct: OwnCT
    clicks: ClickFile


def find(root: Path, classes: Mapping[str, int | str]) -> list[ClickScan]:
    """Find the scans of a folder, and where their clicks are.

    Args:
        root: See :func:`cbseg.data.own.find_cts`.
        classes: What the names of clicks mean.

    Raises:
        InputError: If there is no scan, a file of clicks belongs to none, or the folder cannot be read.
    """
    cts = find_cts(root)
    if not cts:
        raise InputError(f"{root}: holds no CT; put NIfTI files or folders with CT series there")
    beside = find_annotations(root, cts)
    scans = []
    for ct in cts:
        own = ct.place.with_name(f"{ct.place.name}{SUFFIX}")
        others = [path for path in beside[ct] if path.name.endswith(SUFFIX) and path != own]
        scans.append(ClickScan(ct, ClickFile(own, others, classes)))
    return scans


class ClickScans:
    """The scans of a folder, of which the last ones stay open.

    Args:
        scans: All of them.
        window: The HU that become grey values 0 and 255 in training.
    """

    def __init__(self, scans: Sequence[ClickScan], window: tuple[float, float]) -> None:
        self.scans, self.window = tuple(scans), window
        self._opened, self._lock = lru_cache(_OPEN)(self._open), Lock()

    def opened(self, number: int) -> Opened:
        """Open a scan, unless it is open, and look at all of its values.

        Raises:
            InputError: If it cannot be read.
        """
        with self._lock:
            return self._opened(number)

    def _open(self, number: int) -> Opened:
        volume = self.scans[number].ct.open()
        trained = grey_window(volume, "window", self.window)
        return Opened(volume, {_TRAINED: trained} | (_WINDOWS if trained == self.window else {}))

    def png(self, number: int, k: int, preset: str) -> bytes:
        """Return a slice as a PNG.

        Raises:
            InputError: If there is no such slice or preset, or it cannot be read.
        """
        opened = self.opened(number)
        if not 0 <= k < opened.volume.shape[0] or preset not in opened.windows:
            raise InputError(f"{self.scans[number].ct.name}: has no slice {k} in the window {preset}")
        return encoded(Image.fromarray(opened.grey(k, preset)))


def encoded(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG."""
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1)
    return content.getvalue()
