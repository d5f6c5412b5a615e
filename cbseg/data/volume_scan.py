"""A scan whose image and mask are volumes: checked against each other and brought to 8-bit slices."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2.functional import center_crop

from cbseg.data.labels import read_classes
from cbseg.data.nifti import NiftiVolume, open_nifti_mask
from cbseg.data.scans import SliceData
from cbseg.data.volumes import Volume, grey_window, window_to_uint8
from cbseg.errors import InputError, check_choice
from cbseg.points import IGNORE


@dataclass(frozen=True)
class VolumeScan:
    """One CT volume and its mask.

    Args:
        name: Unique in its dataset.
        files: All files of image and mask.
        open_image: Opens the image.
        open_mask: Opens the mask, given the image; its slices hold labels.
        labels: The labels that may occur in the mask, and the class that each becomes.
        window: The HU that become grey values 0 and 255.
        intensity: See :func:`cbseg.data.volumes.grey_window`.
        crop: Rows and columns of the middle of each slice, of image and mask alike, padded with 0 where it is smaller;
            none keeps it whole.
        upside_down: Whether row 0 is posterior, though the files say anterior: then image and mask are turned.
        subset: The part that its publisher put it in, or empty.
        naming: What names in the mask's files mean, if they have any.
    """

    name: str
    files: tuple[Path, ...]
    open_image: Callable[[], Volume]
    open_mask: Callable[[Any], Volume]
    labels: dict[int, int]
    window: tuple[float, float] = (-1250.0, 250.0)
    intensity: str = "window"
    crop: tuple[int, int] | None = None
    upside_down: bool = False
    subset: str = ""
    naming: str = ""

    @property
    def identity(self) -> str:
        """Labels, intensity, crop, turning, the names of classes, and how the store resizes masks in part."""
        how = (sorted(self.labels.items()), self.intensity, self.window, self.crop, self.upside_down)
        naming = (self.naming,) if self.naming else ()
        in_part = ("to nearest",) if IGNORE in self.labels.values() else ()  # whose stores were of points before
        return repr((*how, *naming, *in_part))

    def read(self) -> Iterator[SliceData]:
        """Read the slices from foot to head, but those of which nothing is known.

        Raises:
            InputError: If a file is bad, image and mask do not fit, or the mask holds an unknown label.
        """
        image = self.open_image()
        mask = self.open_mask(image)
        if mask.shape != image.shape:
            raise InputError(
                f"{mask.name}: has {' × '.join(map(str, mask.shape))} slices × rows × columns, its image {image.name} "
                f"{' × '.join(map(str, image.shape))}. Are they a pair?"
            )
        window = grey_window(image, self.intensity, self.window)
        digits = len(str(image.shape[0] - 1))
        for k, classes in enumerate(read_classes(mask, self.labels)):
            if (classes == IGNORE).all():
                continue
            picture = window_to_uint8(image.slice(k), window, truncate=self.intensity != "window")
            yield SliceData(f"{self.name}-{k:0{digits}d}", *map(self._placed, (picture, classes)))

    def _placed(self, x: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a slice if it lies upside down, and crop it."""
        x = x[::-1] if self.upside_down else x
        if self.crop is None:
            return np.ascontiguousarray(x)
        return center_crop(torch.tensor(x.copy())[None], list(self.crop))[0].contiguous().numpy()


def nifti_scan(name: str, image: Path, mask: Path, labels: dict[int, int]) -> VolumeScan:
    """Make a scan of which image and mask are a NIfTI file each."""
    return VolumeScan(name, (image, mask), partial(NiftiVolume, image), partial(open_nifti_mask, mask), labels)


def with_reading(
    scans: Sequence[VolumeScan], window: Sequence[float], intensity: str, released: str, crop: Sequence[int] | None
) -> list[VolumeScan]:
    """Return the same scans, read as a data config says.

    Args:
        scans: Of one dataset.
        window: The HU that become grey values 0 and 255.
        intensity: The config's, ``window`` or ``released``.
        released: What ``released`` is for this dataset, ``raw`` or ``minmax``.
        crop: Rows and columns of the middle of each slice, or none.

    Raises:
        InputError: If the intensity does not exist, the window is not a lower and a higher value, or the crop not two
            sizes.
    """
    check_choice("intensity", intensity, ["window", "released"])
    low, high = require_window(window)
    if crop is not None and (not _is_pair(crop, (int,)) or min(crop) < 1):
        raise InputError(f"data.find_scans.crop={crop}: give [rows,columns], 1 or more, or null for whole slices")
    kept = None if crop is None else (crop[0], crop[1])
    how = released if intensity == "released" else intensity
    return [replace(scan, window=(low, high), intensity=how, crop=kept) for scan in scans]


def require_window(window: object) -> tuple[float, float]:
    """Return the lower and the upper end of a window, HU.

    Raises:
        InputError: If it is not two numbers in order.
    """
    if not isinstance(window, Sequence) or not _is_pair(window, (int, float)) or not window[0] < window[1]:
        raise InputError(f"data.find_scans.window={window}: give [low,high] in HU, such as [-1250,250]")
    return window[0], window[1]


def _is_pair(setting: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(setting, Sequence) and len(setting) == 2 and all(isinstance(x, kinds) for x in setting)


def require_pairs(images: Mapping[Any, Path], masks: Mapping[Any, Path]) -> None:
    """Refuse an image without a mask and a mask without an image.

    Raises:
        InputError: Naming the first one.
    """
    for have, lack, what in ((images, masks, "mask"), (masks, images, "image")):
        for key in sorted(set(have) - set(lack)):
            raise InputError(f"{have[key]}: has no {what}; add it or remove the file")
