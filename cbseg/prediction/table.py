"""``predictions.csv``: a row for each CT that was segmented, which no spreadsheet executes."""

import csv
from pathlib import Path
from typing import Any

from cbseg.errors import InputError

SUMMARY = "predictions.csv"


def append(table: Path, row: dict[str, Any]) -> None:
    """Add a row to the table, and its head if it is new.

    Raises:
        InputError: If the table has other columns, as one of another version or of a run with other classes has.
        OSError: If it cannot be written.
    """
    with table.open("a+", newline="", encoding="utf-8", errors="backslashreplace") as file:
        file.seek(0)
        there = next(csv.reader(file), list(row))
        if there != list(row):
            raise InputError(
                f"{table}: has other columns ({', '.join(there)}) than this run's predictions "
                f"({', '.join(row)}); give another folder with --out, or move the table"
            )
        empty = not file.seek(0, 2)
        writer = csv.DictWriter(file, list(row), quoting=csv.QUOTE_NONNUMERIC)
        if empty:
            writer.writeheader()
        writer.writerow({key: _harmless(value) if isinstance(value, str) else value for key, value in row.items()})


def _harmless(text: str) -> str:
    """Make text of what a spreadsheet would take for a formula.

    >>> _harmless("=cmd|' /C calc'!A0"), _harmless("ct/1.nii.gz")
    ("'=cmd|' /C calc'!A0", 'ct/1.nii.gz')
    """
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") or text[:1] in tuple("\t\r\n") else text
