"""COVID-19-C (paper §4.1.1; Ma et al. 2020): 20 NIfTI volumes, whose images and masks have different names."""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cbseg.data.nifti import nifti_files
from cbseg.data.reading import reading
from cbseg.data.volume_scan import VolumeScan, nifti_scan, require_pairs, with_reading
from cbseg.errors import InputError

IMAGES, MASKS = "COVID-19-CT-Seg_20cases", "Infection_Mask"


def find_scans(
    root: str | Path,
    window: Sequence[float] = (-1250, 250),
    classes: Mapping[int, int] | None = None,
    intensity: str = "window",
    crop: Sequence[int] | None = None,
    upside_down: str | None = None,
) -> list[VolumeScan]:
    """Pair images and masks by their numbers: ``coronacases_org_001`` is ``coronacases_001``; reads names only.

    Args:
        root: Holds ``COVID-19-CT-Seg_20cases`` and ``Infection_Mask``.
        window: The HU that become grey values 0 and 255.
        classes: The class that each of the masks' labels becomes; the one label, 1, is infection by default.
        intensity: ``window``, or ``released`` for the authors' minimum and maximum of each volume, truncated.
        crop: Rows and columns of the middle of each slice, padded with 0 where it is smaller; none keeps it whole.

        upside_down: A pattern of scans' names, such as ``radiopaedia-*``: those whose files say that row 0 is anterior
            although it is posterior. Image and mask are turned alike.

    Returns:
        The scans in the order of their numbers, coronacases before radiopaedia.

    Raises:
        InputError: If a folder is missing or empty, an image has no mask or a mask no image, or no scan is named so.
    """
    images, masks = (_by_number(Path(root) / folder) for folder in (IMAGES, MASKS))
    require_pairs(images, masks)
    labels = dict(classes) if classes is not None else {1: 1}
    scans = [nifti_scan(scan_name(images[key]), images[key], masks[key], labels) for key in sorted(images)]
    scans = with_reading(scans, window, intensity, "minmax", crop)
    if upside_down is None:
        return scans
    turned = fnmatch.filter([scan.name for scan in scans], upside_down)
    if not turned:
        names = ", ".join(scan.name for scan in scans)
        raise InputError(f"data.find_scans.upside_down={upside_down}: no scan has such a name; there are {names}")
    return [replace(scan, upside_down=scan.name in turned) for scan in scans]


Key = tuple[str, tuple[int, ...]]


def scan_name(path: Path) -> str:
    """Name a file's scan, of either kind: ``coronacases-1`` or ``radiopaedia-10-85902-1``.

    >>> scan_name(Path("radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm.nii.gz"))
    'radiopaedia-10-85902-1'
    """
    source, numbers = _key(path)
    return "-".join([source, *map(str, numbers)])


def _key(path: Path) -> Key:
    """Return source and numbers of a file, the same for image and mask."""
    stem = path.name.lower().split(".nii")[0].replace("covid-19", "")  # whose 19 is no scan's number
    source = re.match(r"[a-z]*", stem)
    return (source[0] if source else "", tuple(int(n) for n in re.findall(r"\d+", stem)))


def _by_number(folder: Path) -> dict[Key, Path]:
    with reading(folder, advice="check its permissions"):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; COVID-19-C is {IMAGES} and {MASKS} below data.root")
    found: dict[Key, Path] = {}
    for path in nifti_files(folder):
        if _key(path) in found:
            raise InputError(f"{path}: has the numbers of {found[_key(path)].name}; keep one of them")
        found[_key(path)] = path
    return found
