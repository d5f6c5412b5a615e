"""What is written of a CT's prediction, all of it or nothing."""

import contextlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from cbseg.data.dicom import DicomSeries
from cbseg.data.nifti import NiftiVolume
from cbseg.errors import InputError
from cbseg.prediction.dicom_seg import dicom_seg
from cbseg.prediction.picture import draw
from cbseg.prediction.predictor import Grey
from cbseg.prediction.seg_nrrd import write_seg_nrrd
from cbseg.prediction.segmentation import Segmentation

log = logging.getLogger(__name__)

Writers = dict[str, Callable[[Segmentation, Path], Any]]
"""By a file's suffix, what writes it; it may write nothing."""


class Wishes(NamedTuple):
    """What is to be written beside a CT's labels and picture.

    Attributes:
        dicom_seg: A DICOM Segmentation, ``<ct>.seg.dcm``.
        seg_nrrd: A segmentation of 3D Slicer, ``<ct>.seg.nrrd``.
        probabilities: Those of each class, ``<ct>.<class>.nii.gz``, or ``.png`` of a picture.
        lungs: Labels of the CT's lungs as NIfTI, or a folder of them, named as the CTs' labels are.
    """

    dicom_seg: bool = False
    seg_nrrd: bool = False
    probabilities: bool = False
    lungs: Path | None = None


def volume_writers(volume: NiftiVolume | DicomSeries, classes: tuple[str, ...], run: str, wishes: Wishes) -> Writers:
    """Say how each file of a volume's prediction is written; the labels come first."""

    def segment_dicom(of: Segmentation, path: Path) -> None:
        try:
            if not isinstance(volume, DicomSeries):
                raise InputError(f"{volume.name}: is no DICOM series, so there is no DICOM Segmentation of it")
            dicom_seg(volume, of.classes, classes, run).save_as(path)
        except InputError as error:
            log.warning("%s; its other results are written", error)

    _, rows, columns = volume.spacing
    writers: Writers = {
        ".nii.gz": lambda of, path: volume.to_nifti(of.classes).to_filename(path),
        ".png": lambda of, path: draw(of, rows / columns).savefig(path, dpi=110),
    }
    if wishes.dicom_seg:
        writers[".seg.dcm"] = segment_dicom
    if wishes.seg_nrrd:
        writers[".seg.nrrd"] = lambda of, path: write_seg_nrrd(path, volume.to_nifti(of.classes), classes)
    if wishes.probabilities:
        for k, name in enumerate(classes):
            writers[f".{_in_file_name(name)}.nii.gz"] = lambda of, path, k=k: _write_shares(  # type: ignore[misc]
                path, volume, of.probabilities[k]
            )
    return writers


def picture_writers(classes: tuple[str, ...], wishes: Wishes) -> Writers:
    """Say how each file of a picture's prediction is written; the labels come first."""
    if wishes.dicom_seg or wishes.seg_nrrd or wishes.lungs:
        log.warning("of pictures there is no DICOM Segmentation, no .seg.nrrd and no share of the lungs")
    writers: Writers = {
        ".png": lambda of, path: Image.fromarray(of.classes[0] * (255 // len(classes))).save(path),
        ".overlay.png": lambda of, path: draw(of, 1.0).savefig(path, dpi=110),
    }
    if wishes.probabilities:
        for k, name in enumerate(classes):
            writers[f".{_in_file_name(name)}.png"] = lambda of, path, k=k: (  # type: ignore[misc]
                Image.fromarray(of.probabilities[k, 0]).save(path)
            )
    return writers


def refuse_existing(files: list[Path]) -> None:
    """Refuse to overwrite what lies there.

    Raises:
        InputError: If one of the files is there.
    """
    for path in files:
        if path.exists():
            raise InputError(f"{path}: is there already; move it, give another folder with --out, or rename the CT")


def write_whole(files: dict[Path, Callable[[Path], Any]], record: Callable[[], None]) -> None:
    """Write some files, then record them; if anything fails, none is left behind.

    Args:
        files: What writes each; one that writes nothing is left out.
        record: Is called when all are written, before they get their names.

    Raises:
        OSError: If one cannot be written.
    """
    parts = {path.with_name(f".part-{path.name}"): path for path in files}
    try:
        for part, path in parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            files[path](part)
        record()
        for part, path in parts.items():
            if part.exists():
                part.replace(path)
    finally:
        for part in parts:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def _write_shares(path: Path, volume: NiftiVolume | DicomSeries, likely: Grey) -> None:
    """Write probabilities of 0 to 1, a byte each."""
    image = volume.to_nifti(likely)
    image.header.set_slope_inter(1 / 255, 0)
    image.header["cal_max"] = 1
    image.to_filename(path)


def _in_file_name(text: str) -> str:
    """Leave out of a class's name what a file's cannot have.

    >>> _in_file_name("ggo/left 1")
    'ggo_left_1'
    """
    return re.sub(r"[^\w.-]", "_", text)
