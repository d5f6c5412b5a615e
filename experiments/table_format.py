"""A table's cells, ours beside the paper's, and how they are written."""

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """Our score by seed, None where it is undefined; the paper's; and whether ours is the best of its column."""

    ours: dict[int, float | None]
    paper: float | None
    best: bool = False

    @property
    def known(self) -> list[float]:
        """Our scores where they are defined."""
        return [score for score in self.ours.values() if score is not None]

    @property
    def mean(self) -> float | None:
        """Over the seeds; None without a run, or where the score is undefined in any."""
        return statistics.fmean(self.known) if self.known and len(self.known) == len(self.ours) else None

    @property
    def sd(self) -> float | None:
        """The sample standard deviation, where there is a mean over two seeds or more."""
        return statistics.stdev(self.known) if self.mean is not None and len(self.known) > 1 else None


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: Of its files.
        caption: What it shows.
        index: The title of the column of row names.
        rows: Its cells by row and column.
        digits: Behind the point.
        with_paper: Whether to show the paper's numbers.
        by_seed: Whether the cells' runs are seeds, which every row should have alike.
    """

    name: str
    caption: str
    index: str
    rows: dict[str, dict[str, Cell]]
    digits: int
    with_paper: bool = True
    by_seed: bool = True

    @property
    def seeds(self) -> dict[str, set[int]]:
        """The seeds of each row's runs."""
        return {row: set(next(iter(cells.values())).ours) for row, cells in self.rows.items()}

    @property
    def note(self) -> str:
        """What is incomplete: rows that were not run, or lack seeds that others have, and undefined scores."""
        ran = sorted(set().union(*self.seeds.values()))
        lacking = {row: _listed(k for k in ran if k not in seeds) for row, seeds in self.seeds.items() if seeds}
        undefined: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row, cells in self.rows.items():
            for column, cell in cells.items():
                undefined[row, _listed(k for k, score in cell.ours.items() if score is None)].append(column)
        parts = {
            "Not run": [row for row, seeds in self.seeds.items() if not seeds] if ran else ["every loss"],
            "Seeds missing": [f"{row} has no seed {seeds}" for row, seeds in lacking.items() if seeds and self.by_seed],
            "Undefined": [
                f"{_listed(names)} of {row}" + (f" in seed {k}" if self.by_seed else "")
                for (row, k), names in undefined.items()
                if k
            ],
        }
        return " ".join(f"{what}: {'; '.join(where)}." for what, where in parts.items() if where)

    def text(self, bold: Callable[[str], str] = "**{}**".format) -> pd.DataFrame:
        """Return each cell as ``mean ± sd (paper's)``, what is missing as a dash; and seeds where rows differ in them.

        Args:
            bold: How to mark the best: in Markdown, in HTML ``"<b>{}</b>".format``, not at all ``str``.
        """

        def shown(x: float | None) -> str:
            return MISSING if x is None else f"{x:.{self.digits}f}"

        def text(cell: Cell) -> str:
            ours = shown(cell.mean) if cell.sd is None else f"{shown(cell.mean)} ± {shown(cell.sd)}"
            marked = bold(ours) if cell.best else ours
            return f"{marked} ({shown(cell.paper)})" if self.with_paper else marked

        frame = pd.DataFrame.from_dict(self.rows, orient="index").map(text).rename_axis(self.index)
        if self.by_seed and len({len(seeds) for seeds in self.seeds.values() if seeds}) > 1:
            frame.insert(0, "Seeds", [str(len(seeds)) for seeds in self.seeds.values()])
        return frame

    def markdown(self) -> str:
        """Return caption, cells and note."""
        cells = self.text().to_markdown(disable_numparse=True)
        return "\n\n".join(filter(None, [f"**{self.caption}**", cells, self.note]))

    def latex(self) -> str:
        """Return caption, cells and note in a ``table`` environment."""
        cells = self.text(r"\textbf{{{}}}".format).rename(index=_escape, columns=_escape)
        latex = cells.to_latex(caption=_escape(self.caption), label=f"tab:{self.name}", escape=False)
        note = f"\\par\\smallskip {_escape(self.note)}\n" if self.note else ""
        return latex.replace("\\end{table}", f"{note}\\end{{table}}")

    def numbers(self) -> pd.DataFrame:
        """Return unrounded numbers, empty where missing: by column ours (mean), sd, n (seeds with it) and paper."""
        parts: dict[str, dict[str, float | None]] = {}
        for row, cells in self.rows.items():
            parts[row] = {}
            for column, cell in cells.items():
                numbers = {"ours": cell.mean, "sd": cell.sd, "n": len(cell.known), "paper": cell.paper}
                parts[row] |= {f"{column} {part}": number for part, number in numbers.items()}
        return pd.DataFrame.from_dict(parts, orient="index").rename_axis(self.index)


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _escape(text: str) -> str:
    """Return plain text as LaTeX source."""
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
