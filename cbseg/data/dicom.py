"""DICOM series: one file a slice, put in order by where the slices lie."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut

from cbseg.data.volumes import MOST_TILT, require_numbers
from cbseg.errors import InputError

log = logging.getLogger(__name__)

AIR = -1024.0  # HU; scanners pad outside the field of view with less
_TOLERANCE = 0.01  # of direction cosines, and of the distance between pixels, mm
_PLACE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}
_GAP = 1.5  # times the usual distance between slices: then one is missing


class DicomSeries:
    """A folder's or list's DICOM files as axial slices; see :class:`cbseg.data.volumes.Volume`.

    Slices are ordered by their position along the slice normal, never by file name. Localizers are left out, with a
    warning. A missing Modality is warned of, another than CT is refused.

    Args:
        files: The files of one series.
        name: What to call it in messages.

    Attributes:
        files: In order, from the foot.

    Raises:
        InputError: If a file is no DICOM image of a CT series; if series, sizes or orientations are mixed; if slices
            are not axial; if two lie at one place, or one is missing. The message names the files.
    """

    def __init__(self, files: list[Path], name: str) -> None:
        self.name = name
        headers = {path: _header(path) for path in sorted(files)}
        for path in [path for path, header in headers.items() if "LOCALIZER" in header.get("ImageType", [])]:
            log.warning("%s: a localizer, left out", path)
            del headers[path]
        if not headers:
            raise InputError(f"{name}: holds no CT slices")
        unnamed = [path for path, header in headers.items() if not header.get("Modality")]
        if unnamed:
            log.warning("%s: %d files have no Modality, such as %s; read as CT", name, len(unnamed), unnamed[0].name)
        for key, what in (("SeriesInstanceUID", "series"), ("Rows", "heights"), ("Columns", "widths")):
            _require_one(headers, key, what)
        first = next(iter(headers))
        for key, what in (("ImageOrientationPatient", "orientation"), ("PixelSpacing", "spacing")):
            usual = np.array(headers[first][key].value, float)
            for path, header in headers.items():
                values = np.array(header[key].value, float)
                if np.abs(values - usual).max() > _TOLERANCE:
                    raise InputError(
                        f"{path}: its {key} is {values.tolist()}, that of {first.name} {usual.tolist()}; "
                        f"keep slices of one {what} in a folder"
                    )
        orientation = np.array(headers[first].ImageOrientationPatient, float)
        self._right, self._down = orientation[:3], orientation[3:]
        self._normal = np.cross(self._right, self._down)
        if min(abs(self._normal[2]), abs(self._right[0])) < np.cos(np.radians(MOST_TILT)):
            raise InputError(
                f"{first}: is not an axial slice (orientation {orientation.tolist()}); cbseg reads axial CT"
            )
        self._towards_head = self._normal * np.sign(self._normal[2])  # whichever way the normal points
        self._headers = headers
        self.files, self.spacing = self._ordered()

    def _ordered(self) -> tuple[list[Path], tuple[float, float, float]]:
        height = {
            path: float(np.array(header.ImagePositionPatient, float) @ self._towards_head)
            for path, header in self._headers.items()
        }
        files = sorted(height, key=height.__getitem__)
        steps = np.diff([height[path] for path in files])
        usual = float(np.median(steps)) if len(steps) else float(self._headers[files[0]].get("SliceThickness") or 1.0)
        for below, above, step in zip(files, files[1:], steps, strict=False):
            if step < 1e-3:
                raise InputError(f"{above}: lies at the same position as {below.name}; remove one of them")
            if step > _GAP * usual:
                raise InputError(
                    f"{self.name}: between {below.name} and {above.name} are {step:.2f} mm, elsewhere {usual:.2f} mm: "
                    f"about {round(step / usual) - 1} slice(s) are missing; complete the series"
                )
        rows, columns = (float(x) for x in self._headers[files[0]].PixelSpacing)
        return files, (usual, rows, columns)

    @property
    def orientation(self) -> str:
        """Where columns, rows and slices run to."""
        return ("L" if self._right[0] > 0 else "R") + ("P" if self._down[1] > 0 else "A") + "S"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        header = self._headers[self.files[0]]
        return len(self.files), int(header.Rows), int(header.Columns)

    def slice(self, k: int) -> NDArray[np.floating]:
        """Slice ``k`` from the foot, HU, (H, W) float32; row 0 is anterior, column 0 the patient's right.

        Raises:
            InputError: If its pixels cannot be decoded.
        """
        return np.maximum(self.to_canonical(read_values(self.files[k])), AIR)

    def to_canonical(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Turn a slice as it is stored so that row 0 is anterior and column 0 the patient's right."""
        return stored[:: 1 if self._down[1] > 0 else -1, :: 1 if self._right[0] > 0 else -1]

    def to_nifti(self, labels: NDArray[np.uint8]) -> nib.Nifti1Image:
        """Labels of its slices as an image that lies where the series lies.

        Shape:
            - labels: :math:`(S, H, W)`, as :meth:`slice` gives slices; output: :math:`(W, H, S)`.
        """
        first, last = (
            np.array(self._headers[path].ImagePositionPatient, float) for path in (self.files[0], self.files[-1])
        )
        between, rows, columns = self.spacing
        right, down = self._right * columns, self._down * rows
        steps = len(self.files) - 1
        up = (last - first) / steps if steps else self._towards_head * between
        _, height, width = self.shape
        if right[0] < 0:
            first, right = first + right * (width - 1), -right
        if down[1] < 0:
            first, down = first + down * (height - 1), -down
        affine = np.eye(4)
        affine[:3] = np.column_stack([right, down, up, first])
        image = nib.Nifti1Image(labels.transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ affine)  # DICOM is LPS, NIfTI RAS
        image.header.set_xyzt_units("mm")
        return image


