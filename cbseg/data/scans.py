"""What every dataset is made of: scans, each an ordered stack of axial slices."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cbseg.errors import InputError

PICTURES = (".jpg", ".jpeg", ".png")
GREY_MODES = ("L", "LA", "RGB", "RGBA", "P", "1")


class SliceData(NamedTuple):
    """One axial slice: a name, unique in its dataset; ``image`` (H, W) uint8; ``mask`` (H, W) uint8, classes."""

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


class Scan(Protocol):
    """One scan of one patient, known but not yet read. To add a dataset, write a ``find_scans`` that returns these."""

    @property
    def name(self) -> str:
        """Unique in its dataset."""

    @property
    def subset(self) -> str:
        """The part that its publisher put it in, ``train`` or ``test``; empty where there is none."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that it is read from; a change in one of them makes the store stale."""

    @property
    def settings(self) -> str:
        """What beside the files decides what :meth:`read` gives; a change makes the store stale."""

    def read(self) -> Iterator[SliceData]:
        """The slices in order.

        Raises:
            InputError: If a file cannot be read or holds what it should not.
        """


def read_grey(path: Path) -> NDArray[np.uint8]:
    """An 8-bit picture as grey values.

    Shape:
        - output: :math:`(H, W)` uint8.

    Raises:
        InputError: If the file is no picture, is truncated, or has more than 8 bits.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in GREY_MODES:
                raise InputError(f"{path}: a picture of mode {picture.mode}; convert it to 8-bit grey")
            return np.asarray(picture.convert("L"))
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a picture; replace the file or remove it together with its partner") from error
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read to its end ({error}); download or copy it again") from error


def read_binary_mask(path: Path) -> NDArray[np.uint8]:
    """A picture of two values as a mask: 0 is background, the other is infection.

    Shape:
        - output: :math:`(H, W)` uint8 of 0 and 1.

    Raises:
        InputError: As :func:`read_grey`; also if there are values beside 0 and one other.
    """
    grey = read_grey(path)
    values = np.unique(grey)
    if len(values[values > 0]) > 1:
        raise InputError(
            f"{path}: holds {len(values)} different values; a mask holds 0 (background) and one other (infection). "
            "Is it an image, or a mask saved with lossy compression? Replace it by a mask in PNG"
        )
    return (grey > 0).astype(np.uint8)
