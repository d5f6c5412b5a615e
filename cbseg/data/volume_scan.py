"""A scan whose image and mask are volumes: checked against each other and brought to 8-bit slices."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbseg.data.scans import SliceData
from cbseg.data.volumes import Volume, window_to_uint8
from cbseg.errors import InputError

log = logging.getLogger(__name__)


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
    """

    name: str
    files: tuple[Path, ...]
    open_image: Callable[[], Volume]
    open_mask: Callable[[Volume], Volume]
    labels: dict[int, int]
    window: tuple[float, float]
    subset: str = ""

    @property
    def settings(self) -> str:
        """Labels and window."""
        return repr((sorted(self.labels.items()), self.window))

    def read(self) -> Iterator[SliceData]:
        """The slices from foot to head.

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
        grey = is_grey(image)
        if grey:
            log.info("%s: holds grey values 0…255 already, taken as they are", image.name)
        digits = len(str(image.shape[0] - 1))
        for k in range(image.shape[0]):
            values = image.slice(k)
            picture = np.round(values).astype(np.uint8) if grey else window_to_uint8(values, self.window)
            yield SliceData(f"{self.name}-{k:0{digits}d}", picture, self._classes(mask, k))

    def _classes(self, mask: Volume, k: int) -> NDArray[np.uint8]:
        labels = mask.slice(k)
        classes = np.zeros(labels.shape, np.uint8)
        unknown = np.setdiff1d(labels, [0, *self.labels])
        if unknown.size:
            raise InputError(
                f"{mask.name}, slice {k}: holds {unknown[:5].tolist()}; a mask of this dataset holds 0 and "
                f"{', '.join(map(str, self.labels))}. Is it another structure's mask?"
            )
        for label, value in self.labels.items():
            classes[labels == label] = value
        return classes


def is_grey(image: Volume) -> bool:
    """Whether a volume holds grey values 0…255 instead of HU: in HU, air lies far below 0.

    Looks at five slices spread over the volume.
    """
    chosen: list[int] = np.linspace(0, image.shape[0] - 1, min(5, image.shape[0])).round().astype(int).tolist()
    slices = [image.slice(k) for k in chosen]
    return min(float(x.min()) for x in slices) >= 0 and max(float(x.max()) for x in slices) <= 255


def require_pairs(images: Mapping[Any, Path], masks: Mapping[Any, Path]) -> None:
    """Refuse an image without a mask and a mask without an image.

    Raises:
        InputError: Naming the first one.
    """
    for have, lack, what in ((images, masks, "mask"), (masks, images, "image")):
        for key in sorted(set(have) - set(lack)):
            raise InputError(f"{have[key]}: has no {what}; add it or remove the file")
