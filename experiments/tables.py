"""The paper's tables from run folders, each number beside the paper's.

``python -m experiments.tables runs`` prints Markdown and writes it, CSV and LaTeX to ``runs/tables``.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from cbseg.metrics import SCORES
from cbseg.tracking import METRICS

PAPER: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("paper.yaml")))
MISSING = "–"
LOSSES = {
    "full": "Fully supervised",
    "pl": "Point loss (PL)",
    "cb_flip": "CB(Flip) + PL",
    "cb_fliprot": "CB(Flip, Rot) + PL",
}
COLUMNS = {"dice": "Dice", "iou": "IoU", "ppv": "PPV", "sens": "Sens.", "spec": "Spec."}
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
        for data, paper in PAPER["statistics"].items()
    }
    note = (
        "; a case is a scan: COVID-19-A's files do not tell which slices share a patient" if "covidA" in found else ""
    )
    return Table("table1", f"Table 1: dataset statistics, ours (paper's){note}", "Dataset", rows, 0)


def segmentation_table(data: str, runs: list[dict[str, Any]]) -> Table:
    """One of Tables 2-6, the mean over seeds; runs of other data are ignored."""
    paper = PAPER["segmentation"][data]
    rows = {}
    seeds = set()
    for loss, title in LOSSES.items():
        ours = [run for run in runs if run["data"] == data and run["loss"] == loss]
        seeds.add(len(ours))
        rows[title] = {
            COLUMNS[score]: (_mean([run["test"][score] for run in ours]), paper[loss][k])
            for k, score in enumerate(SCORES)
        }
    count = "/".join(map(str, sorted(seeds)))
    caption = f"Table {paper['table']}: {data} segmentation, ours, the mean over {count} seed(s) (paper's)"
    return Table(f"table{paper['table']}", caption, "Loss function", rows, 2)


def _mean(scores: list[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return statistics.fmean(known) if known and len(known) == len(scores) else None


def tables(runs: list[dict[str, Any]]) -> list[Table]:
    """All tables for which there are runs of one setting."""
    data = [name for name in PAPER["segmentation"] if any(run["data"] == name for run in runs)]
    return [statistics_table(runs), *(segmentation_table(name, runs) for name in data)]


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
