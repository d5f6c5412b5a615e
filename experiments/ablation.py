"""What settings do: a row for each loss and combination of their values, over all seeds and folds that were run.

``python -m experiments.ablation runs --data covidA_cv --by loss.weight loss.compare`` prints Markdown and writes it,
and CSV, into ``runs/tables``: scores of the selected epoch's weights, and the last epoch's Dice, PPV and sensitivity
beside them, as mean ± standard deviation over runs.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cbseg.tracking import CONFIG, flat_settings
from experiments.table import Cell, Table
from experiments.tables import COLUMNS, DIGITS, LOSSES, read_runs

LAST = ("dice", "ppv", "sens")
POOLED = {"data.split.fold", "data.seed", "data.store"}
"""Keys in which runs of a row may differ; the last two are the run's own, which a saved config holds as values."""


def ablation(runs: Path, by: Sequence[str], data: str | None = None) -> Table:
    """The table.

    Args:
        runs: Where the runs are.
        by: Keys of the config. Runs that agree in data, loss and these are one row.
        data: Take runs of this data config alone, if it is given.

    Raises:
        SystemExit: If there is no finished run, or none of this data, no run has one of the keys, or runs of a row
            differ in yet others.
    """
    found = {folder: run for folder, run in read_runs(runs).items() if data in (None, run["data"])}
    if not found:
        sys.exit(f"{runs}: holds no finished run of data={data}")
    configs: dict[Path, Any] = {folder: OmegaConf.load(folder / CONFIG) for folder in found}
    for key in by:
        if all(OmegaConf.select(config, key) is None for config in configs.values()):
            sys.exit(f"{runs}: no run's {CONFIG} has a value at {key}; python -m cbseg.run --cfg job lists the keys")
    groups: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    order = list(LOSSES)
    for folder, run in found.items():
        values = {key: OmegaConf.select(configs[folder], key) for key in by}
        settings = [f"{key.rpartition('.')[2]}={value}" for key, value in values.items() if value is not None]
        rank = order.index(run["loss"]) if run["loss"] in order else len(order)
        groups[run["data"], f"{rank:02d}", " ".join([run["loss"], *settings])].append(folder)
    titles = COLUMNS["segmentation"]
    rows = {}
    for (dataset, _, name), folders in sorted(groups.items()):
        if more := differing([configs[folder] for folder in folders]) - set(by):
            sys.exit(f"{dataset} {name}: its runs differ in {', '.join(sorted(more))} as well; add these to --by")
        group = [found[folder] for folder in folders]
        cells = {titles[score]: cell([run["test"] for run in group], score) for score in titles}
        cells |= {f"last {titles[score]}": cell([run["last"]["test"] for run in group], score) for score in LAST}
        rows[f"{dataset} {name} ({len(group)})"] = cells
    return Table(
        "ablation",
        f"By {', '.join(by)}: mean ± standard deviation over so many runs",
        "Setting",
        rows,
        DIGITS,
        with_paper=False,
        by_seed=False,
    )


def differing(configs: Sequence[Any]) -> set[str]:
    """The keys in which configs differ, seed, fold and store aside."""
    settings = [flat_settings(config) for config in configs]
    keys = set().union(*settings) - POOLED
    return {key for key in keys if any(other.get(key) != settings[0].get(key) for other in settings)}


def cell(scores: list[dict[str, Any]], name: str) -> Cell:
    """One score of several runs, which may differ in fold and seed."""
    return Cell({k: score[name] for k, score in enumerate(scores)}, None)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What settings do to the scores.")
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"))
    parser.add_argument("--by", nargs="+", default=["loss.weight"], help="keys of the config to compare")
    parser.add_argument("--data", help="take runs of this data config alone")
    arguments = parser.parse_args()
    table = ablation(arguments.runs, arguments.by, arguments.data)
    folder = arguments.runs / "tables"
    folder.mkdir(exist_ok=True)
    table.numbers().to_csv(folder / f"{table.name}.csv")
    (folder / f"{table.name}.md").write_text(table.markdown() + "\n")
    print(table.markdown())


if __name__ == "__main__":
    main()
