"""What people annotated of a scan, as one array: points, label maps and masks, and 255 where nobody looked."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbseg.data.dicom import DicomSeries
from cbseg.data.labels import read_classes
from cbseg.data.markups import SUFFIX, read_markups
from cbseg.data.nifti import NiftiVolume, open_nifti_mask
from cbseg.data.segments import read_segments
from cbseg.errors import ArgumentError, InputError
from cbseg.points import IGNORE, is_infection

ALL = "all"
"""A class name's value that says: the whole slice is background."""

_HEALTHY = 254  # a pixel whose whole slice is background

Labels = NDArray[np.uint8]


class ClassNames:
    """The names that people give to what they mark.

    Args:
        classes: The class that each name means, 0 for background; or ``all``, the whole slice is background.

    Raises:
        ArgumentError: If a value is neither, or no name means infection.
    """

    def __init__(self, classes: Mapping[str, int | str]) -> None:
        self._by_name = {str(name).lower(): value for name, value in classes.items()}
        numbers = [value for value in self._by_name.values() if type(value) is int]
        if not all(value == ALL or (type(value) is int and 0 <= value < _HEALTHY) for value in self._by_name.values()):
            raise ArgumentError(f"classes={dict(classes)}: give each name a class, 0 for background, or {ALL}")
        if set(numbers) - {0} != set(range(1, max(numbers, default=0) + 1)) or max(numbers, default=0) < 1:
            raise ArgumentError(f"classes={dict(classes)}: number the kinds of infection 1, 2 and so on")
        self.foreground = max(numbers)

    def __repr__(self) -> str:
        return repr(sorted(self._by_name.items()))

    def class_of(self, name: str, where: str) -> int:
        """Return the class that a name means.

        Args:
            name: In any case.
            where: What to say before the message.

        Raises:
            InputError: If it is not known; the message lists those that are.
        """
        if name.lower() not in self._by_name:
            raise InputError(
                f"{where} is of the class {name!r}, which is not known; there are {', '.join(self._by_name)}: rename "
                f"it, or add the name with '+data.find_scans.classes.{name or 'name'}=<class>'"
            )
        value = self._by_name[name.lower()]
        return _HEALTHY if value == ALL else int(value)

    @property
    def of_labels(self) -> dict[int, int]:
        """What the numbers of a map of clicks mean: each its class, the next background, the next a healthy slice.

        >>> ClassNames({"infection": 1, "background": 0, "healthy": "all"}).of_labels
        {0: 255, 1: 1, 2: 0, 3: 254}
        """
        kinds = {k: k for k in range(1, self.foreground + 1)}
        return {0: IGNORE} | kinds | {self.foreground + 1: 0, self.foreground + 2: _HEALTHY}


class Annotation:
    """What people annotated of a volume; see :class:`cbseg.data.volumes.Volume`. Slices hold classes and ``IGNORE``.

    Args:
        files: Points (``.mrk.json``), maps of labels (``.nii.gz``) and segmentations (``.seg.nrrd``) of the volume.
        names: Those of the classes.
        whole: Whether the files are masks: what they do not mark is background, and not unknown.
        image: The volume.

    Raises:
        InputError: If a file cannot be read, does not fit the volume, has a class that is not known, or contradicts
            another.
    """

    def __init__(self, files: Sequence[Path], names: ClassNames, whole: bool, image: NiftiVolume | DicomSeries) -> None:
        self.name = str(files[0])
        self.spacing, self.orientation, self.shape = image.spacing, image.orientation, image.shape
        self._classes = np.full(image.shape, IGNORE, np.uint8)
        self._image = image
        for path in files:
            self._add(path, names, whole)
        for k in np.flatnonzero((self._classes == _HEALTHY).any((1, 2))):
            if is_infection(np.where(self._classes[k] == _HEALTHY, 0, self._classes[k])).any():
                raise InputError(
                    f"{self.name}: slice {k} from the foot is marked as healthy, and has infection; keep one of both"
                )
            self._classes[k] = 0
        if whole:
            self._classes[self._classes == IGNORE] = 0

    def slice(self, k: int) -> NDArray[Any]:
        """Return slice ``k`` from the foot, (H, W) uint8."""
        return self._classes[k]

    def _add(self, path: Path, names: ClassNames, whole: bool) -> None:
        if path.name.endswith(SUFFIX):
            self._add_points(path, names)
            return
        for k, found in enumerate(_label_slices(path, names, whole, self._image)):
            where = (found != IGNORE) & (self._classes[k] != IGNORE) & (found != self._classes[k])
            for row, column in np.argwhere(where)[:1]:
                self._refuse_two(path, (k, row, column), found[row, column])
            self._classes[k][found != IGNORE] = found[found != IGNORE]

    def _add_points(self, path: Path, names: ClassNames) -> None:
        points = read_markups(path)
        for point, voxel in zip(points, self._image.grid.voxels_at([p.position for p in points]), strict=True):
            value = names.class_of(point.class_name, f"{path}: point {point.label}")
            at = tuple(voxel.tolist())
            if not all(0 <= place < size for place, size in zip(at, self.shape, strict=True)):
                raise InputError(
                    f"{path}: point {point.label} at {_listed(point.position)} mm (LPS) lies outside "
                    f"{self._image.name}: slice {at[0]}, row {at[1]}, column {at[2]} of "
                    f"{' × '.join(map(str, self.shape))}. Is it another scan's file? Remove it, or rename the file"
                )
            if self._classes[at] not in (IGNORE, value):
                self._refuse_two(path, at, value)
            self._classes[at] = value

    def _refuse_two(self, path: Path, at: tuple[int, ...], value: int) -> None:
        other = self._classes[at]
        kinds = " and ".join("a healthy slice" if v == _HEALTHY else f"class {v}" for v in (value, other))
        place = _listed(self._image.grid.positions_of([at])[0])
        raise InputError(
            f"{path}: two classes on a voxel: slice {at[0]} from the foot, row {at[1]}, column {at[2]} ({place} mm, "
            f"LPS) is {kinds}; keep one of them"
        )


def _label_slices(path: Path, names: ClassNames, whole: bool, image: NiftiVolume | DicomSeries) -> Iterator[Labels]:
    """Read a map's slices from foot to head, as classes, ``_HEALTHY`` and ``IGNORE``."""
    if not path.name.lower().endswith(".nrrd"):
        labels = open_nifti_mask(path, image)
        if labels.shape != image.shape:
            raise InputError(
                f"{path}: has {' × '.join(map(str, labels.shape))} slices × rows × columns, its CT {image.name} "
                f"{' × '.join(map(str, image.shape))}; draw on the CT itself, or resample it to the CT"
            )
        yield from read_classes(labels, {k: k for k in range(1, names.foreground + 1)} if whole else names.of_labels)
        return
    marked = np.full(image.shape, IGNORE, np.uint8)
    for segment, voxels in read_segments(path, image):
        value = names.class_of(segment, f"{path}: a segment")
        if (taken := marked[voxels][~np.isin(marked[voxels], (IGNORE, value))]).size:
            raise InputError(
                f"{path}: two classes on a voxel: {taken.size} voxels of the segment {segment} are another's too; "
                "in Slicer's Segment Editor paint with Modify other segments: Overwrite all"
            )
        marked[voxels] = value
    yield from marked


def _listed(position: Sequence[float] | NDArray[np.float64]) -> str:
    return ", ".join(f"{x:.1f}" for x in position)
