"""NIfTI volumes, whatever way they are stored."""

import logging
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from cbseg.data.volumes import CANONICAL, MOST_TILT, Volume, require_numbers
from cbseg.errors import InputError

log = logging.getLogger(__name__)

_CANONICAL = nib.orientations.axcodes2ornt(CANONICAL)
_SAME_PLACE = 0.01  # mm, in any entry of the affine
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}  # in the header's unit of length; others are mm


class NiftiVolume:
    """A NIfTI file as axial slices; see :class:`cbseg.data.volumes.Volume`.

    The header is read at once. An uncompressed file is read slice by slice; a compressed one is unpacked at the first
    slice, in its stored type.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.

    Raises:
        InputError: If the file is missing, is no NIfTI, has not three dimensions of numbers, or is oblique.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        try:
            image: Any = nib.load(path)
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file") from error
        except (ImageFileError, OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: not a readable NIfTI file ({error}); download or export it again") from error
        self.image = image
        if self.image.ndim != 3 or min(self.image.shape) < 1:
            raise InputError(
                f"{path}: has {self.image.ndim} dimensions {self.image.shape}, a CT volume has three; "
                "save one volume a file"
            )
        if (kind := self.image.get_data_dtype()).kind not in "iuf":
            raise InputError(f"{path}: holds {kind} values, colours or complex numbers; save the CT's own values")
        self.affine: NDArray[np.float64] = self.image.affine
        placed = np.isfinite(self.affine).all()
        self._orientation = nib.io_orientation(self.affine) if placed else np.full((3, 2), np.nan)
        if np.isnan(self._orientation).any():
            raise InputError(
                f"{path}: its affine does not say how it is oriented; set sform or qform and save it again"
            )
        tilt = float(np.degrees(nib.affines.obliquity(self.affine)).max())
        if tilt > MOST_TILT:
            raise InputError(
                f"{path}: is oblique, {tilt:.0f}° off the patient's axes; cbseg reads axial CT: resample it"
            )
        self.orientation = "".join(nib.aff2axcodes(self.affine))
        if not (self.image.header["sform_code"] or self.image.header["qform_code"]):
            log.warning(
                "%s: its header does not say how it lies (sform_code and qform_code are 0), so it is read as %s; "
                "where that is wrong its slices lie upside down: set sform or qform",
                path,
                self.orientation,
            )
        to_canonical = nib.orientations.ornt_transform(self._orientation, _CANONICAL)
        self._canonical_affine = self.affine @ nib.orientations.inv_ornt_aff(to_canonical, self.image.shape)
        # canonical axis -> stored axis, and whether it runs the other way
        self._axes = [int(np.flatnonzero(to_canonical[:, 0] == axis)[0]) for axis in range(3)]
        self._flipped = [to_canonical[axis, 1] < 0 for axis in self._axes]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns, in canonical orientation."""
        columns, rows, slices = (self.image.shape[axis] for axis in self._axes)
        return slices, rows, columns

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between the planes of slices, between rows and columns, mm; their product is a voxel's volume."""
        scale = _MILLIMETRES.get(self.image.header.get_xyzt_units()[0], 1.0)
        columns, rows = (scale * float(nib.affines.voxel_sizes(self.affine)[axis]) for axis in self._axes[:2])
        volume = scale**3 * abs(float(np.linalg.det(self.affine[:3, :3])))
        return volume / (rows * columns), rows, columns

    def distance_to(self, other: "NiftiVolume") -> float:
        """How far volumes of equal shape lie apart: the largest difference of their canonical grids' affines, mm."""
        return float(np.abs(self._canonical_affine - other._canonical_affine).max())

    @cached_property
    def _stored(self) -> Any:
        """Stored values, sliceable: lazy for an uncompressed file, in memory for a compressed one."""
        return self.image.dataobj.get_unscaled() if self.name.endswith(".gz") else self.image.dataobj

    def slice(self, k: int) -> NDArray[np.floating]:
        """Slice ``k`` from the foot, (H, W) float32; row 0 is anterior, column 0 the patient's right.

        Raises:
            InputError: If the file ends early or is damaged, or the slice holds NaN.
        """
        columns, rows, slices = self._axes
        where: list[Any] = [slice(None)] * 3
        where[slices] = self.shape[0] - 1 - k if self._flipped[2] else k
        try:
            values = np.asarray(self._stored[tuple(where)], np.float32)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise InputError(f"{self.path}: ends early or is damaged ({error}); download or copy it again") from error
        if self.name.endswith(".gz"):  # unpacked without nibabel's scaling
            values = values * np.float32(self.image.dataobj.slope) + np.float32(self.image.dataobj.inter)
        values = values.T if columns < rows else values
        values = values[:: -1 if self._flipped[1] else 1, :: -1 if self._flipped[0] else 1]
        require_numbers(values, f"{self.path}, slice {k}")
        return values

    def to_nifti(self, labels: NDArray[np.uint8]) -> nib.Nifti1Image:
        """Labels of its slices as an image on the grid on which the file is stored.

        Shape:
            - labels: :math:`(S, H, W)`, as :meth:`slice` gives slices; output: the file's shape.
        """
        from_canonical = nib.orientations.ornt_transform(_CANONICAL, self._orientation)
        stored = nib.orientations.apply_orientation(labels.transpose(2, 1, 0), from_canonical)
        image = nib.Nifti1Image(stored, self.affine, self.image.header, dtype=np.uint8)
        image.header["cal_min"] = image.header["cal_max"] = 0  # the CT's display range
        return image


def nifti_files(folder: Path) -> list[Path]:
    """The NIfTI files in a folder, compressed or not, sorted by name.

    Raises:
        InputError: If there is none.
    """
    found = sorted([*folder.glob("*.nii"), *folder.glob("*.nii.gz")])
    if not found:
        raise InputError(f"{folder}: holds no NIfTI files; put the dataset's there")
    return found


def open_nifti_mask(path: Path, image: Volume) -> NiftiVolume:
    """A NIfTI mask of a NIfTI image.

    Raises:
        InputError: If the mask cannot be read, or lies elsewhere in space than its image.
    """
    mask = NiftiVolume(path)
    if isinstance(image, NiftiVolume) and mask.shape == image.shape and mask.distance_to(image) > _SAME_PLACE:
        raise InputError(
            f"{path}: lies elsewhere than its image {image.path.name} (their affines differ by up to "
            f"{mask.distance_to(image):.3g}); resample the mask to the image, or correct its header"
        )
    return mask
