"""How DICOM and 3D Slicer name what is segmented: coded terms of SNOMED CT (SCT) and DICOM (DCM)."""

from typing import NamedTuple


class Term(NamedTuple):
    """A coded term."""

    scheme: str
    code: str
    meaning: str


CATEGORY = Term("SCT", "49755003", "Morphologically Abnormal Structure")
REGION = Term("SCT", "39607008", "Lung")

_OPACITY = Term("DCM", "112001", "Opacity")
_GROUND_GLASS = Term("DCM", "112120", "Ground glass opacity")


def term_of(class_name: str) -> Term:
    """Return the term of a class: ground glass, where its name says so, or else an opacity.

    >>> term_of("GGO").meaning, term_of("infection").meaning
    ('Ground glass opacity', 'Opacity')
    """
    name = class_name.lower().replace("_", "").replace("-", "").replace(" ", "")
    return _GROUND_GLASS if name in ("ggo", "groundglass", "groundglassopacity") else _OPACITY
