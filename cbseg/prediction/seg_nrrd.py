"""Labels as 3D Slicer's segmentation, ``.seg.nrrd``. Needs slicerio, of the extra ``viewer``."""

from pathlib import Path
from typing import Any

import numpy as np

from cbseg.drawing import CLASSES
from cbseg.prediction.terms import CATEGORY, REGION, term_of

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_seg_nrrd(path: Path, labels: Any, names: tuple[str, ...]) -> None:
    """Write labels with a segment for each class, whose names and terms Slicer shows.

    Args:
        path: A ``.seg.nrrd`` file.
        labels: A NIfTI image, as :meth:`NiftiVolume.to_nifti` makes it.
        names: Of the classes but background, class 1 first.
    """
    import slicerio

    millimetres = {"meter": 1000.0, "micron": 0.001}.get(labels.header.get_xyzt_units()[0], 1.0)
    segments = [
        {
            "id": f"Segment_{k}",
            "name": name,
            "color": [value / 255 for value in CLASSES[(k - 1) % len(CLASSES)]],
            "labelValue": k,
            "layer": 0,
            "status": "completed",
            "terminology": {
                "contextName": "Segmentation category and type - DICOM master list",
                "category": list(CATEGORY),
                "type": list(term_of(name)),
                "anatomicContextName": "Anatomic codes - DICOM master list",
                "anatomicRegion": list(REGION),
            },
        }
        for k, name in enumerate(names, 1)
    ]
    segmentation = {
        "voxels": np.asanyarray(labels.dataobj),
        "ijkToLPS": _RAS_TO_LPS @ np.diag([*[millimetres] * 3, 1.0]) @ labels.affine,
        "containedRepresentationNames": ["Binary labelmap"],
        "segments": segments,
    }
    slicerio.write_segmentation(str(path), segmentation, compression_level=1)
