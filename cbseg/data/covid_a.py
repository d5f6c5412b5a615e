"""COVID-19-A (paper §4.1.1): 98 axial slices in COVID-SemiSeg's layout, JPEG images and PNG masks paired by stem."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cbseg.data.reading import reading
from cbseg.data.scans import PICTURES, SliceData, is_picture, read_binary_mask, read_grey
from cbseg.errors import InputError

FOLDERS = {
    "train": Path("TrainingSet/LungInfection-Train/Doctor-label"),
    "test": Path("TestingSet/LungInfection-Test"),
}


@dataclass(frozen=True)
class SliceScan:
    """A scan of which one slice was published."""

    name: str
    subset: str
    image: Path
    mask: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The image and its mask."""
        return self.image, self.mask

    identity = ""

    def read(self) -> Iterator[SliceData]:
        """Read the one slice.

        Raises:
            InputError: If a file is bad, or image and mask differ in size.
        """
        image, mask = read_grey(self.image), read_binary_mask(self.mask)
        if image.shape != mask.shape:
            raise InputError(
                f"{self.mask}: is {mask.shape[1]} × {mask.shape[0]} pixels, its image {self.image.name} "
                f"{image.shape[1]} × {image.shape[0]}; a mask has its image's size. Are they a pair?"
            )
        yield SliceData(self.name, image, mask)


def find_scans(root: str | Path) -> list[SliceScan]:
    """Pair the images and masks below a folder; reads names only.

    Args:
        root: Holds ``Dataset/TrainingSet/…`` and ``Dataset/TestingSet/…``, or is that ``Dataset`` itself.

    Returns:
        Training scans, then test scans, each sorted by file name as text.

    Raises:
        InputError: If a folder is missing or empty, or an image has no mask or a mask no image.
    """
    root = Path(root)
    root = root / "Dataset" if (root / "Dataset").is_dir() else root
    return [scan for subset, folder in FOLDERS.items() for scan in _pair(root / folder, subset)]


def _pair(folder: Path, subset: str) -> list[SliceScan]:
    images, masks = (_by_stem(folder / name) for name in ("Imgs", "GT"))
    for have, lack, what in ((images, masks, "mask"), (masks, images, "image")):
        lonely = sorted(set(have) - set(lack))
        if lonely:
            place = folder / ("GT" if what == "mask" else "Imgs")
            others = f" (and {len(lonely) - 1} more)" if len(lonely) > 1 else ""
            raise InputError(
                f"{have[lonely[0]]}{others}: has no {what}; add {place / lonely[0]}.png or remove the file"
            )
    return [SliceScan(f"{subset}-{_readable(stem)}", subset, images[stem], masks[stem]) for stem in sorted(images)]


def _readable(stem: str) -> str:
    """Return a name that can be printed and written, also where its bytes are no UTF-8."""
    return os.fsencode(stem).decode(errors="backslashreplace")


def _by_stem(folder: Path) -> dict[str, Path]:
    """Find the pictures in a folder."""
    with reading(folder, advice="check its permissions"):
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such folder; COVID-19-A is "
                f"{', '.join(f'{path}/{{Imgs,GT}}' for path in FOLDERS.values())} below data.root"
            )
        found = sorted(folder.iterdir())
    pictures: dict[str, Path] = {}
    for path in found:
        if is_picture(path):
            if path.stem in pictures:
                raise InputError(f"{path}: {pictures[path.stem].name} has the same stem; keep one of them")
            pictures[path.stem] = path
    if not pictures:
        raise InputError(f"{folder}: holds no pictures ({', '.join(PICTURES)}); put COVID-19-A's there")
    return pictures
