"""The paper's tables from run folders, each number beside the paper's.

``python -m experiments.tables runs`` prints Markdown and writes it, CSV and LaTeX to ``runs/tables``.
"""

import argparse
import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from cbseg.tracking import METRICS

PAPER: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("paper.yaml")))
MISSING = "–"
DIGITS = 2
LOSSES = {
    "full": "Fully supervised",
    "pl": "Point loss (PL)",
    "cb_flip": "CB(Flip) + PL",
    "cb_fliprot": "CB(Flip, Rot) + PL",
    "lcfcn": "LCFCN",
    "cb_lcfcn": "CB-LCFCN",
}
COLUMNS = {
    "segmentation": {"dice": "Dice", "iou": "IoU", "ppv": "PPV", "sens": "Sens.", "spec": "Spec."},
    "counting": {"mae": "MAE", "game": "GAME(4)"},
}
PAPER_LOSSES = {"segmentation": ("full", "pl", "cb_flip", "cb_fliprot"), "counting": ("pl", "lcfcn", "cb_lcfcn")}
STATISTICS = {
    "cases": "Cases",
    "slices": "Slices",
    "slices_with_infections": "Slices with infections",
    "infected_regions": "Infected regions",
}


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
    """One table: a file name, what it shows, and its cells by row and column."""

    name: str
    caption: str
    index: str
    rows: dict[str, dict[str, Cell]]
    digits: int

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
            "Seeds missing": [f"{row} has no seed {seeds}" for row, seeds in lacking.items() if seeds],
            "Undefined": [f"{_listed(names)} of {row} in seed {k}" for (row, k), names in undefined.items() if k],
        }
        return " ".join(f"{what}: {'; '.join(where)}." for what, where in parts.items() if where)

    def text(self, bold: Callable[[str], str] = "**{}**".format) -> pd.DataFrame:
        """Each cell as ``mean ± sd (paper's)``, what is missing as a dash; how many seeds, where that differs by row.

        Args:
            bold: How to mark the best: in Markdown, in HTML ``"<b>{}</b>".format``, not at all ``str``.
        """

        def shown(x: float | None) -> str:
            return MISSING if x is None else f"{x:.{self.digits}f}"

        def text(cell: Cell) -> str:
            ours = shown(cell.mean) if cell.sd is None else f"{shown(cell.mean)} ± {shown(cell.sd)}"
            return f"{bold(ours) if cell.best else ours} ({shown(cell.paper)})"

        frame = pd.DataFrame.from_dict(self.rows, orient="index").map(text).rename_axis(self.index)
        if len({len(seeds) for seeds in self.seeds.values() if seeds}) > 1:
            frame.insert(0, "Seeds", [str(len(seeds)) for seeds in self.seeds.values()])
        return frame

    def markdown(self) -> str:
        """Caption, cells and note."""
        cells = self.text().to_markdown(disable_numparse=True)
        return "\n\n".join(filter(None, [f"**{self.caption}**", cells, self.note]))

    def latex(self) -> str:
        """Caption, cells and note in a ``table`` environment."""
        cells = self.text(r"\textbf{{{}}}".format).rename(index=_escape, columns=_escape)
        latex = cells.to_latex(caption=_escape(self.caption), label=f"tab:{self.name}", escape=False)
        note = f"\\par\\smallskip {_escape(self.note)}\n" if self.note else ""
        return latex.replace("\\end{table}", f"{note}\\end{{table}}")

    def numbers(self) -> pd.DataFrame:
        """Unrounded, empty where missing: ours (the mean), sd, n (seeds where it is defined) and paper by column."""
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
    """Plain text as LaTeX source."""
    return re.sub(r"([&%$#_{}])", r"\\\1", text)


def read_runs(runs: Path) -> dict[Path, dict[str, Any]]:
    """The ``metrics.json`` of every finished run below a folder, by the run's folder.

    Raises:
        SystemExit: If there is none.
    """
    found = {path.parent: json.loads(path.read_text()) for path in sorted(runs.glob(f"*/*/seed*/{METRICS}"))}
    if not found:
        sys.exit(f"{runs}: holds no finished run (<data>/<loss>/seed<k>/{METRICS}); run python -m cbseg.run first")
    return found


def statistics_table(runs: list[dict[str, Any]]) -> Table:
    """Table 1, for the datasets that were run."""
    found = {run["data"].split("_")[0]: run["dataset"] for run in runs}
    rows = {
        data: {
            title: Cell({0: found[data][key]} if data in found else {}, paper[k])
            for k, (key, title) in enumerate(STATISTICS.items())
        }
        for data, paper in (dict.fromkeys(found, [None] * len(STATISTICS)) | PAPER["statistics"]).items()
    }
    note = (
        "; a case is a scan: COVID-19-A's files do not tell which slices share a patient" if "covidA" in found else ""
    )
    return Table("table1", f"Table 1: dataset statistics, ours (paper's){note}", "Dataset", rows, 0)


