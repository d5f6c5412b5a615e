"""What settings do: a row for each loss and combination of their values, over all seeds and folds that were run.

``python -m experiments.ablation runs --data covidA_cv --by loss.weight loss.compare`` prints Markdown and writes it,
and CSV, into ``runs/tables``: scores of the selected epoch's weights, and the last epoch's Dice, PPV and sensitivity
beside them, as mean ± standard deviation over runs.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cbseg.errors import InputError
from cbseg.results import Result, find_results
from experiments.command_line import one_message
from experiments.table_format import Cell, Table
from experiments.tables import COLUMNS, DIGITS, LOSSES

LAST = ("dice", "ppv", "sens")
POOLED = {"data.split.fold"}
"""Keys in which runs of a row may differ, beside the seed."""


def ablation(runs: Path, by: Sequence[str], data: str | None = None) -> Table:
    """Make the table.

    Args:
        runs: Where the runs are.
        by: Keys of the config. Runs that agree in data, loss and these are one row.
        data: Take runs of this data config alone, if it is given.

    Raises:
        InputError: If there is no finished run, or none of this data, no run has one of the keys, or runs of a row
            differ in yet others, or in their data.
    """
    found = [result for result in find_results(runs).values() if data in (None, result.data)]
    if not found:
        raise InputError(f"{runs}: holds no finished run of data={data}")
    for key in by:
        if all(result.keys.get(key) is None for result in found):
            raise InputError(f"{runs}: no run has a value at {key}; python -m cbseg.run --cfg job lists the keys")
    groups: dict[tuple[str, ...], list[Result]] = defaultdict(list)
    order = list(LOSSES)
    for result in found:
        values = {key: result.keys.get(key) for key in by}
        settings = [f"{key.rpartition('.')[2]}={value}" for key, value in values.items() if value is not None]
        rank = order.index(result.loss) if result.loss in order else len(order)
        groups[result.data, f"{rank:02d}", " ".join([result.loss, *settings])].append(result)
    titles = COLUMNS["segmentation"]
    rows = {}
    for (dataset, _, name), group in sorted(groups.items()):
        if more := differing(group) - set(by):
            raise InputError(
                f"{dataset} {name}: its runs differ in {', '.join(sorted(more))} as well; add these to --by"
            )
        if len({result.fingerprint for result in group}) > 1:
            raise InputError(f"{dataset} {name}: its runs were made of different data or points; compare them apart")
        cells = {titles[score]: cell([result.test for result in group], score) for score in titles}
        cells |= {f"last {titles[score]}": cell([result.last["test"] for result in group], score) for score in LAST}
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


def differing(results: Sequence[Result]) -> set[str]:
    """Return the keys in which runs differ, seed and fold aside."""
    keys = set().union(*(result.keys for result in results)) - POOLED
    return {key for key in keys if any(result.keys.get(key) != results[0].keys.get(key) for result in results)}


def cell(scores: Sequence[dict[str, Any]], name: str) -> Cell:
    """Make the cell of one score of several runs, which may differ in fold and seed."""
    return Cell({k: score[name] for k, score in enumerate(scores)}, None)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="What settings do to the scores.")
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"))
    parser.add_argument("--by", nargs="+", default=["loss.weight"], help="keys of the config to compare")
    parser.add_argument("--data", help="take runs of this data config alone")
    arguments = parser.parse_args()
    with one_message():
        table = ablation(arguments.runs, arguments.by, arguments.data)
    folder = arguments.runs / "tables"
    folder.mkdir(exist_ok=True)
    table.numbers().to_csv(folder / f"{table.name}.csv")
    (folder / f"{table.name}.md").write_text(table.markdown() + "\n")
    print(table.markdown())


if __name__ == "__main__":
    main()
