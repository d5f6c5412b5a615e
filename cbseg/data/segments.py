"""Segmentations of 3D Slicer, ``.seg.nrrd``, on their CT's grid. Needs slicerio, of the extra ``viewer``."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cbseg.data.dicom import DicomSeries
from cbseg.data.markups import class_name
from cbseg.data.nifti import NiftiVolume
from cbseg.data.reading import reading
from cbseg.errors import InputError

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MOST_OFF = 0.05  # voxels, that one of its own may lie beside the CT's

Voxels = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def read_segments(path: Path, image: NiftiVolume | DicomSeries) -> Iterator[tuple[str, Voxels]]:
    """Read a segmentation's segments, which may overlap.

    Slicer may store less than the whole CT, and turned, so each voxel is found by where it lies.

    Args:
        path: A ``.seg.nrrd`` file.
        image: The CT.

    Yields:
        Each segment's class, see :func:`cbseg.data.markups.class_name`, and its voxels' slices from the foot, rows and
        columns.

    Raises:
        InputError: If the file cannot be read, slicerio is not there, or the voxels are not the CT's.
    """
    try:
        import slicerio
    except ImportError as error:
        raise InputError(f"{path}: needs slicerio to be read; pip install -e '.[viewer]'") from error
    with reading(path, "not a readable segmentation of 3D Slicer", "save it again in Slicer"):
        found = slicerio.read_segmentation(str(path))
        layers = found["voxels"] if found["voxels"].ndim == 4 else found["voxels"][None]
        segments = [(s["name"], int(s["labelValue"]), int(s.get("layer", 0))) for s in found["segments"]]
    affine = _TO_RAS @ found["ijkToLPS"]
    voxels_to_ct = np.linalg.solve(image.grid.affine, affine)
    ends = np.array(np.meshgrid(*[[0, size - 1] for size in layers.shape[1:]])).reshape(3, -1)
    corners = voxels_to_ct[:3, :3] @ ends + voxels_to_ct[:3, 3:]
    off = max(np.abs(x - x.round()).max() for x in (voxels_to_ct[:3, :3], corners))
    if off > _MOST_OFF or not np.isclose(abs(np.linalg.det(voxels_to_ct[:3, :3])), 1, atol=_MOST_OFF):
        raise InputError(
            f"{path}: lies on another grid than its CT {image.name}; in Slicer's Segment Editor choose the CT as "
            "source volume, or resample it to the CT"
        )
    for name, value, layer in segments:
        stored = np.argwhere(layers[layer] == value)
        positions = (stored @ affine[:3, :3].T + affine[:3, 3]) * np.diag(_TO_RAS)[:3]
        voxels = image.grid.voxels_at(positions) if len(stored) else np.zeros((0, 3), np.int64)
        if len(voxels) and (voxels.min() < 0 or (voxels.max(0) >= image.shape).any()):
            raise InputError(
                f"{path}: the segment {name} reaches beyond its CT {image.name}. Is it another scan's file?"
            )
        yield class_name(name), (voxels[:, 0], voxels[:, 1], voxels[:, 2])
