"""DICOM series: slices put in order by where they lie, as one volume."""

import logging
import os
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cbseg.data.dicom_series import ct_slices, require_alike, without_copies
from cbseg.data.dicom_slice import DicomSlice
from cbseg.data.grid import MOST_TILT, Grid
from cbseg.data.reading import reading
from cbseg.errors import InputError

log = logging.getLogger(__name__)

_GAP = 1.5  # times the usual distance between slices: then one is missing
_MOST_OFF = 0.5  # voxels, that a slice may lie beside the even grid
_LEAST_DRIFT = 0.1  # pixels, from which on slices count as stacked aslant
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM is LPS, NIfTI RAS


class DicomSeries:
    """The CT series among some DICOM files as axial slices; see :class:`cbseg.data.volumes.Volume`.

    Slices are ordered by their position along the slice normal, never by file name. What is no slice is left out with a
    warning; see :func:`cbseg.data.dicom_series.find_series`. A missing Modality is warned of, another than CT is
    refused. Slices at uneven distances are warned of, as labels could not be written on one grid.

    Args:
        files: The files of one series, and what lies beside them.
        name: What to call it in messages.

    Attributes:
        slices: From the foot.
        files: Of each slice.

    Raises:
        InputError: If a file is damaged; if series, sizes, orientations or scales are mixed; if slices are not axial;
            if two lie at one place, or one is missing. The message names the files.
    """

    def __init__(self, files: list[Path], name: str) -> None:
        self.name = name
        slices = without_copies(ct_slices(files, name))
        require_alike(slices)
        right, down = slices[0].orientation[:3], slices[0].orientation[3:]
        normal = np.cross(right, down)
        if abs(normal[2]) < np.cos(np.radians(MOST_TILT)):
            raise InputError(
                f"{slices[0].path}: is not an axial slice (orientation {slices[0].orientation.tolist()}); cbseg reads "
                "axial CT"
            )
        self._towards_head = normal * np.sign(normal[2])  # whichever way the normal points
        self.slices = sorted(slices, key=self._height)
        self.files = [one.path for one in self.slices]
        self._require_complete()
        affine = self._affine()
        rows, columns = slices[0].shape
        self.grid = Grid(_TO_RAS @ affine, (columns, rows, len(slices)), name)
        self.orientation, self.shape, self.spacing = self.grid.orientation, self.grid.shape, self.grid.spacing
        self._uneven = self._off_grid(affine)
        if self._uneven:
            log.warning("%s", self._uneven)

    def _height(self, one: DicomSlice) -> float:
        return float(one.position @ self._towards_head)

    def _require_complete(self) -> None:
        """Refuse slices at one place, and a gap where the slices around it lie closer."""
        steps = np.diff([self._height(one) for one in self.slices])
        if not steps.size:
            return
        if (steps < 1e-3).any():
            self._refuse_doubles(steps)
        usual = float(np.median(steps))
        gaps = (steps > _GAP * usual) & (np.abs(steps / usual - np.round(steps / usual)) < 1 - _GAP / 2)
        planned = np.convolve(gaps, [1, 1]).max() > 1  # two wide steps in a row: another distance, and nothing missing
        if gaps.any() and not planned:
            k = int(gaps.argmax())
            raise InputError(
                f"{self.name}: between {self.files[k].name} and {self.files[k + 1].name} are {steps[k]:.2f} mm, "
                f"elsewhere {usual:.2f} mm: about {round(steps[k] / usual) - 1} slice(s) are missing; complete it"
            )

    def _refuse_doubles(self, steps: NDArray[np.float64]) -> None:
        k = int((steps < 1e-3).argmax())
        places = 1 + int((steps >= 1e-3).sum())
        if len(self.files) % places == 0 and len(self.files) > places > 1:
            raise InputError(
                f"{self.name}: holds {len(self.files) // places} images at each of {places} places, such as "
                f"{self.files[k].name} and {self.files[k + 1].name}: phases, reconstructions or copies in one series; "
                "put each into a folder of its own"
            )
        raise InputError(f"{self.files[k + 1]}: lies at the same position as {self.files[k].name}; remove one of them")

    def _affine(self) -> NDArray[np.float64]:
        """Return the affine from (column, row, slice) to the patient's coordinates (LPS), for even distances."""
        first, last, steps = self.slices[0], self.slices[-1], len(self.slices) - 1
        rows, columns = first.spacing
        across = last.position - first.position
        drift = across - (across @ self._towards_head) * self._towards_head
        if not steps:
            up = self._towards_head * self._thickness()
        elif np.linalg.norm(drift) < _LEAST_DRIFT * min(rows, columns):
            up = self._towards_head * (across @ self._towards_head) / steps
        else:
            up = across / steps
        affine = np.eye(4)
        axes = [first.orientation[:3] * columns, first.orientation[3:] * rows, up]
        affine[:3] = np.column_stack([*axes, first.position])
        return affine

    def _thickness(self) -> float:
        """Return a lone slice's thickness, mm."""
        (one,) = self.slices
        try:
            raw = one.tags.get_item("SliceThickness").value
            thickness = float((raw.decode() if isinstance(raw, bytes) else str(raw)).strip("\0 ").replace(",", "."))
        except (KeyError, AttributeError, ValueError):
            thickness = np.nan
        if np.isfinite(thickness) and thickness > 0:
            return thickness
        log.warning(
            "%s: its SliceThickness is missing or malformed; 1 mm is taken, and millilitres are of that", one.path
        )
        return 1.0

    def _off_grid(self, affine: NDArray[np.float64]) -> str:
        """Tell which slice lies farthest beside the even grid; nothing if it is less than half a voxel."""
        places = np.array([one.position for one in self.slices]) - affine[:3, 3]
        voxels = np.linalg.solve(affine[:3, :3], places.T).T
        voxels[:, 2] -= np.arange(len(voxels))
        worst = int(np.abs(voxels).max(axis=1).argmax())
        if np.abs(voxels[worst]).max() <= _MOST_OFF:
            return ""
        steps = np.diff([self._height(one) for one in self.slices])
        off = float(np.linalg.norm(affine[:3, :3] @ voxels[worst]))
        return (
            f"{self.name}: its slices do not lie on one even grid (distances from {steps.min():.2f} to "
            f"{steps.max():.2f} mm; {self.files[worst].name} is {off:.1f} mm beside it), so labels cannot "
            "be written where they belong; "
            "reconstruct or resample it at even distances, or give the parts in folders of their own"
        )

    def require_grid(self) -> None:
        """Refuse a series whose labels could not be written where they belong.

        Raises:
            InputError: If a slice lies more than half a voxel beside the even grid.
        """
        if self._uneven:
            raise InputError(self._uneven)

    def slice(self, k: int) -> NDArray[np.floating]:
        """Read slice ``k`` from the foot, HU, (H, W) float32; row 0 is anterior, column 0 the patient's right.

        Raises:
            InputError: If its pixels cannot be decoded.
        """
        return self.grid.to_canonical(self.slices[k].values().T)

    def to_canonical(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a slice as it is stored so that row 0 is anterior and column 0 the patient's right."""
        return self.grid.to_canonical(stored.T)

    def to_nifti(self, labels: NDArray[np.uint8]) -> nib.Nifti1Image:
        """Make an image of its slices' labels that lies where the series lies, in canonical orientation.

        Shape:
            - labels: :math:`(S, H, W)`, as :meth:`slice` gives slices; output: :math:`(W, H, S)`.
        """
        image = nib.Nifti1Image(labels.transpose(2, 1, 0), self.grid.canonical_affine)
        image.header.set_xyzt_units("mm")
        return image


def dicom_files(folder: Path) -> list[Path]:
    """Find all files below a folder but hidden ones, sorted by path: a DICOM file can have any name.

    Links to folders are followed, each folder once.

    Raises:
        InputError: If the folder, or one below it, cannot be read.
    """
    with reading(folder, advice="check the folder and its permissions"):
        found, seen = [], set()
        for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
            real = os.path.realpath(place)
            folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
            if real not in seen:
                found += [Path(place, name) for name in files if not name.startswith(".")]
            seen.add(real)
        return sorted(path for path in found if path.is_file())


def _raise(error: OSError) -> None:
    raise error
