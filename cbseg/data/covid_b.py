"""COVID-19-B (paper §4.1.1; MedSeg): nine CT volumes, in the authors' layout (DICOM, PNG masks) or MedSeg's (NIfTI).

Which one is there is found out from the folders.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cbseg.data.dicom import DicomSeries, dicom_files
from cbseg.data.nifti import nifti_files
from cbseg.data.scans import read_grey
from cbseg.data.volume_scan import VolumeScan, nifti_scan, require_pairs, with_reading
from cbseg.data.volumes import Volume
from cbseg.errors import InputError

DICOM, PNG = "OpenSourceDCMs", "InfectionMasks"
NIFTI, NIFTI_MASKS = "rp_im", "rp_msk"
PNG_LABELS = {127: 1, 255: 2}
NIFTI_LABELS = {1: 1, 2: 2, 3: 3}  # ground glass, consolidation, pleural effusion


class PngMasks:
    """The authors' PNG masks of one DICOM series, as a volume.

    Each file is stored mirrored and turned relative to its slice: mirrored back left to right and turned by 90°
    counter-clockwise it lies on it. A file's slice number is that in the DICOM file's name.

    Args:
        files: Each slice number's mask.
        series: The images.

    Raises:
        InputError: If a mask's slice is not in the series; a slice without a mask file has no infection.
    """

    def __init__(self, files: Mapping[int, Path], series: DicomSeries) -> None:
        self.name = str(next(iter(files.values())).parent)
        self.series = series
        numbers = [slice_number(path) for path in series.files]
        for number in sorted(set(files) - set(numbers)):
            raise InputError(f"{files[number]}: {series.name} has no slice {number}; add the slice or remove the mask")
        self.files = [files.get(number) for number in numbers]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """The images'."""
        return self.series.spacing

    @property
    def orientation(self) -> str:
        """The images'."""
        return self.series.orientation

    @property
    def shape(self) -> tuple[int, int, int]:
        """The images'; each mask's own size is checked when it is read."""
        return self.series.shape

    def slice(self, k: int) -> NDArray[np.floating]:
        """The labels of slice ``k`` from the foot, (H, W) float32.

        Raises:
            InputError: If the file cannot be read or has another size than its slice.
        """
        path = self.files[k]
        _, rows, columns = self.series.shape
        if path is None:
            return np.zeros((rows, columns), np.float32)
        labels = self.series.to_canonical(np.rot90(np.fliplr(read_grey(path))))
        if labels.shape != (rows, columns):
            raise InputError(
                f"{path}: is {labels.shape[1]} × {labels.shape[0]} pixels once turned, its slice "
                f"{self.series.files[k].name} {columns} × {rows}. Are they a pair?"
            )
        return labels.astype(np.float32)


def slice_number(path: Path) -> int:
    """The number in a DICOM file's name: ``…s0012.dcm`` is slice 12.

    Raises:
        InputError: If there is none.

    >>> slice_number(Path("DCM1/case1s0012.dcm"))
    12
    """
    number = re.search(r"s(\d{4})(?!.*s\d{4})", path.name)
    if number is None:
        raise InputError(
            f"{path}: its name has no slice number (s and four digits); rename it as in the authors' layout"
        )
    return int(number[1])


def find_scans(
    root: str | Path,
    window: Sequence[float] = (-1250, 250),
    classes: Mapping[int, int] | None = None,
    intensity: str = "window",
    crop: Sequence[int] | None = None,
) -> list[VolumeScan]:
    """Pair the images and masks of either layout; reads names only.

    Args:
        root: Holds ``OpenSourceDCMs`` and ``InfectionMasks``, or ``rp_im`` and ``rp_msk``.
        window: The HU that become grey values 0 and 255.
        classes: What 1 ground glass, 2 consolidation and 3 effusion become; all are infection, class 1, by default.
        intensity: ``window``, or ``released`` for the authors' raw / 4095.
        crop: Rows and columns to keep in the middle of each slice; all if it is none.

    Returns:
        The scans in the order of their numbers.

    Raises:
        InputError: If neither layout is there or both are, or an image has no mask or a mask no image.
    """
    root = Path(root)
    layouts = [layout for layout, folder in ((_authors, DICOM), (_medseg, NIFTI)) if (root / folder).is_dir()]
    if len(layouts) != 1:
        raise InputError(
            f"{root}: holds {'both layouts' if layouts else 'neither layout'} of COVID-19-B; put {DICOM} and {PNG} "
            f"there, or {NIFTI} and {NIFTI_MASKS}, and not both"
        )
    chosen = dict(classes) if classes is not None else {1: 1, 2: 1, 3: 1}
    return with_reading(layouts[0](root, chosen), window, intensity, "raw", crop)


def _authors(root: Path, classes: dict[int, int]) -> list[VolumeScan]:
    images: dict[int, Path] = {}
    for folder in sorted((root / DICOM).iterdir()):
        number = re.fullmatch(r"DCM(\d+)", folder.name)
        if folder.is_dir() and number:
            images[int(number[1])] = folder
    masks: dict[int, dict[int, Path]] = {}
    for path in sorted((root / PNG).glob("*.png")):
        numbers = re.fullmatch(r"(\d+)_z(\d+)", path.stem)
        if numbers is None:
            raise InputError(f"{path}: is not named <scan>_z<slice>.png; rename it or remove it")
        masks.setdefault(int(numbers[1]), {})[int(numbers[2])] = path
    require_pairs(images, {scan: next(iter(files.values())) for scan, files in masks.items()})
    labels = {grey: classes.get(label, 0) for grey, label in PNG_LABELS.items()}

    def scan(number: int) -> VolumeScan:
        slices = dicom_files(images[number])
        return VolumeScan(
            f"scan-{number}",
            (*slices, *masks[number].values()),
            partial(DicomSeries, slices, str(images[number])),
            partial(_open_png, masks[number]),
            labels,
        )

    return [scan(number) for number in sorted(images)]


def _open_png(files: dict[int, Path], image: Volume) -> PngMasks:
    assert isinstance(image, DicomSeries)
    return PngMasks(files, image)


def _medseg(root: Path, classes: dict[int, int]) -> list[VolumeScan]:
    images, masks = (_by_number(root / folder) for folder in (NIFTI, NIFTI_MASKS))
    require_pairs(images, masks)
    labels = {label: classes.get(label, 0) for label in NIFTI_LABELS}
    return [nifti_scan(f"scan-{number}", images[number], masks[number], labels) for number in sorted(images)]


def _by_number(folder: Path) -> dict[int, Path]:
    paths = nifti_files(folder)
    wrong = [path for path in paths if not path.name.split(".")[0].isdigit()]
    if wrong:
        raise InputError(f"{wrong[0]}: is not named <scan>.nii.gz; rename it or remove it")
    return {int(path.name.split(".")[0]): path for path in paths}
