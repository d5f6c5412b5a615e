"""A scan's clicks: what its file holds, which the page and 3D Slicer both write, as pixels of slices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from cbseg.data.annotation import ALL
from cbseg.data.grid import Grid
from cbseg.data.markups import MarkedPoint, read_markups, write_markups
from cbseg.errors import InputError


class PixelClick(NamedTuple):
    """A click on a slice; of one that calls the slice healthy the slice counts alone.

    Attributes:
        slice: From the foot, from 0.
        row: From 0 at the front.
        column: From 0 at the patient's right.
        name: The class.
        label: What it is called in its file; empty for one that is new.
        fixed: Whether it is of another file, which the page does not write.
    """

    slice: int
    row: int
    column: int
    name: str
    label: str = ""
    fixed: bool = False


class ClickFile:
    """The clicks of one scan, in ``<scan>.mrk.json``; each change reads the file and writes it, whole or not at all.

    So two pages and 3D Slicer may change it in turn, and none undoes what another did.

    Args:
        path: Where the page's clicks are written.
        others: Files that are shown, and not written.
        classes: What each name that a click may have means; see :class:`cbseg.data.annotation.ClassNames`.
    """

    def __init__(self, path: Path, others: Sequence[Path], classes: Mapping[str, int | str]) -> None:
        self.path, self.others, self.classes = path, tuple(others), dict(classes)
        self._lock = Lock()

    def read(self, grid: Grid) -> list[PixelClick]:
        """Read the clicks of all files, those of the page's last.

        Raises:
            InputError: If a file is no whole list of points.
        """
        fixed = [_pixel(point, grid, True) for path in self.others for point in read_markups(path)]
        return fixed + [_pixel(point, grid) for point in self._points()]

    def add(self, grid: Grid, click: PixelClick, seconds: float | None) -> None:
        """Write one more click.

        Args:
            grid: The scan's.
            click: On a pixel of it.
            seconds: What it took.

        Raises:
            InputError: If the class is unknown, the pixel is none of the scan's, or the click contradicts another; or
                if the file cannot be written: what was there is there still.
        """
        where = f"slice {click.slice + 1}"
        if click.name not in self.classes:
            raise InputError(f"{click.name} is no class; there are {', '.join(self.classes)}")
        if not all(0 <= k < size for k, size in zip(click[:3], grid.shape, strict=True)):
            raise InputError(f"{where}, row {click.row}, column {click.column}: is no pixel of this scan")
        with self._lock:
            here = [other for other in self.read(grid) if other.slice == click.slice]
            if self._is_healthy(click) and here:
                raise InputError(f"{where}: has clicks; remove them before you call it healthy")
            if any(map(self._is_healthy, here)):
                raise InputError(f"{where}: is called healthy; take that back before you click on it")
            if any(other[:3] == click[:3] for other in here):
                raise InputError(f"{where}: this pixel is clicked already; remove that click first")
            (x, y, z), points = grid.positions_of([click[:3]])[0].tolist(), self._points()
            write_markups(self.path, [*points, MarkedPoint(click.name, (x, y, z), seconds)])

    def remove(self, grid: Grid, click: PixelClick) -> None:
        """Remove one click.

        Raises:
            InputError: If it is no longer there; or if the file cannot be written: what was there is there still.
        """
        with self._lock:
            points = self._points()
            kept = [point for point in points if _pixel(point, grid)[:5] != click[:5]]
            if len(kept) == len(points):
                raise InputError(f"{click.label}: is gone already; another page or 3D Slicer removed it")
            write_markups(self.path, kept)

    def count(self) -> int:
        """Count the clicks of all files.

        Raises:
            InputError: If a file is no whole list of points.
        """
        return sum(len(read_markups(path)) for path in self.others) + len(self._points())

    def _is_healthy(self, click: PixelClick) -> bool:
        return self.classes.get(click.name) == ALL

    def _points(self) -> list[MarkedPoint]:
        return read_markups(self.path) if self.path.exists() else []


def _pixel(point: MarkedPoint, grid: Grid, fixed: bool = False) -> PixelClick:
    slice_, row, column = grid.voxels_at([point.position])[0].tolist()
    return PixelClick(slice_, row, column, point.class_name, point.label, fixed)
