"""Where a volume's voxels lie, and how its stored axes are turned into the canonical ones and back."""

import itertools
import logging
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cbseg.errors import InputError

log = logging.getLogger(__name__)

CANONICAL = ("L", "P", "S")
"""Columns run to the patient's left, rows to the back, slices to the head: row 0 is anterior, column 0 the right."""

_LPS = np.array([-1.0, -1.0, 1.0])  # times RAS
MOST_TILT = 30.0  # degrees from axial: gantries tilt as far
_LEAST_SHEAR = 0.005  # degrees, at which ITK refuses to read a file


class Grid:
    """Voxels in space.

    Args:
        affine: From stored indices to the patient's coordinates (RAS, as NIfTI has them), mm.
        shape: Of the stored array, three axes.
        name: What to call the volume in messages.

    Attributes:
        orientation: Where the stored axes run to, such as ``LPS``.
        canonical_affine: Of the array turned to ``CANONICAL``: columns, rows, slices.

    Raises:
        InputError: If the affine does not say where the axes run to, or the slices are oblique.
    """

    def __init__(self, affine: NDArray[np.float64], shape: tuple[int, ...], name: str) -> None:
        self.affine, self._stored_shape, self.name = affine, shape, name
        placed = np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 0
        self._stored = nib.io_orientation(affine) if placed else np.full((3, 2), np.nan)
        if np.isnan(self._stored).any():
            raise InputError(
                f"{name}: its affine does not say how it is oriented; set sform or qform and save it again"
            )
        tilt = float(np.degrees(nib.affines.obliquity(affine)).max())
        if tilt > MOST_TILT:
            raise InputError(
                f"{name}: is oblique, {tilt:.0f}° off the patient's axes; cbseg reads axial CT: resample it"
            )
        self.orientation = "".join(nib.aff2axcodes(affine))
        canonical = nib.orientations.axcodes2ornt(CANONICAL)
        to_canonical = nib.orientations.ornt_transform(self._stored, canonical)
        self._from_canonical = nib.orientations.ornt_transform(canonical, self._stored)
        self.canonical_affine = affine @ nib.orientations.inv_ornt_aff(to_canonical, shape)
        # canonical axis -> stored axis, and whether it runs the other way
        self.axes = [int(np.flatnonzero(to_canonical[:, 0] == axis)[0]) for axis in range(3)]
        self.flipped = [bool(to_canonical[axis, 1] < 0) for axis in self.axes]
        if self.shear > _LEAST_SHEAR:
            log.warning(
                "%s: its slices are not stacked at right angles (gantry tilt? %.1f°); labels lie right, but "
                "ITK's viewers (ITK-SNAP, 3D Slicer) refuse sheared NIfTI files: resample it to see them there",
                name,
                self.shear,
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns, in canonical orientation."""
        columns, rows, slices = (self._stored_shape[axis] for axis in self.axes)
        return slices, rows, columns

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between the planes of slices, between rows and columns, mm; their product is a voxel's volume."""
        columns, rows = (float(nib.affines.voxel_sizes(self.affine)[axis]) for axis in self.axes[:2])
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / (rows * columns), rows, columns

    @property
    def shear(self) -> float:
        """How far the direction in which slices are stacked is off their normal, degrees."""
        columns, rows, slices = self.canonical_affine[:3, :3].T
        normal = np.cross(columns, rows)
        cosine = abs(normal @ slices) / (np.linalg.norm(normal) * np.linalg.norm(slices))
        return float(np.degrees(np.arccos(min(cosine, 1.0))))

    def distance_to(self, other: "Grid") -> float:
        """Measure how far voxels of grids of equal shape lie apart: those of the corner where it is most, mm."""
        slices, rows, columns = self.shape
        corners = list(itertools.product((0, columns - 1), (0, rows - 1), (0, slices - 1)))
        apart = nib.affines.apply_affine(self.canonical_affine - other.canonical_affine, corners)
        return float(np.linalg.norm(apart, axis=1).max())

    def stored_slice(self, k: int) -> tuple[int, int]:
        """Return the stored axis across slices, and the index there of slice ``k`` from the foot."""
        return self.axes[2], self.shape[0] - 1 - k if self.flipped[2] else k

    def voxels_at(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Return the slice, row and column of the voxels nearest to some places; a place outside has none of ours.

        Args:
            positions: In the patient's coordinates (LPS, as DICOM and 3D Slicer have them), mm.

        Shape:
            - positions: :math:`(N, 3)`; output: :math:`(N, 3)`.
        """
        homogeneous = np.column_stack([np.asarray(positions, float) * _LPS, np.ones(len(positions))])  # type: ignore[arg-type]
        stored = np.floor(np.linalg.solve(self.affine, homogeneous.T).T[:, :3] + 0.5)[:, self.axes].astype(np.int64)
        last = np.array(self._stored_shape)[self.axes] - 1
        return np.where(self.flipped, last - stored, stored)[:, ::-1]

    def positions_of(self, voxels: ArrayLike) -> NDArray[np.float64]:
        """Return where the centres of some voxels lie; the other way of :meth:`voxels_at`.

        Args:
            voxels: Slice, row and column of each, which may lie outside.

        Shape:
            - voxels: :math:`(N, 3)`; output: :math:`(N, 3)`, LPS, mm.
        """
        return nib.affines.apply_affine(self.canonical_affine, np.asarray(voxels, float)[:, ::-1]) * _LPS

    def to_canonical(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Turn a slice, whose axes are the other stored ones in their order: row 0 anterior, column 0 right."""
        columns, rows, _ = self.axes
        turned = stored.T if columns < rows else stored
        return turned[:: -1 if self.flipped[1] else 1, :: -1 if self.flipped[0] else 1]

    def to_stored(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Turn a volume of canonical slices, (S, H, W), to the stored array."""
        return nib.orientations.apply_orientation(volume.transpose(2, 1, 0), self._from_canonical)
