"""The prepared slices: built once for each dataset and image size, whole or not at all, and read memory-mapped."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from rich.progress import track
from torchvision.transforms.v2 import InterpolationMode

from cbseg.data.preprocess import resized
from cbseg.data.scans import Scan
from cbseg.errors import InputError
from cbseg.points import IGNORE, MASK_SHARE, count_regions, is_lone, resize_points

log = logging.getLogger(__name__)

_FORMAT = 4  # raise it when the files below mean something else: old stores are then built anew
_INDEX, _IMAGES, _MASKS, _NATIVE = "index.json", "images.u8", "masks.u8", "native_masks.u8"
_ARRAYS = (_IMAGES, _MASKS, _NATIVE)
_WORKERS = min(os.cpu_count() or 1, 8)


@dataclass(frozen=True)
class SliceInfo:
    """What the store knows of a slice without reading it.

    Attributes:
        name: Unique in its dataset.
        scan: The scan's name.
        subset: The part that the publisher put it in, or empty.
        position: Its place in the scan, from 0.
        shape: Height and width of the native mask, pixels.
        regions: Number of infected regions in the native mask: 8-connected, whatever the class.
        offset: Where the native mask begins in its file, bytes.
        unknown: How many pixels of the native mask nobody looked at.
    """

    name: str
    scan: str
    subset: str
    position: int
    shape: tuple[int, int]
    regions: int
    offset: int
    unknown: int = 0  # in stores that were made before masks could be in part

    @classmethod
    def of(cls, scan: Scan, position: int, name: str, mask: NDArray[np.uint8], offset: int = 0) -> "SliceInfo":
        """Describe a slice by its native mask, (H, W)."""
        regions, unknown = count_regions(mask), int((mask == IGNORE).sum())
        return cls(name, scan.name, scan.subset, position, mask.shape, regions, offset, unknown)

    @property
    def share_known(self) -> float:
        """The share of its pixels that somebody looked at."""
        return 1 - self.unknown / math.prod(self.shape)

    @property
    def is_sparse(self) -> bool:
        """Whether it is known at some pixels only, such as clicks."""
        return 0 < self.share_known < MASK_SHARE


class SliceStore:
    """A prepared dataset on disk.

    Args:
        folder: Made by :func:`prepare`.

    Raises:
        InputError: If the store was damaged after it was made.

    Attributes:
        folder: Where it lies.
        slices: One :class:`SliceInfo` a slice.
        images: :math:`(N, H, W)` uint8 at training size, memory-mapped.
        masks: :math:`(N, H, W)` uint8 at training size, memory-mapped.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / _INDEX).read_text())
        self.slices = [SliceInfo(**{**item, "shape": tuple(item["shape"])}) for item in index["slices"]]
        shape = (len(self.slices), *index["image_size"])
        last = self.slices[-1]
        sizes = {_IMAGES: math.prod(shape), _MASKS: math.prod(shape), _NATIVE: last.offset + math.prod(last.shape)}
        for name, size in sizes.items():
            found = (folder / name).stat().st_size if (folder / name).is_file() else 0
            if found != size:
                raise InputError(
                    f"{folder}: is damaged ({name} has {found} bytes, {_INDEX} says {size}); delete the folder, it is "
                    "then built anew"
                )
        self.images = np.memmap(folder / _IMAGES, np.uint8, "r", shape=shape)
        self.masks = np.memmap(folder / _MASKS, np.uint8, "r", shape=shape)
        self._native = np.memmap(folder / _NATIVE, np.uint8, "r")

    def native_mask(self, i: int) -> NDArray[np.uint8]:
        """Return the mask of slice ``i`` at its native size.

        Shape:
            - output: :math:`(H, W)`, ``slices[i].shape``.
        """
        item = self.slices[i]
        height, width = item.shape
        return self._native[item.offset : item.offset + height * width].reshape(item.shape)

    def statistics(self) -> dict[str, int]:
        """Return the columns of the paper's Table 1."""
        return {
            "cases": len({item.scan for item in self.slices}),
            "slices": len(self.slices),
            "slices_with_infections": sum(item.regions > 0 for item in self.slices),
            "infected_regions": sum(item.regions for item in self.slices),
        }


