"""The paper's tables from run folders, each number beside the paper's.

``python -m experiments.tables runs`` prints Markdown and writes it, CSV and LaTeX to ``runs/tables``; with ``--last``,
the scores of the last epoch's weights instead of the selected ones', to ``runs/tables/last``.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cbseg.folds import pool_folds
from cbseg.metrics import SURFACE_SCORES, Counts
from cbseg.results import Result, Setting, by_setting, find_results
from experiments.command_line import one_message, parse_with_runs
from experiments.table_format import Cell, Table

PAPER: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("paper.yaml")))
DIGITS = 2
LOSSES = {
    "full": "Fully supervised",
    "pl": "Point loss (PL)",
    "cb_flip": "CB(Flip) + PL",
    "cb_fliprot": "CB(Flip, Rot) + PL",
    "cb_crf": "CB(Flip, Rot) + PL + CRF",
    "cb_zoom": "CB(Flip, Rot, Zoom) + PL + CRF",
    "lcfcn": "LCFCN",
    "cb_lcfcn": "CB-LCFCN",
    "cb_lcfcn_crf": "CB-LCFCN(Flip, Rot) + CRF",
}
COLUMNS = {
    "segmentation": {"dice": "Dice", "iou": "IoU", "ppv": "PPV", "sens": "Sens.", "spec": "Spec."},
    "counting": {"mae": "MAE", "game": "GAME(4)"},
}
SURFACE_COLUMNS = {"dice_mean": "Dice, mean", "hd95": "HD95", "nsd1": "NSD(1)", "nsd2": "NSD(2)"}
PAPER_LOSSES = {"segmentation": ("full", "pl", "cb_flip", "cb_fliprot"), "counting": ("pl", "lcfcn", "cb_lcfcn")}
STATISTICS = {
    "cases": "Cases",
    "slices": "Slices",
    "slices_with_infections": "Slices with infections",
    "infected_regions": "Infected regions",
}


def statistics_table(setting: Setting) -> Table:
    """Make Table 1, for the datasets that were run."""
    found = {}
    for result in setting.results.values():
        dataset = result.data.split("_")[0]  # covidB of covidB_sep
        found[dataset if dataset in PAPER["statistics"] else result.data] = result.dataset
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
    """Return these losses and their titles, the paper's in its order, then others under their own names."""
    losses = set(losses)
    ordered = [*(loss for loss in LOSSES if loss in losses), *sorted(losses - set(LOSSES))]
    return {loss: LOSSES.get(loss, loss) for loss in ordered}


