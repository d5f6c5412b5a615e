"""Which series a folder's DICOM files make, and what lies beside them."""

import filecmp
import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from cbseg.data.dicom_file import read_header, storage_class
from cbseg.data.dicom_slice import DicomSlice, slices_in
from cbseg.data.reading import reading
from cbseg.errors import InputError

log = logging.getLogger(__name__)

_CT = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
_SUFFIXES = (".dcm", ".dicom", ".ima")
_BESIDE = (  # of what people, archives and patients' CDs put there; others are looked into
    *(".txt", ".md", ".pdf", ".xml", ".json", ".csv", ".tsv", ".html", ".htm", ".css", ".js", ".log", ".yaml", ".yml"),
    *(".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".ico", ".nii", ".nrrd", ".zip", ".gz", ".db"),
    *(".exe", ".dll", ".jar", ".inf", ".ini", ".doc", ".docx", ".xls", ".xlsx"),
)
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient")


def find_series(files: Iterable[Path]) -> dict[str, list[DicomSlice]]:
    """Group DICOM files by SeriesInstanceUID, in the order of their paths.

    What is no slice is left out with a warning: text and pictures, DICOMDIR, reports, localizers. Slices of one size
    and orientation that have a UID each are one series.

    Args:
        files: DICOM files, and whatever lies beside them.

    Raises:
        InputError: If a slice cannot be read; the message names its file.
    """
    series: dict[str, list[DicomSlice]] = {}
    for path in sorted(files):
        try:
            header = read_header(path)
        except InputError:
            if not _lies_beside(path):
                raise
            log.warning("%s: no DICOM file, left out", path)
            continue
        with reading(path, "its header is malformed", "export it again"):
            if reason := _no_slice(header):
                log.warning("%s: %s, left out", path, reason)
                continue
            series.setdefault(str(header.get("SeriesInstanceUID") or ""), []).extend(slices_in(path, header))
    if len(series) > 1 and all(len(slices) == 1 for slices in series.values()):
        slices = [slices[0] for slices in series.values()]
        if len({one.shape for one in slices}) == 1 and np.ptp([one.orientation for one in slices], axis=0).max() < 1e-3:
            log.warning(
                "%s: each of %d files has a series UID of its own; read as one", slices[0].path.parent, len(slices)
            )
            return {"": slices}
    return series


def ct_series(files: Iterable[Path], name: str) -> list[list[DicomSlice]]:
    """Find the axial CT series among some files; others are left out with a warning.

    Args:
        files: See :func:`find_series`.
        name: What to call them in messages.

    Returns:
        Each series' slices; where no series is axial CT, all of them, for whoever reads one to say what is wrong.

    Raises:
        InputError: If there is no slice, or one cannot be read.
    """
    series = list(find_series(files).values())
    if not series:
        raise InputError(f"{name}: holds no CT slices")
    return axial_ct(series, name)


def axial_ct(series: list[list[DicomSlice]], name: str) -> list[list[DicomSlice]]:
    """Choose the axial CT among some series; see :func:`ct_series`."""
    ct = [slices for slices in series if is_ct(slices)]
    chosen = [slices for slices in ct if _is_axial(slices[0])] or ct or series
    for slices in series:
        if slices not in chosen:
            log.warning(
                "%s: a series of %d images, Modality %s, not axial CT, such as %s, left out",
                name,
                len(slices),
                _modality(slices[0]) or "missing",
                slices[0].path.name,
            )
    return chosen


def is_ct(slices: Iterable[DicomSlice]) -> bool:
    """Tell whether a series is CT, or may be: some of its slices have that modality, or none."""
    return any(_modality(one) in ("", "CT") for one in slices)


def ct_slices(files: Iterable[Path], name: str) -> list[DicomSlice]:
    """Find the slices of the one CT series among some files.

    Args:
        files: See :func:`find_series`.
        name: What to call them in messages.

    Raises:
        InputError: If there is no CT series or more than one, or one of its slices has another modality.
    """
    slices, *others = ct_series(files, name)
    if others:
        listed = "; ".join(f"{len(some)} slices, such as {some[0].path}" for some in (slices, *others))
        raise InputError(
            f"{name}: mixed series: holds {1 + len(others)} CT series ({listed}); put each into a folder of its own"
        )
    for one in slices:
        if _modality(one) not in ("", "CT"):
            raise InputError(f"{one.path}: its Modality is {_modality(one)}, not CT; remove it")
    if unnamed := [one.path for one in slices if not _modality(one)]:
        log.warning("%s: %d files have no Modality, such as %s; read as CT", name, len(unnamed), unnamed[0].name)
    return slices


def series_names(series: list[list[DicomSlice]], folder: Path) -> list[Path]:
    """Name the series of a study, by the folders below the study's in which they lie, or else by their numbers.

    Args:
        series: See :func:`ct_series`.
        folder: The study's.
    """
    places = [Path(os.path.commonpath([one.path.parent for one in slices])).relative_to(folder) for slices in series]
    if len(set(places)) == len(series) and Path() not in places:
        return places
    numbers = [slices[0].text("SeriesNumber").strip() for slices in series]
    if len(set(numbers)) < len(series) or not all(number.isdigit() for number in numbers):
        numbers = [str(k + 1) for k in range(len(series))]
    return [Path(f"series{number}") for number in numbers]


def without_copies(slices: list[DicomSlice]) -> list[DicomSlice]:
    """Leave out files that are byte for byte copies of others with the same SOPInstanceUID, with a warning."""
    kept: dict[tuple[str, int | None], DicomSlice] = {}
    found = []
    for one in slices:
        key = (one.text("SOPInstanceUID") or str(one.path), one.frame)
        first = kept.setdefault(key, one)
        if first is not one and filecmp.cmp(first.path, one.path, shallow=False):
            log.warning("%s: a copy of %s, left out", one.path, first.path.name)
        else:
            found.append(one)
    return found


def require_alike(slices: list[DicomSlice]) -> None:
    """Refuse slices that differ in what makes them one volume, and name one of the odd ones.

    Raises:
        InputError: If sizes, orientations or spacings are mixed, or some lack the rescale tags.
    """
    for key, what in (("Rows", "heights"), ("Columns", "widths")):
        _require_one([(one.path, int(one.numbers(key, 1)[0])) for one in slices], key, f"mixed {what}")
    _require_one(
        [(one.path, "missing" if one.rescale is None else "there") for one in slices],
        "RescaleSlope and RescaleIntercept",
        "its values would be on another scale",
    )
    first = slices[0]
    for one in slices:
        for key, what, values, usual in (
            ("ImageOrientationPatient", "orientation", one.orientation, first.orientation),
            ("PixelSpacing", "spacing", one.spacing, first.spacing),
        ):
            if np.abs(values - usual).max() > 1e-3:  # of direction cosines, and of mm
                raise InputError(
                    f"{one.path}: its {key} is {values.tolist()}, that of {first.path.name} {usual.tolist()}; "
                    f"keep slices of one {what} in a folder"
                )


def _require_one(found: list[tuple[Path, object]], key: str, what: str) -> None:
    counts = Counter(value for _, value in found)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd, value = next((path, value) for path, value in found if value != usual)
        raise InputError(
            f"{odd}: its {key} is {value}, that of {counts[usual]} others {usual}: {what} in one folder; put each "
            "series into a folder of its own, or export this file again"
        )


def _modality(one: DicomSlice) -> str:
    return one.text("Modality").strip().upper()


def _is_axial(one: DicomSlice) -> bool:
    if not all(map(one.text, _PLACE)):  # pages of a report, as CT images
        return False
    return abs(np.cross(one.orientation[:3], one.orientation[3:])[2]) > 0.5


def _no_slice(header: pydicom.Dataset) -> str:
    """Say why a DICOM file is no slice of a CT, or nothing."""
    kind = storage_class(header)
    if "DirectoryRecordSequence" in header:
        return "a DICOMDIR"
    if "LOCALIZER" in (header.get("ImageType") or []):
        return "a localizer"
    if kind and kind not in _CT:
        if "Rows" not in header:
            return f"no image ({kind.name})"
        if "PerFrameFunctionalGroupsSequence" not in header and not all(header.get(key) for key in _PLACE):
            return f"an image without a place ({kind.name})"
    return ""


def _lies_beside(path: Path) -> bool:
    """Tell whether a file that is no DICOM is a readme, a table or a picture, and no damaged slice."""
    name = path.name.lower()
    if name.endswith(_SUFFIXES):
        return False
    if name.endswith(_BESIDE):
        return True
    with reading(path), path.open("rb") as file:
        beginning = file.read(2048)
    return bool(beginning) and all(byte >= 32 or byte in b"\t\n\r\f" for byte in beginning)  # text in any charset