def prepare(scans: Sequence[Scan], image_size: tuple[int, int], parent: Path, name: str) -> Path:
    """Build a store unless it is there: images resized bilinearly, masks to nearest, native masks kept.

    Where less than half of a slice is known, its labels are resized as points are (:func:`cbseg.points.resize_points`).
    No click is lost in those either of which more is known.

    The folder appears by one rename when all is written, so a killed or failed build leaves nothing that is ever read.
    Processes that prepare at once wait for the first.

    Args:
        scans: What to prepare, in the order to keep.
        image_size: Height and width in training, pixels.
        parent: Where stores lie.
        name: The dataset's name.

    Returns:
        The store's folder, named after the dataset and a fingerprint of its files' names, contents and identity.

    Raises:
        InputError: If a scan cannot be read, or the store cannot be written.
    """
    folder = parent / f"{name}-{_fingerprint(scans, image_size)}"
    if (folder / _INDEX).is_file():
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / _INDEX).is_file():
                part = folder.with_name(f"{folder.name}.part")
                for left_behind in (part, folder):  # by a killed build, or half deleted by hand: we hold the lock
                    shutil.rmtree(left_behind, ignore_errors=True)
                try:
                    part.mkdir()
                    _build(scans, image_size, part)
                    part.rename(folder)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
                log.info("%s: prepared %d scans in %s", name, len(scans), folder)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error}); free some space or set store=<another folder>"
        ) from error
    return folder


def _fingerprint(scans: Sequence[Scan], image_size: tuple[int, int]) -> str:
    digest = hashlib.sha256(repr((_FORMAT, image_size)).encode())
    for scan in scans:
        digest.update(repr((scan.name, scan.subset, scan.identity)).encode())
        for path in scan.files:
            digest.update(os.fsencode(path.name))  # names pair images and masks, and number slices
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return digest.hexdigest()[:12]


def _build(scans: Sequence[Scan], image_size: tuple[int, int], folder: Path) -> None:
    """Prepare a scan in each thread, into files of its own, which are joined in order.

    Decoding, unpacking and resizing release the interpreter, so threads suffice. A thread holds one scan's image and
    mask at a time, and joining copies in small pieces, so memory does not grow with the dataset.
    """
    tasks = [(scan, image_size, folder / f"{k:05d}") for k, scan in enumerate(scans)]
    slices: list[SliceInfo] = []
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(_WORKERS) as pool:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in _ARRAYS}
        progress = track(pool.map(_prepare_scan, tasks), "preparing scans", total=len(tasks), transient=True)
        for (_, _, part), found in zip(tasks, progress, strict=True):
            start = files[_NATIVE].tell()
            slices += [dataclasses.replace(item, offset=item.offset + start) for item in found]
            for name, file in files.items():
                with part.with_name(part.name + name).open("rb") as piece:
                    shutil.copyfileobj(piece, file)
                part.with_name(part.name + name).unlink()
        for file in files.values():  # what the rename makes visible is on the disk
            file.flush()
            os.fsync(file.fileno())
    index = {"image_size": image_size, "slices": [dataclasses.asdict(item) for item in slices]}
    (folder / _INDEX).write_text(json.dumps(index))


def _prepare_scan(task: tuple[Scan, tuple[int, int], Path]) -> list[SliceInfo]:
    """Write one scan's slices to files of their own; offsets count from this scan's first."""
    scan, image_size, part = task
    slices: list[SliceInfo] = []
    offset = 0
    with contextlib.ExitStack() as stack:
        images, masks, native = (stack.enter_context(part.with_name(part.name + name).open("wb")) for name in _ARRAYS)
        for position, (name, image, mask) in enumerate(scan.read()):
            if image.ndim != 2 or image.shape != mask.shape or not image.dtype == mask.dtype == np.uint8:
                raise InputError(
                    f"{scan.files[0]}: slice {name} is {image.shape} {image.dtype}, its mask {mask.shape} "
                    f"{mask.dtype}; both have rows × columns of 8 bits"
                )
            images.write(resized(image, image_size).tobytes())
            slices.append(SliceInfo.of(scan, position, name, mask, offset))
            masks.write((resize_points if slices[-1].is_sparse else _resized_mask)(mask, image_size).tobytes())
            native.write(mask.tobytes())
            offset += mask.size
    return slices


def _resized_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a mask to nearest; of one that is not known everywhere, lone pixels as the clicks that they may be."""
    nearest = resized(mask, size, InterpolationMode.NEAREST_EXACT)
    if not (mask == IGNORE).any():
        return nearest
    clicks = resize_points(np.where(is_lone(mask), mask, np.uint8(IGNORE)), size)
    return np.where(clicks == IGNORE, nearest, clicks)
