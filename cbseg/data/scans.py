"""What every dataset is made of: scans, each an ordered stack of axial slices."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cbseg.data.reading import MOST_PIXELS, reading
from cbseg.errors import InputError

log = logging.getLogger(__name__)

PICTURES = (".jpg", ".jpeg", ".png")
GREY_MODES = ("L", "LA", "RGB", "RGBA", "P", "1")
_FORMATS = ("PNG", "JPEG")  # of which Pillow runs no other program
_TURNED = 0x0112  # EXIF's tag for how a viewer turns a picture
_COLOUR = 48  # difference of channels, beyond what JPEG makes of grey


class SliceData(NamedTuple):
    """One axial slice: a name, unique in its dataset; ``image`` (H, W) uint8; ``mask`` (H, W) uint8.

    The mask holds classes, and ``IGNORE`` (255) where nobody looked: clicks, scribbles and whole masks are one thing.
    """

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
    def identity(self) -> str:
        """What beside the files decides what :meth:`read` gives; a change makes the store stale."""

    def read(self) -> Iterator[SliceData]:
        """Read the slices in order.

        Raises:
            InputError: If a file cannot be read or holds what it should not.
        """


def is_picture(path: Path) -> bool:
    """Tell whether a file's name is that of a picture that cbseg reads, and not of a hidden file.

    >>> is_picture(Path("1.PNG")), is_picture(Path("._1.png"))
    (True, False)
    """
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Read an 8-bit picture as grey values.

    Shape:
        - output: :math:`(H, W)` uint8.

    Raises:
        InputError: If the file is no picture, is truncated, has more than 8 bits or more pixels than a CT slice, or is
            transparent in places.
    """
    with _opened(path) as picture:
        if np.ptp(np.asarray(picture.convert("RGB")), axis=2).max() > _COLOUR:
            log.warning("%s: is coloured in places (marks, a colour map?), and read as grey", path)
        return np.asarray(picture.convert("L"))


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Read a picture's grey values, or a palette's numbers, as labels; 0 is background.

    Shape:
        - output: :math:`(H, W)` uint8.

    Raises:
        InputError: As :func:`read_grey`; also if its channels differ, or its palette does not make 0 alone black.
    """
    with _opened(path) as picture:
        channels = np.asarray(picture.convert("RGB"))
        if picture.mode == "P":
            numbers = np.asarray(picture)
            if ((numbers > 0) != channels.any(axis=2)).any():
                raise InputError(
                    f"{path}: in its palette 0 is not black, or another number is, so it does not tell what is "
                    "infection; save it as 8-bit grey, 0 for background"
                )
            return numbers
        if np.ptp(channels, axis=2).any():
            raise InputError(
                f"{path}: its red, green and blue differ; a mask is grey. Save it as 8-bit grey, 0 for background"
            )
        return channels[..., 0]


def read_binary_mask(path: Path) -> NDArray[np.uint8]:
    """Read a picture of two values as a mask: 0 is background, the other is infection.

    Shape:
        - output: :math:`(H, W)` uint8 of 0 and 1.

    Raises:
        InputError: As :func:`read_labels`; also if there are values beside 0 and one other.
    """
    labels = read_labels(path)
    values = np.unique(labels)
    if len(values[values > 0]) > 1:
        raise InputError(
            f"{path}: holds {len(values)} different values; a mask holds 0 (background) and one other (infection). "
            "Is it an image, or a mask saved with lossy compression? Replace it by a mask in PNG"
        )
    if looks_inverted(labels > 0):
        log.warning("%s: infection covers most of the slice, or of its border; is the mask inverted?", path)
    return (labels > 0).astype(np.uint8)


def looks_inverted(infected: NDArray[np.bool_]) -> bool:
    """Tell whether infection covers most of a slice, or of its border, as a background does.

    Shape:
        - infected: :math:`(H, W)`.
    """
    border = np.concatenate([infected[0], infected[-1], infected[:, 0], infected[:, -1]])
    return bool(infected.mean() > 0.5 or border.mean() > 0.5)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture of 8 bits a channel, and read it."""
    with reading(path, "cannot be read to its end", "download or copy it again"):
        try:
            picture = Image.open(path, formats=_FORMATS)
        except Image.DecompressionBombError as error:
            raise InputError(f"{path}: has more pixels than a CT slice ({error}); scale it down") from error
        except UnidentifiedImageError as error:
            raise InputError(
                f"{path}: not a picture; replace the file or remove it together with its partner"
            ) from error
        with picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise InputError(
                    f"{path}: has {picture.width} × {picture.height} pixels, more than a CT slice; scale it down"
                )
            sixteen = any(";16" in str(tile) for tile in picture.tile)  # of colours Pillow drops the lower half
            if picture.mode not in GREY_MODES or sixteen:
                bits = ", 16 bits a channel" if sixteen else ""
                raise InputError(f"{path}: a picture of mode {picture.mode}{bits}; convert it to 8-bit grey")
            picture.load()
            if picture.getexif().get(_TURNED, 1) != 1:
                raise InputError(
                    f"{path}: is shown turned by its EXIF orientation; save it as it is shown, without EXIF"
                )
            if picture.has_transparency_data and np.ptp(np.asarray(picture.convert("RGBA"))[..., 3]):
                raise InputError(
                    f"{path}: is transparent in places, so what it shows depends on the ground; save it as 8-bit grey "
                    "without transparency (alpha)"
                )
            yield picture
