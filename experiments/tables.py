"""The paper's tables from run folders, each number beside the paper's.

``python -m experiments.tables runs`` prints Markdown and writes it, CSV and LaTeX to ``runs/tables``.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from cbseg.tracking import METRICS

PAPER: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("paper.yaml")))
MISSING = "–"
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
class Table:
    """One table: a file name, what it shows, and its cells, each a pair (ours, paper's) of numbers or None."""

    name: str
    caption: str
    index: str
    rows: dict[str, dict[str, tuple[float | None, float | None]]]
    digits: int

    def text(self) -> pd.DataFrame:
        """Each cell as ``ours (paper's)``, what is missing as a dash."""

        def shown(x: float | None) -> str:
            return MISSING if x is None else f"{x:.{self.digits}f}"

        cells = {
            row: {column: f"{shown(ours)} ({shown(paper)})" for column, (ours, paper) in cells.items()}
            for row, cells in self.rows.items()
        }
        return pd.DataFrame.from_dict(cells, orient="index").rename_axis(self.index)

    def numbers(self) -> pd.DataFrame:
        """Each cell as two columns, unrounded, empty where missing."""
        cells = {
            row: {
                f"{column} {whose}": number
                for column, pair in cells.items()
                for whose, number in zip(("ours", "paper"), pair, strict=True)
            }
            for row, cells in self.rows.items()
        }
        return pd.DataFrame.from_dict(cells, orient="index").rename_axis(self.index)


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
        data: {title: (found.get(data, {}).get(key), paper[k]) for k, (key, title) in enumerate(STATISTICS.items())}
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
    """One of Tables 2-8, or such a table of a dataset that the paper does not have; the mean over seeds.

    Args:
        kind: ``segmentation`` or ``counting``.
        data: Runs of other data are ignored.
        runs: Runs of one setting. Every loss that was run has a row, also where the paper has none.
    """
    found = [run for run in runs if run["data"] == data]
    paper = PAPER[kind].get(data, {})
    columns = COLUMNS[kind]
    rows = {}
    for loss, title in titles([*PAPER_LOSSES[kind], *(run["loss"] for run in found)]).items():
        ours = [run for run in found if run["loss"] == loss]
        theirs = paper.get(loss, [None] * len(columns))
        rows[title] = {
            column: (_mean([run["test"][score] for run in ours]), number)
            for (score, column), number in zip(columns.items(), theirs, strict=True)
        }
    seeds = len({run["seed"] for run in found})
    over = {0: "not run", 1: "1 seed"}.get(seeds, f"the mean over up to {seeds} seeds")
    name = f"table{paper['table']}" if paper else f"table_{data}_{kind}"
    title = f"Table {paper['table']}: {data}" if paper else data
    return Table(name, f"{title} {kind}, ours, {over} (paper's)", "Loss function", rows, 2)


def _mean(scores: list[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return statistics.fmean(known) if known and len(known) == len(scores) else None


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
            sections.append(f"**{table.caption}**\n\n{table.text().to_markdown(disable_numparse=True)}")
            table.numbers().to_csv(folder / f"{table.name}.csv")
            latex = table.text().to_latex(caption=table.caption, label=f"tab:{table.name}", escape=True)
            (folder / f"{table.name}.tex").write_text(latex)
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
