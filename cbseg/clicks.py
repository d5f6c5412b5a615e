"""Clicks that people made, as tables hold them."""

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from cbseg.errors import InputError

Click = tuple[int, int, int]  # row, column, class

_COLUMNS = ("slice", "row", "column", "class")
_EMPTY = ("", "nan")  # cells, as pandas may write them


def read_points(path: Path) -> dict[str, list[Click]]:
    """Read annotations that people made.

    Args:
        path: A CSV file with the columns ``slice,row,column,class``: a slice's name, a pixel of its native image
            counted from 0 at the top left, and the class there (0 is background). A slice that was looked at and
            found healthy has one line with the last three columns empty. Semicolons or tabs may separate the columns,
            others may stand beside them, the line that names them may be missing, and 38 may be written as ``38.0``.

    Returns:
        Each slice's points as (row, column, class).

    Raises:
        InputError: If the file is missing or a line is not of this form; the message names the line.
    """
    if not path.is_file():
        raise InputError(f"data.annotate.file={path}: no such file; give a CSV with the columns {','.join(_COLUMNS)}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte-order mark
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 ({error}); save it as CSV in UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    clicks: dict[str, dict[tuple[int, int], int]] = {}
    healthy: set[str] = set()
    for number, cells in _lines(text):
        where = f"{path}, line {number}"
        try:
            name, click = _click(cells)
        except (KeyError, ValueError, OverflowError) as error:
            raise InputError(
                f"{where}: {', '.join(cells.values())} is not {','.join(_COLUMNS)} with whole numbers"
            ) from error
        here = clicks.setdefault(name, {})
        if click is None:
            healthy.add(name)
        elif here.setdefault(click[:2], click[2]) != click[2]:
            raise InputError(f"{where}: the pixel has another class above; keep one of them")
        if here and name in healthy:
            raise InputError(f"{where}: {name} is marked as healthy and has clicks; keep one of both")
    return {name: [(*at, value) for at, value in here.items()] for name, here in clicks.items()}


def _lines(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a table's lines with their numbers, as columns and cells; cells beyond the columns are named so."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(StringIO(text), delimiter=max(",;\t", key=first.count))
    columns: list[str] = []
    for cells in reader:
        if not any(cells):
            continue
        if not columns:
            columns = [cell.strip().lower() for cell in cells]
            if _COLUMNS[0] in columns:
                continue
            columns = list(_COLUMNS)
        surplus = {f"beyond {len(columns)}": cell for cell in cells[len(columns) :]}
        yield reader.line_num, dict(zip(columns, cells, strict=False)) | surplus


def _click(cells: dict[str, str]) -> tuple[str, Click | None]:
    """Read a line's slice, and row, column and class there, or nothing if all three are empty.

    Raises:
        KeyError, ValueError, OverflowError: If the line has fewer or more cells than the table, or no such.
    """
    name, row, column, value = (cells[key].strip() for key in _COLUMNS)
    if not name or any(key.startswith("beyond") for key in cells):
        raise ValueError
    if all(cell.lower() in _EMPTY for cell in (row, column, value)):
        return name, None
    return name, (_whole(row), _whole(column), _whole(value))


def _whole(cell: str) -> int:
    """Read a whole number, which spreadsheets and pandas may write as ``38.0`` or ``38,0``.

    Raises:
        ValueError, OverflowError: If it is none.
    """
    number = float(cell.replace(",", "."))
    if not number.is_integer():
        raise ValueError
    return int(number)