def dicom_files(folder: Path) -> list[Path]:
    """A folder's files, sorted by name: in a folder of a DICOM series all are its slices, but hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def read_values(path: Path) -> NDArray[np.float32]:
    """Decode a file's pixels and apply its rescale slope and intercept.

    Shape:
        - output: :math:`(H, W)`, as stored.

    Raises:
        InputError: If its pixels cannot be decoded, or are not one slice of numbers.
    """
    try:
        dataset = pydicom.dcmread(path)
        values = apply_modality_lut(dataset.pixel_array, dataset).astype(np.float32)
    except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError, OSError) as error:
        raise InputError(f"{path}: its pixels cannot be decoded ({error}); copy or export it again") from error
    if values.ndim != 2:
        raise InputError(
            f"{path}: holds {' × '.join(map(str, values.shape))} values, a slice has rows × columns; export colour or "
            "multi-frame images as grey values, a file for each slice"
        )
    require_numbers(values, str(path))
    return values


def read_header(path: Path) -> pydicom.Dataset:
    """Read all of a DICOM image's tags but its pixels.

    Raises:
        InputError: If it is no DICOM file, or holds no pixels.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        has_pixels = "PixelData" in pydicom.dcmread(path, defer_size=1024, specific_tags=["PixelData"])
    except (InvalidDicomError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a DICOM file ({error}); remove it or export it again") from error
    if not has_pixels:
        raise InputError(f"{path}: holds no pixel data; remove it or export it again")
    return header


def _header(path: Path) -> pydicom.Dataset:
    """Read the header of a CT slice that can be placed, or of a localizer."""
    header = read_header(path)
    if header.get("Modality") not in (None, "", "CT"):
        raise InputError(f"{path}: its Modality is {header.Modality}, not CT; remove it")
    if "LOCALIZER" not in header.get("ImageType", []):
        for key, count in _PLACE.items():
            if key not in header:
                raise InputError(f"{path}: has no {key}, so it cannot be placed in its series; export it again")
            if not _is_numbers(header, key, count):
                raise InputError(f"{path}: its {key} is empty or malformed; export it again")
    return header


def _is_numbers(header: pydicom.Dataset, key: str, count: int) -> bool:
    """Whether a tag holds so many numbers, and positive ones if they are sizes."""
    try:
        numbers = np.array(header[key].value, float).ravel()
    except (TypeError, ValueError):
        return False
    is_size = key in ("PixelSpacing", "Rows", "Columns")
    return numbers.size == count and bool(np.isfinite(numbers).all()) and not (is_size and numbers.min() <= 0)


def _require_one(headers: dict[Path, pydicom.Dataset], key: str, what: str) -> None:
    """Refuse a folder whose files differ in a tag, and name one of the odd ones."""
    counts = Counter(str(header.get(key)) for header in headers.values())
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd = next(path for path, header in headers.items() if str(header.get(key)) != usual)
        raise InputError(
            f"{odd}: its {key} is {headers[odd].get(key)}, that of {counts[usual]} others {usual}: mixed {what} in one "
            "folder; put each series into a folder of its own"
        )
