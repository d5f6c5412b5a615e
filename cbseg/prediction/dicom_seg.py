"""Labels as a DICOM Segmentation of the series that they were made of, for PACS and viewers such as OHIF.

Needs highdicom, of the extra ``viewer``.
"""

import copy
import warnings
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

import cbseg
from cbseg.data.dicom import DicomSeries
from cbseg.data.dicom_file import read_header
from cbseg.data.reading import reading
from cbseg.drawing import CLASSES
from cbseg.errors import InputError
from cbseg.prediction.terms import CATEGORY, REGION, Term, term_of

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "SOPInstanceUID")
_MAY_BE_EMPTY = (  # but must be there (type 2)
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_LONGEST = 64  # characters of a DICOM text (LO)
_SERIES = 1000  # is added to the series' number


def dicom_seg(series: DicomSeries, classes: NDArray[np.uint8], names: tuple[str, ...], run: str) -> pydicom.Dataset:
    """Make a DICOM Segmentation (BINARY) with a segment for each class that occurs: an empty one hangs OHIF.

    Args:
        series: The CT.
        classes: Of its slices, as :meth:`DicomSeries.slice` gives them.
        names: Of the classes but background, class 1 first.
        run: What made it; stands as the serial number.

    Shape:
        - classes: :math:`(S, H, W)`.

    Raises:
        InputError: If no class occurs, or the series lacks what a segmentation refers to.
    """
    import highdicom as hd

    found = np.flatnonzero(np.sum([np.bincount(one.ravel(), minlength=len(names) + 1) for one in classes], axis=0))
    found = found[found > 0]
    if not found.size:
        raise InputError(f"{series.name}: has no infection, and a DICOM Segmentation of nothing hangs viewers")
    sources, order = _sources(series)
    stored = series.grid.to_stored(classes).transpose(2, 1, 0)
    stored = stored if order == sorted(order) else stored[order]
    numbers = np.zeros(len(names) + 1, np.uint8)
    numbers[found] = np.arange(len(found)) + 1
    method = hd.AlgorithmIdentificationSequence(
        "cbseg", Code("123109", "DCM", "Artificial Intelligence"), cbseg.__version__
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=int(numbers[k]),
            segment_label=names[k - 1][:_LONGEST],
            segmented_property_category=_code(CATEGORY),
            segmented_property_type=_code(term_of(names[k - 1])),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=method,
            anatomic_regions=[_code(REGION)],
            display_color=hd.color.CIELabColor.from_rgb(*CLASSES[(k - 1) % len(CLASSES)]),
        )
        for k in found
    ]
    with (
        reading(series.name, "no DICOM Segmentation can be made of it", "look at what its DICOM files lack"),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="(?s).*person name")  # of a patient, as the series has it
        return hd.seg.Segmentation(
            source_images=sources,
            pixel_array=stored if found[-1] == len(found) else numbers[stored],
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=generate_uid(),
            series_number=int(sources[0].get("SeriesNumber") or 0) + _SERIES,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            content_creator_name="cbseg^",
            manufacturer="cbseg",
            manufacturer_model_name="cbseg",
            software_versions=cbseg.__version__,
            device_serial_number=run[-_LONGEST:],
            series_description="cbseg: infection, predicted; not for diagnosis",
        )


def _sources(series: DicomSeries) -> tuple[list[pydicom.Dataset], list[int]]:
    """Return the datasets that a segmentation refers to, and which of the series' slices are theirs, in order.

    Raises:
        InputError: If they lack UIDs, or multi-frame files are mixed.
    """
    slices = series.slices
    order = list(range(len(slices)))
    if slices[0].frame is None:
        datasets = [copy.copy(one.tags) for one in slices]
    elif len({one.path for one in slices}) == 1:
        order.sort(key=lambda k: slices[k].frame or 0)
        datasets = [read_header(slices[0].path)]
    else:
        raise InputError(f"{series.name}: is of several multi-frame files, of which no DICOM Segmentation can be made")
    for dataset, one in zip(datasets, slices, strict=False):
        if missing := [key for key in _UIDS if not str(dataset.get(key) or "")]:
            raise InputError(
                f"{one.path}: its {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} empty, so no DICOM "
                "Segmentation can refer to it; anonymise with new UIDs instead of none"
            )
        for key in _MAY_BE_EMPTY:
            if key not in dataset:
                setattr(dataset, key, None)
        dataset.Modality = dataset.get("Modality") or "CT"
    return datasets, order


def _code(term: Term) -> Any:
    return Code(term.code, term.scheme, term.meaning)
