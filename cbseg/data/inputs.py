"""The CTs that a user names, in whatever form they lie there, and what the labels of each are called."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydicom.misc import is_dicom

from cbseg.data.dicom import DicomSeries, dicom_files
from cbseg.data.dicom_series import ct_series, series_names
from cbseg.data.nifti import SUFFIXES, NiftiVolume, is_nifti
from cbseg.data.reading import reading
from cbseg.data.scans import is_picture
from cbseg.errors import InputError

log = logging.getLogger(__name__)

_DICOM = (".dcm", ".dicom", ".ima")
_NARROWEST, _WIDEST = 40.0, 2000.0  # mm, of a slice; a scanner's widest field is 850 mm


class CT(NamedTuple):
    """One volume or picture that somebody named.

    Attributes:
        path: A file, or a folder with DICOM files.
        labels: Where its labels go below the output folder.
        files: Of a folder with several series, those of this one.
    """

    path: Path
    labels: Path
    files: tuple[Path, ...] = ()

    def result(self, suffix: str) -> Path:
        """Where a result with another suffix than its labels' goes, beside them.

        >>> CT(Path("ct.nii"), Path("a/ct.nii.gz")).result(".png").as_posix()
        'a/ct.png'
        """
        return self.labels.with_name(self.labels.name.removesuffix(".nii.gz").removesuffix(".png") + suffix)


def list_cts(paths: Iterable[Path]) -> list[CT]:
    """List the CTs at some paths.

    Labels are named as their CT is. Where two would have one name, the folders of all are mirrored.

    Args:
        paths: NIfTI files, DICOM files, pictures, folders of DICOM files, or folders of NIfTI files or pictures, each
            of which is then a CT. What is not there is listed too, for :func:`open_volume` to name it.
    """
    found = [CT(path, labels) for given in paths for path, labels in _expanded(given)]
    if max(Counter(ct.result("") for ct in found).values(), default=1) == 1:
        return found
    folders = [Path(os.path.abspath(ct.path)).parent for ct in found]  # noqa: PTH100 - resolve() would follow links
    common = os.path.commonpath(folders)
    return [CT(ct.path, folder.relative_to(common) / ct.labels.name) for ct, folder in zip(found, folders, strict=True)]


def each_series(ct: CT) -> list[CT]:
    """Take a folder of DICOM files apart: a CT for each of its axial CT series, whose labels go into one folder.

    Raises:
        InputError: If a DICOM file in it cannot be read, it holds no slice, or there is no such file or folder.
    """
    require_file_or_folder(ct.path)
    if not ct.path.is_dir():
        return [ct]
    series = ct_series(dicom_files(ct.path), str(ct.path))
    files = [tuple(dict.fromkeys(one.path for one in slices)) for slices in series]
    if len(series) == 1:
        return [ct._replace(files=files[0])]
    study = ct.labels.with_name(ct.path.resolve().name)
    names = series_names(series, ct.path)
    return [CT(ct.path, study / f"{name}.nii.gz", some) for name, some in zip(names, files, strict=True)]


def _expanded(given: Path) -> Iterator[tuple[Path, Path]]:
    """List a path's CTs, each with the place of its labels."""
    name = given.name if given.name.strip(".") else given.resolve().name  # of a link its own
    files: list[Path] = []
    with contextlib.suppress(InputError, OSError):  # whoever opens it says so
        files = dicom_files(given) if given.is_dir() else []
    each = [path for path in files if is_nifti(path) or is_picture(path)]
    if not each or any(is_dicom_file(path) for path in files if path not in each):
        yield given, Path(_label_name(name))
    else:
        for path in each:
            inside = path.relative_to(given)
            yield path, Path(name) / inside.with_name(_label_name(path.name))


def _label_name(name: str) -> str:
    if is_picture(Path(name)):
        return f"{Path(name).stem}.png"
    suffix = next((suffix for suffix in (*SUFFIXES[::-1], *_DICOM) if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)] + ".nii.gz"


def open_volume(path: Path, files: Sequence[Path] = ()) -> NiftiVolume | DicomSeries:
    """Open a NIfTI file, a DICOM file or a folder with a DICOM series.

    Args:
        path: The file or folder.
        files: Those of the folder to take; all by default.

    Raises:
        InputError: If it is none of these, cannot be read, or its slices are too wide for a chest.
    """
    with reading(path, advice="check the path and its permissions"):
        require_file_or_folder(path)
        if path.is_file() and is_nifti(path):
            return _of_a_chest(NiftiVolume(path))
        if path.is_dir() or is_dicom_file(path):
            all_files = dicom_files(path) if path.is_dir() else [path]
            return _of_a_chest(DicomSeries(list(files) or all_files, str(path)))
    raise InputError(
        f"{path}: give a NIfTI file (.nii, .nii.gz), a DICOM file or a series' folder, or a picture (.png, .jpg); "
        "unpack archives, and save other formats (.hdr and .img, .nrrd, .mha) as NIfTI"
    )


def require_file_or_folder(path: Path) -> None:
    """Refuse what is not there, and pipes and devices, whose reading may never end.

    Raises:
        InputError: With the path.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: neither a file nor a folder; give the CT's file")


def _of_a_chest(volume: NiftiVolume | DicomSeries) -> NiftiVolume | DicomSeries:
    """Refuse a volume in other units than mm, as millilitres would be of those; warn of one that may be a part."""
    _, rows, columns = volume.spacing
    sides = (volume.shape[1] * rows, volume.shape[2] * columns)
    told = f"{volume.name}: its slices are {sides[0]:.4g} × {sides[1]:.4g} mm, which is no chest's size; "
    if max(sides) > _WIDEST:
        raise InputError(f"{told}correct its PixelSpacing, or its NIfTI header's spacing and unit (xyzt_units)")
    if min(sides) < _NARROWEST:
        log.warning("%sif it is no part of one, millilitres are wrong, and its PixelSpacing is to be corrected", told)
    return volume


def is_dicom_file(path: Path) -> bool:
    """Tell whether a file is DICOM, by its suffix or its beginning."""
    return path.suffix.lower() in _DICOM or is_dicom(path)
