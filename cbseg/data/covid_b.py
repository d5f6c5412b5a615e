"""COVID-19-B (paper §4.1.1; MedSeg): nine CT volumes, in the authors' layout (DICOM, PNG masks) or MedSeg's (NIfTI).

Which one is there is found out from the folders.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from cbseg.data.covid_b_authors import PngMasks, open_series
from cbseg.data.dicom import dicom_files
from cbseg.data.nifti import nifti_files
from cbseg.data.reading import reading
from cbseg.data.scans import is_picture
from cbseg.data.volume_scan import VolumeScan, nifti_scan, require_pairs, with_reading
from cbseg.errors import InputError

DICOM, PNG = "OpenSourceDCMs", "InfectionMasks"
NIFTI, NIFTI_MASKS = "rp_im", "rp_msk"
PNG_GREYS = (127, 255)  # on infections: each file is scaled by its own highest label, so they tell no classes apart
LABELS = (1, 2, 3)  # ground glass, consolidation, pleural effusion


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
            The authors' PNG masks do not tell the first two apart.
        intensity: ``window``, or ``released`` for the authors' stored values / 4095, truncated.
        crop: Rows and columns of the middle of each slice, padded with 0 where it is smaller; none keeps it whole.

    Returns:
        The scans in the order of their numbers.

    Raises:
        InputError: If neither layout is there or both are, an image has no mask or a mask no image, or PNG masks are
            to tell ground glass from consolidation.
    """
    root = Path(root)
    with reading(root, advice="check its permissions"):
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
    for folder in _listed(root / DICOM):
        number = re.fullmatch(r"DCM(\d+)", folder.name)
        if folder.is_dir() and number:
            images[int(number[1])] = folder
    masks: dict[int, dict[int, Path]] = {}
    for path in _listed(root / PNG):
        if not is_picture(path):
            continue
        numbers = re.fullmatch(r"(\d+)_z(\d+)", path.stem)
        if numbers is None:
            raise InputError(f"{path}: is not named <scan>_z<slice>.png; rename it or remove it")
        masks.setdefault(int(numbers[1]), {})[int(numbers[2])] = path
    require_pairs(images, {scan: next(iter(files.values())) for scan, files in masks.items()})
    if classes.get(1, 0) != classes.get(2, 0):
        raise InputError(
            f"data.find_scans.classes={classes}: the PNG masks in {root / PNG} do not tell ground glass (1) from "
            "consolidation (2), as each is scaled by its own highest label; give both one class, or take MedSeg's NIfTI"
        )
    labels = dict.fromkeys(PNG_GREYS, classes.get(1, 0))

    def scan(number: int) -> VolumeScan:
        slices = dicom_files(images[number])
        return VolumeScan(
            f"scan-{number}",
            (*slices, *masks[number].values()),
            partial(open_series, slices, str(images[number])),
            partial(PngMasks, masks[number]),
            labels,
        )

    return [scan(number) for number in sorted(images)]


def _listed(folder: Path) -> list[Path]:
    with reading(folder, advice="put the dataset's folder there, and check its permissions"):
        return sorted(folder.iterdir())


def _medseg(root: Path, classes: dict[int, int]) -> list[VolumeScan]:
    images, masks = (_by_number(root / folder) for folder in (NIFTI, NIFTI_MASKS))
    require_pairs(images, masks)
    labels = {label: classes.get(label, 0) for label in LABELS}
    return [nifti_scan(f"scan-{number}", images[number], masks[number], labels) for number in sorted(images)]


def _by_number(folder: Path) -> dict[int, Path]:
    paths = nifti_files(folder)
    wrong = [path for path in paths if not path.name.split(".")[0].isdigit()]
    if wrong:
        raise InputError(f"{wrong[0]}: is not named <scan>.nii.gz; rename it or remove it")
    return {int(path.name.split(".")[0]): path for path in paths}