def scores_table(kind: str, data: str, setting: Setting) -> Table:
    """Make one of Tables 2-8, or such a table of a dataset that the paper does not have.

    Args:
        kind: ``segmentation`` or ``counting``.
        data: Runs of other data are ignored.
        setting: Its runs. Every loss that was run has a row, also where the paper has none.
    """
    found = setting.by_seed().get(data, {})
    paper = PAPER[kind].get(data, {})
    columns = COLUMNS[kind]
    rows = {}
    for loss, title in titles([*PAPER_LOSSES[kind], *found]).items():
        theirs = paper.get(loss, [None] * len(columns))
        rows[title] = {
            column: Cell({k: setting.results[run].test[score] for k, run in found.get(loss, {}).items()}, number)
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


def class_table(data: str, setting: Setting) -> Table | None:
    """Make a table of segmentation scores by class, of a dataset that tells several kinds of infection apart."""
    found = setting.by_seed().get(data, {})
    rows: dict[str, dict[str, Cell]] = {}
    for loss, title in titles(found).items():
        runs = {seed: setting.results[run] for seed, run in found[loss].items()}
        names = next(iter(runs.values())).class_names
        if len(names) < 2:
            return None
        scores = {seed: _class_scores(run) for seed, run in runs.items()}
        for k, name in enumerate(names):
            rows[f"{title}: {name}"] = {
                column: Cell({seed: by_class[k][score] for seed, by_class in scores.items()}, None)
                for score, column in COLUMNS["segmentation"].items()
            }
    caption = f"{data} segmentation by class, ours, {_over(map(len, found.values()))}"
    return Table(f"table_{data}_classes", caption, "Loss function: class", rows, DIGITS)


def surface_table(data: str, setting: Setting) -> Table | None:
    """Make a table of surface scores, of a dataset of which runs measured them (``metrics.surface=true``)."""
    found = setting.by_seed().get(data, {})
    rows = {}
    for loss, title in titles(found).items():
        runs = {seed: setting.results[run].test for seed, run in found[loss].items()}
        if measured := {seed: test for seed, test in runs.items() if SURFACE_SCORES[0] in test}:
            rows[title] = {
                column: Cell({seed: test.get(score) for seed, test in measured.items()}, None)
                for score, column in SURFACE_COLUMNS.items()
            }
    if not rows:
        return None
    over = _over(len(next(iter(cells.values())).ours) for cells in rows.values())
    caption = f"{data} surfaces, HD95 in pixels, surface Dice (NSD) at 1 and 2 pixels, ours, {over}"
    return Table(f"table_{data}_surface", caption, "Loss function", rows, DIGITS, with_paper=False)


def _class_scores(run: Result) -> list[dict[str, float | None]]:
    """Return a run's scores of each foreground class; None where one is undefined."""
    by_class = Counts.of_named(run.counts).class_scores()
    return [{name: None if x.isnan() else x.item() for name, x in scores.items()} for scores in by_class]


def _best(rows: dict[str, dict[str, Cell]], best_of: Callable[[Iterable[float]], float]) -> list[tuple[str, str]]:
    """Return row and column of each column's best of two or more weakly supervised losses; ties are as rounded."""
    best: list[tuple[str, str]] = []
    for column in next(iter(rows.values())):
        means = {row: cells[column].mean for row, cells in rows.items() if row != LOSSES["full"]}
        shown = {row: round(mean, DIGITS) for row, mean in means.items() if mean is not None}
        if len(shown) > 1:
            best += [(row, column) for row, score in shown.items() if score == best_of(shown.values())]
    return best


def _over(seeds: Iterable[int]) -> str:
    """Say what the scores of rows with these numbers of seeds are taken over."""
    numbers = sorted(set(seeds))
    if not numbers or numbers == [1]:
        return "1 seed" if numbers else "not run"
    several = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else numbers[0]
    return f"mean ± standard deviation over {several} seeds"


def tables(setting: Setting) -> list[Table]:
    """Make the paper's tables from the runs of one setting, then those of other datasets, classes and surfaces."""
    found = setting.by_seed()
    shown = [statistics_table(setting)]
    for kind in COLUMNS:
        others = sorted(found.keys() - PAPER[kind].keys())
        shown += [scores_table(kind, data, setting) for data in [*PAPER[kind], *others]]
    more = (make(data, setting) for data in sorted(found) for make in (class_table, surface_table))
    return shown + list(filter(None, more))


def write(runs: Path, last: bool = False, out: Path | None = None) -> str:
    """Write every setting's tables below ``<out>/tables`` and return them in Markdown.

    Args:
        runs: Where the runs are.
        last: Whether to show the last epoch's scores, below ``<out>/tables/last``.
        out: Where to write, ``runs`` if it is None.

    Raises:
        InputError: If there is no finished run.
    """
    results = pool_folds(find_results(runs))
    parent, weights = (out or runs) / "tables", ""
    if last:
        results = {folder: result.of_last_epoch() for folder, result in results.items()}
        parent, weights = parent / "last", "; weights of the last epoch"
    sections = []
    for setting in by_setting(results):
        folder = parent / (setting.file_name or "defaults")
        folder.mkdir(parents=True, exist_ok=True)
        sections.append(f"# Settings: {setting.title}{weights}")
        for table in tables(setting):
            sections.append(table.markdown())
            table.numbers().to_csv(folder / f"{table.name}.csv")
            (folder / f"{table.name}.tex").write_text(table.latex())
    markdown = "\n\n".join(sections) + "\n"
    (parent / "tables.md").write_text(markdown)
    return markdown


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="The paper's tables from run folders.")
    parser.add_argument(
        "--last", action="store_true", help="scores of the last epoch's weights, not the selected ones'"
    )
    arguments = parse_with_runs(parser)
    with one_message():
        print(write(arguments.runs, arguments.last, arguments.out))
    print(f"Markdown, CSV and LaTeX are in {arguments.out / 'tables' / ('last' if arguments.last else '')}")


if __name__ == "__main__":
    main()
