"""COVID-19-B as the paper's authors had it: DICOM slices exported from NIfTI, and PNG masks, paired by slice number.

The DICOM files were written by (X)MedCon: Modality NM, neither position nor orientation, up to ten series UIDs a scan,
and 12-bit grey values that are no HU. That holds for these files alone; everybody's CT is read by ``dicom.py``.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from cbseg.data.dicom import DicomSeries
from cbseg.data.dicom_file import read_header, read_stored
from cbseg.data.reading import reading
from cbseg.data.scans import read_labels
from cbseg.data.volumes import Volume
from cbseg.errors import InputError

log = logging.getLogger(__name__)

_WHITE = 4095  # the stored value of white, 12 bits
_NEEDED = {"Modality": "NM", "SamplesPerPixel": 1, "NumberOfFrames": 1, "RescaleSlope": 1, "RescaleIntercept": 0}
_ABSENT = {"NumberOfFrames": 1, "RescaleSlope": 1, "RescaleIntercept": 0}  # what a tag means that is not there


class ExportedSeries:
    """The authors' exported slices of one scan; see :class:`cbseg.data.volumes.Volume`.

    A slice's place is the number in its file's name, from the foot. Row 0 is anterior, column 0 the patient's right.

    Args:
        files: The files of one scan.
        name: What to call it in messages.

    Attributes:
        files: In order, from the foot.

    Raises:
        InputError: If a file has no number, two have the same, or one is missing between them; if a file is no such
            export, or its size is another than the first one's. The message names the file.
    """

    orientation = "LPS"

    def __init__(self, files: Sequence[Path], name: str) -> None:
        self.name = name
        by_number: dict[int, Path] = {}
        for path in files:
            other = by_number.setdefault(slice_number(path), path)
            if other != path:
                raise InputError(f"{path}: has the slice number of {other.name}; keep one of them")
        numbers = sorted(by_number)
        for before, number in pairwise(numbers):
            if number != before + 1:
                raise InputError(f"{name}: has slices {before} and {number}, and none between; complete the scan")
        self.files = [by_number[number] for number in numbers]
        self._headers = headers = [read_header(path) for path in self.files]
        sizes: list[tuple[int, int]] = []
        for path, header in zip(self.files, headers, strict=True):
            with reading(path, "its header is malformed", "put the original file there"):
                _require_export(path, header)
                size = (int(header.Rows), int(header.Columns))
            sizes.append(size)
            if size != sizes[0]:
                raise InputError(
                    f"{path}: has {size[0]} × {size[1]} pixels, {self.files[0].name} {sizes[0][0]} × {sizes[0][1]}; "
                    "keep slices of one size in a folder"
                )
        self.shape = (len(self.files), *sizes[0])
        with reading(self.files[0], "has no spacing", "put the original file there"):
            between = float(headers[0].get("SpacingBetweenSlices") or headers[0].SliceThickness)
            rows, columns = map(float, headers[0].PixelSpacing)
        self.spacing = (between, rows, columns)

    def slice(self, k: int) -> NDArray[np.floating]:
        """Read slice ``k`` from the foot: grey values 0…255, 255 · stored / 4095, (H, W) float32.

        Raises:
            InputError: If its pixels cannot be decoded, or are more than 12 bits.
        """
        stored = read_stored(self.files[k], self._headers[k]).astype(np.float32)
        if stored.min() < 0 or stored.max() > _WHITE:
            raise InputError(
                f"{self.files[k]}: holds values {stored.min():g}…{stored.max():g}, the authors' files 0…{_WHITE}; "
                "put the original file there"
            )
        return stored * np.float32(255 / _WHITE)

    def to_canonical(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Give a slice as it is: it is stored as it is shown."""
        return stored


def open_series(files: Sequence[Path], name: str) -> "ExportedSeries | DicomSeries":
    """Open a scan's DICOM files: the authors' exports, or a CT series in HU in their layout.

    Raises:
        InputError: If the files are neither.
    """
    for path in sorted(files):
        try:
            with reading(path):
                exported = read_header(path).get("Modality") == "NM"
        except InputError:  # what lies beside the slices; who reads them all names it
            continue
        return ExportedSeries(files, name) if exported else DicomSeries(list(files), name)
    return DicomSeries(list(files), name)


def _require_export(path: Path, header: pydicom.Dataset) -> None:
    """Refuse a file that is not like the authors'."""
    for key, expected in _NEEDED.items():
        found = header.get(key) if header.get(key) is not None else _ABSENT.get(key)
        if found != expected:  # pydicom's numbers compare as such
            raise InputError(
                f"{path}: its {key} is {found}, in the authors' files {expected}; put the original file there, or a CT "
                "series in HU for the whole scan"
            )


class PngMasks:
    """The authors' PNG masks of one DICOM series, as a volume.

    Each file is stored mirrored and turned relative to its slice: mirrored back left to right and turned by 90°
    counter-clockwise it lies on it. A file's slice number is that in the DICOM file's name. A slice without a mask file
    has no infection; how many those are is warned of.

    Args:
        files: Each slice number's mask.
        series: The images.

    Raises:
        InputError: If a mask's slice is not in the series.
    """

    def __init__(self, files: Mapping[int, Path], series: Volume) -> None:
        assert isinstance(series, ExportedSeries | DicomSeries)
        self.name = str(next(iter(files.values())).parent)
        self.series = series
        numbers = [slice_number(path) for path in series.files]
        if len(set(numbers)) < len(numbers):
            raise InputError(f"{series.name}: its slices have no number of their own; put a file for each slice there")
        for number in sorted(set(files) - set(numbers)):
            raise InputError(f"{files[number]}: {series.name} has no slice {number}; add the slice or remove the mask")
        self.files = [files.get(number) for number in numbers]
        if without := self.files.count(None):
            log.warning("%s: %d of %d slices have no mask file, so no infection", series.name, without, len(numbers))

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
        """Read the mask of slice ``k`` from the foot, (H, W) float32: 0, and 127 or 255 on infections.

        Raises:
            InputError: If the file cannot be read or has another size than its slice.
        """
        path = self.files[k]
        _, rows, columns = self.series.shape
        if path is None:
            return np.zeros((rows, columns), np.float32)
        labels = self.series.to_canonical(np.rot90(np.fliplr(read_labels(path))))
        if labels.shape != (rows, columns):
            raise InputError(
                f"{path}: is {labels.shape[1]} × {labels.shape[0]} pixels once turned, its slice "
                f"{self.series.files[k].name} {columns} × {rows}. Are they a pair?"
            )
        return labels.astype(np.float32)


def slice_number(path: Path) -> int:
    """Give the number in a DICOM file's name: ``…s0012.dcm`` is slice 12.

    Raises:
        InputError: If there is none.

    >>> slice_number(Path("DCM1/m005-s0012-2.dcm"))
    12
    """
    number = re.search(r"s(\d{4})(?!.*s\d{4})", path.name)
    if number is None:
        raise InputError(
            f"{path}: its name has no slice number (s and four digits); rename it as in the authors' layout"
        )
    return int(number[1])