def titles(losses: Iterable[str]) -> dict[str, str]:
    """These losses and their titles, the paper's in its order, then others under their own names."""
    losses = set(losses)
    ordered = [*(loss for loss in LOSSES if loss in losses), *sorted(losses - set(LOSSES))]
    return {loss: LOSSES.get(loss, loss) for loss in ordered}


def scores_table(kind: str, data: str, runs: list[dict[str, Any]]) -> Table:
    """One of Tables 2-8, or such a table of a dataset that the paper does not have.

    Args:
        kind: ``segmentation`` or ``counting``.
        data: Runs of other data are ignored.
        runs: Runs of one setting. Every loss that was run has a row, also where the paper has none.
    """
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for run in sorted((run for run in runs if run["data"] == data), key=lambda run: run["seed"]):
        found[run["loss"]][run["seed"]] = run["test"]
    paper = PAPER[kind].get(data, {})
    columns = COLUMNS[kind]
    rows = {}
    for loss, title in titles([*PAPER_LOSSES[kind], *found]).items():
        theirs = paper.get(loss, [None] * len(columns))
        rows[title] = {
            column: Cell({seed: test[score] for seed, test in found.get(loss, {}).items()}, number)
            for (score, column), number in zip(columns.items(), theirs, strict=True)
        }
    best = _best(rows, min if kind == "counting" else max)
    for row, column in best:
        rows[row][column] = replace(rows[row][column], best=True)
    name = f"table{paper['table']}" if paper else f"table_{data}_{kind}"
    title = f"Table {paper['table']}: {data}" if paper else data
    marked = "; bold: the best weakly supervised" if best else ""
    caption = f"{title} {kind}, ours, {_over(map(len, found.values()))} (paper's){marked}"
    return Table(name, caption, "Loss function", rows, DIGITS)


def _best(rows: dict[str, dict[str, Cell]], best_of: Callable[[Iterable[float]], float]) -> list[tuple[str, str]]:
    """Row and column of each column's best among the weakly supervised losses, if two have it; ties are as rounded."""
    best: list[tuple[str, str]] = []
    for column in next(iter(rows.values())):
        means = {row: cells[column].mean for row, cells in rows.items() if row != LOSSES["full"]}
        shown = {row: round(mean, DIGITS) for row, mean in means.items() if mean is not None}
        if len(shown) > 1:
            best += [(row, column) for row, score in shown.items() if score == best_of(shown.values())]
    return best


def _over(seeds: Iterable[int]) -> str:
    """What the scores of rows with these numbers of seeds are taken over."""
    numbers = sorted(set(seeds))
    if not numbers or numbers == [1]:
        return "1 seed" if numbers else "not run"
    several = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else numbers[0]
    return f"mean ± standard deviation over {several} seeds"


def tables(runs: list[dict[str, Any]]) -> list[Table]:
    """The paper's tables, whatever was run, then those of other datasets.

    Args:
        runs: Runs of one setting.
    """
    shown = [statistics_table(runs)]
    for kind in COLUMNS:
        others = sorted({run["data"] for run in runs} - set(PAPER[kind]))
        shown += [scores_table(kind, data, runs) for data in [*PAPER[kind], *others]]
    return shown


def write(runs: Path) -> str:
    """Write every setting's tables below ``<runs>/tables`` and give them in Markdown.

    Raises:
        SystemExit: If there is no finished run.
    """
    found = list(read_runs(runs).values())
    sections = []
    for settings in sorted({run["settings"] for run in found}):
        folder = runs / "tables" / (settings or "defaults")
        folder.mkdir(parents=True, exist_ok=True)
        sections.append(f"# Settings: {settings or 'the defaults'}")
        for table in tables([run for run in found if run["settings"] == settings]):
            sections.append(table.markdown())
            table.numbers().to_csv(folder / f"{table.name}.csv")
            (folder / f"{table.name}.tex").write_text(table.latex())
    markdown = "\n\n".join(sections) + "\n"
    (runs / "tables" / "tables.md").write_text(markdown)
    return markdown


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="The paper's tables from run folders.")
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"))
    runs = parser.parse_args().runs
    print(write(runs))
    print(f"Markdown, CSV and LaTeX are in {runs / 'tables'}")


if __name__ == "__main__":
    main()
