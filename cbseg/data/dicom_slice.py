"""The slices that a DICOM file holds: where each lies, and its values in HU."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import apply_modality_lut

from cbseg.data.dicom_file import has_pixels, read_stored, storage_class
from cbseg.data.reading import MOST_PIXELS, reading, require_room
from cbseg.data.volumes import AIR, padding_to_air, require_numbers
from cbseg.errors import InputError

_SIZES = ("PixelSpacing", "Rows", "Columns")
_GROUPS = (  # of an enhanced multi-frame file, whose items hold what a classic slice has at its top
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
)


@dataclass(frozen=True, eq=False)
class DicomSlice:
    """One axial slice of a file.

    Args:
        path: The file.
        tags: Those of the slice; of a frame of a multi-frame file, those of its functional groups too.
        frame: Its number in a multi-frame file, from 0.
    """

    path: Path
    tags: pydicom.Dataset
    frame: int | None = None

    def numbers(self, key: str, count: int) -> NDArray[np.float64]:
        """Give a tag's numbers.

        Raises:
            InputError: If there are not so many finite ones, or one is a size and not above 0.
        """
        if key not in self.tags:
            raise InputError(f"{self.path}: has no {key}, so it cannot be placed in its series; export it again")
        try:
            numbers = np.array(self.tags[key].value, float).ravel()
        except (TypeError, ValueError, NotImplementedError):
            numbers = np.empty(0)
        if numbers.size != count or not np.isfinite(numbers).all() or (key in _SIZES and numbers.min() <= 0):
            raise InputError(f"{self.path}: its {key} is empty or malformed; export it again")
        return numbers

    def text(self, key: str) -> str:
        """Give a tag as text, empty where it is missing.

        Raises:
            InputError: If it cannot be read.
        """
        with reading(self.path, f"its {key} is malformed", "export it again"):
            return str(self.tags.get(key) or "")

    @cached_property
    def position(self) -> NDArray[np.float64]:
        """Of its first pixel's centre, mm in the patient's coordinates (LPS)."""
        return self.numbers("ImagePositionPatient", 3)

    @cached_property
    def orientation(self) -> NDArray[np.float64]:
        """Where its rows run to, and its columns: two unit vectors, one after the other."""
        return self.numbers("ImageOrientationPatient", 6)

    @cached_property
    def spacing(self) -> NDArray[np.float64]:
        """Between rows and between columns, mm."""
        return self.numbers("PixelSpacing", 2)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.numbers("Rows", 1)[0]), int(self.numbers("Columns", 1)[0])

    @cached_property
    def rescale(self) -> tuple[float, float] | None:
        """Slope and intercept, or none where the file has neither."""
        if "RescaleSlope" not in self.tags and "RescaleIntercept" not in self.tags:
            return None
        slope, intercept = (
            float(self.numbers(key, 1)[0]) if key in self.tags else usual
            for key, usual in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
        )
        if slope == 0:
            raise InputError(f"{self.path}: its RescaleSlope is 0; export it again")
        return slope, intercept

    @cached_property
    def _decoded(self) -> NDArray[Any]:
        """Compressed pixels, decoded once and kept in their stored type."""
        return read_stored(self.path, self.tags, self.frame)

    def values(self) -> NDArray[np.floating]:
        """Read the HU, (rows, columns) float32 as stored; padding is air.

        Raises:
            InputError: If the pixels cannot be decoded.
        """
        with reading(self.path, "its pixels cannot be decoded"):
            compressed = self.tags.file_meta.TransferSyntaxUID.is_encapsulated
            stored = self._decoded if compressed else read_stored(self.path, self.tags, self.frame)
            if "ModalityLUTSequence" in self.tags:
                values = apply_modality_lut(stored, self.tags).astype(np.float32)
            else:
                slope, intercept = self.rescale or (1.0, 0.0)
                values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
            values[self._padding(stored)] = AIR
        require_numbers(values, str(self.path))
        return padding_to_air(values)

    def _padding(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Find where the scanner saw nothing: PixelPaddingValue, to PixelPaddingRangeLimit if given."""
        first = self.tags.get("PixelPaddingValue")
        if first is None:
            return np.zeros(stored.shape, bool)
        last = self.tags.get("PixelPaddingRangeLimit", first)
        # written with or without a sign, whatever the pixels are
        low, high = sorted(int(np.array(int(x)).astype(stored.dtype)) for x in (first, last))
        return (stored >= low) & (stored <= high)


def slices_in(path: Path, header: pydicom.Dataset) -> list[DicomSlice]:
    """Return the slices of a file: one, or the frames of an enhanced multi-frame file.

    Raises:
        InputError: If it holds colours, frames without a place, no pixels, or claims more than a CT has.
    """
    with reading(path, "its header is malformed", "export it again"):
        colours = int(header.get("SamplesPerPixel") or 1)
        kind = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
        frames = int(header.get("NumberOfFrames") or 1)
        bits, high_bit = header.get("BitsStored"), header.get("HighBit")
        groups = header.get("PerFrameFunctionalGroupsSequence")
        if not has_pixels(path):
            raise InputError(f"{path}: holds no pixel data; remove it or export it again")
        if colours != 1 or not kind.startswith("MONOCHROME"):
            raise InputError(f"{path}: holds colours ({kind}), a slice has rows × columns; export the CT's grey values")
        if bits and high_bit is not None and int(high_bit) != int(bits) - 1:
            raise InputError(
                f"{path}: its HighBit is {high_bit}, with BitsStored {bits} it is {bits - 1}; export it again"
            )
        if groups is None and (frames > 1 or "Enhanced" in storage_class(header).name):
            raise InputError(
                f"{path}: is a multi-frame file ({frames} × rows × columns) that does not say where each frame lies, a "
                "slice has rows × columns; export it as a file for each slice, or as enhanced CT"
            )
        if groups is not None and len(groups) != frames:
            raise InputError(f"{path}: has {frames} frames, but places for {len(groups)}; export it again")
        found = (
            [DicomSlice(path, header)]
            if groups is None
            else [DicomSlice(path, _flattened(header, k), k) for k in range(frames)]
        )
        rows, columns = found[0].shape
        if rows * columns > MOST_PIXELS:
            raise InputError(f"{path}: claims {rows} × {columns} pixels, more than a CT slice has; export it again")
        require_room(path, rows * columns * frames, 4)
        return found


def _flattened(header: pydicom.Dataset, frame: int) -> pydicom.Dataset:
    """Return a frame's tags as a classic slice has them: what its functional groups hold stands at the top."""
    tags = pydicom.Dataset()
    tags.file_meta = header.file_meta
    for element in header:
        if element.VR != "SQ" or element.keyword == "ModalityLUTSequence":
            tags.add(element)
    shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    for groups in (shared[0], header.PerFrameFunctionalGroupsSequence[frame]):
        for name in _GROUPS:
            for item in groups.get(name) or []:
                tags.update(item)
    return tags
