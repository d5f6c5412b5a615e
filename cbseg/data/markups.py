"""Points of 3D Slicer, ``.mrk.json``: read, and written whole or not at all.

The format is Slicer's markups schema, version 1.0.3, of which points (``Fiducial``) count here.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cbseg.data.reading import reading
from cbseg.errors import InputError

SUFFIX = ".mrk.json"

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_TO_LPS = {"LPS": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0)}
_MILLIMETRES = {"mm": 1.0, "um": 0.001}
_STATUS = ("defined", "preview", "undefined")
_SECONDS = re.compile(r"([0-9.]+) s")


def class_name(label: str) -> str:
    """Return the class of what somebody labelled: the label up to the first ``-``, ``_`` or blank, in small letters.

    >>> class_name("Infection_1-3")
    'infection'
    """
    return re.split(r"[-_\s]", label.strip(), maxsplit=1)[0].lower()


class MarkedPoint(NamedTuple):
    """A point that somebody marked.

    Attributes:
        label: Its name, ``<class>-<number>`` or longer; Slicer names points after their list.
        position: In the patient's coordinates (LPS), mm.
        seconds: What it took to mark it, where that is known; kept in Slicer's ``description``, as ``2.5 s``.
    """

    label: str
    position: tuple[float, float, float]
    seconds: float | None = None

    @property
    def class_name(self) -> str:
        """What the point marks; see :func:`class_name`."""
        return class_name(self.label)


def read_markups(path: Path) -> list[MarkedPoint]:
    """Read a file's points. Those whose position is not defined are left out.

    Args:
        path: A ``.mrk.json`` file with one or more lists of points.

    Raises:
        InputError: If the file cannot be read or is cut off, or holds curves, planes or others than points.
    """
    with reading(path, "not a whole markups file of 3D Slicer", "save it again in Slicer"):
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        lists = content["markups"] if isinstance(content, dict) and "markups" in content else None
        if not isinstance(lists, list) or not all(isinstance(markup, dict) for markup in lists):
            raise InputError(f"{path}: holds no markups; save the list of points in 3D Slicer as .mrk.json")
        return [point for markup in lists for point in _points(path, markup)]


def _points(path: Path, markup: dict[str, Any]) -> Iterator[MarkedPoint]:
    kind, name = markup.get("type"), markup.get("name") or ""
    if kind != "Fiducial":
        raise InputError(
            f"{path}: {name or 'its markup'} is of type {kind}, and not of points (Fiducial); mark single points, and "
            "save curves, planes and regions of interest elsewhere"
        )
    system, units = markup.get("coordinateSystem", "LPS"), markup.get("coordinateUnits", "mm")
    unit = units[0] if isinstance(units, list) and units else units
    if system not in _TO_LPS or unit not in _MILLIMETRES:
        raise InputError(
            f"{path}: its coordinates are {system} in {unit}; save it in {' or '.join(_TO_LPS)}, in "
            f"{' or '.join(_MILLIMETRES)}"
        )
    to_lps = np.array(_TO_LPS[system]) * _MILLIMETRES[unit]
    for number, point in enumerate(markup.get("controlPoints") or [], 1):
        status = point.get("positionStatus", "defined")
        if status not in _STATUS:
            raise InputError(f"{path}: point {number} has the positionStatus {status}; there are {', '.join(_STATUS)}")
        if status != "defined":
            continue
        label = str(point.get("label") or f"{name}-{number}")
        position = np.array(point.get("position"), float)
        if position.shape != (3,) or not np.isfinite(position).all():
            raise InputError(f"{path}: point {label} has no position of three numbers; mark it again")
        seconds = _SECONDS.fullmatch(str(point.get("description") or ""))
        x, y, z = (position * to_lps).tolist()
        yield MarkedPoint(label, (x, y, z), float(seconds[1]) if seconds else None)


def write_markups(path: Path, points: Iterable[MarkedPoint], name: str = "infection") -> None:
    """Write points as one list, whole or not at all; what lies there is replaced.

    One list a file, as Slicer saves each list that it loads into a file of its own, so of several all but the first
    would end up elsewhere. Points that are added in Slicer are named after the list.

    Args:
        path: A ``.mrk.json`` file.
        points: Where a label is a class alone, ``infection``, it gets the next free number of its class.
        name: The list's.

    Raises:
        InputError: If the file cannot be written; what was there is still.
    """
    points = list(points)
    used = Counter(point.class_name for point in points)
    taken, control = {point.label for point in points}, []
    for k, point in enumerate(points, 1):
        label = point.label
        if label == point.class_name:
            label = next(free for n in range(1, used.total() + 1) if (free := f"{label}-{n}") not in taken)
            taken.add(label)
        control.append(
            {
                "id": str(k),
                "label": label,
                "description": "" if point.seconds is None else f"{point.seconds:.1f} s",
                "associatedNodeID": "",
                "position": [float(x) for x in point.position],
                "orientation": [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0],
                "selected": True,
                "locked": False,
                "visibility": True,
                "positionStatus": "defined",
            }
        )
    markup = {
        "type": "Fiducial",
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(control),
        "controlPoints": control,
    }
    part = path.with_name(f".part-{path.name}")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump({"@schema": _SCHEMA, "markups": [markup]}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free some space, or check its permissions"
        ) from error
    finally:
        part.unlink(missing_ok=True)
