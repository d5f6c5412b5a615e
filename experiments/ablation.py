"""What settings do to the scores: a row for each loss and setting, and its difference to one of them.

``python -m experiments.ablation runs --data covidA_cv --baseline cb_fliprot`` prints Markdown and writes it, and CSV,
into ``runs/tables``: mean ± standard deviation over seeds, and an interval of the difference to the baseline by a
paired bootstrap over test scans. The folds of a cross-validation are pooled: the scores are those of all held-out
slices, each predicted by the run that did not train on it. With ``--last`` they are of the last epoch's weights, in
``runs/tables/last``.
"""

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from cbseg.errors import InputError, check_choice
from cbseg.folds import pool_folds
from cbseg.results import Result, by_setting, find_results
from cbseg.run_name import name_parts
from experiments.command_line import one_message, parse_with_runs
from experiments.compare import ALL_SCORES, BySeed, compare, explanation
from experiments.table_format import MISSING, Cell, Table
from experiments.tables import COLUMNS, DIGITS, titles

Rows = Mapping[str, BySeed]
"""Results by seed, of each loss and setting."""


def rows_of(results: Mapping[Path, Result]) -> dict[str, dict[str, dict[int, Path]]]:
    """Return what to compare: folders by data, row and seed. A row is a loss, and what not all of its data change."""
    found: dict[str, dict[tuple[str, str], dict[int, Path]]] = defaultdict(dict)
    for setting in by_setting(results):
        for data, losses in setting.by_seed().items():
            for loss, seeds in losses.items():
                found[data][loss, setting.title] = seeds
    return {data: _named(rows) for data, rows in sorted(found.items())}


def _named(rows: Mapping[tuple[str, str], dict[int, Path]]) -> dict[str, dict[int, Path]]:
    """Name rows by their loss and those parts of their setting's title that not all have, in the losses' order."""
    parts = {title: _parts(title) for _, title in rows}
    common = set.intersection(*map(set, parts.values()))
    order = list(titles(loss for loss, _ in rows))
    names = {
        (loss, title): " ".join([loss, *(part for part in parts[title] if part not in common)])
        for loss, title in sorted(rows, key=lambda row: (order.index(row[0]), len(parts[row[1]]), by_numbers(row[1])))
    }
    times = Counter(names.values())
    return {name if times[name] == 1 else " ".join(row): rows[row] for row, name in names.items()}


def _parts(title: str) -> list[str]:
    """Return what a setting's title says that it changes, and what tells it apart from others of its name."""
    name, bracket, differing = title.partition(" (")
    return name_parts(name) + [f"({differing}"] * bool(bracket)


def by_numbers(text: str) -> list[str | float]:
    """Return a key by which texts are sorted with the numbers that keys are set to by size.

    >>> sorted(["labelled=45", "labelled=5", "lr=0.001", "lr=1e-05", "lr=-1"], key=by_numbers)
    ['labelled=5', 'labelled=45', 'lr=-1', 'lr=1e-05', 'lr=0.001']
    """
    number = r"(?<==)([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    return [float(part) if k % 2 else part for k, part in enumerate(re.split(number, text))]


def ablation(data: str, rows: Rows, score: str, baseline: str | None = None) -> tuple[Table, pd.DataFrame]:
    """Make one dataset's table of scores, and that of differences.

    Args:
        data: Its name.
        rows: What to compare.
        score: Compare in this one of ``ALL_SCORES``.
        baseline: The row to compare with; the first, if none is given.

    Raises:
        InputError: If there is no such row.
    """
    baseline = next(iter(rows)) if baseline is None else baseline
    check_choice("--baseline", baseline, list(rows))
    columns = {**COLUMNS["segmentation"], score: COLUMNS["segmentation"].get(score, score)}
    cells = {
        name: {title: Cell({k: one.test.get(key) for k, one in seeds.items()}, None) for key, title in columns.items()}
        for name, seeds in rows.items()
    }
    compared = {name: compare(data, name, seeds, rows[baseline], score) for name, seeds in rows.items()}
    differences = pd.DataFrame.from_dict({name: one.text() for name, one in compared.items()}, orient="index")
    differences.loc[baseline, ["Difference", "95 % interval"]] = MISSING
    caption = f"{data}, difference in {score} to {baseline}"
    table = Table("ablation", caption, "Setting", cells, DIGITS + 1, with_paper=False)
    return table, differences[["Seeds", "Scans", "Difference", "95 % interval"]]


def write(
    runs: Path,
    data: str | None,
    score: str,
    baseline: str | None,
    last: bool = False,
    folds: Collection[int] = (),
    out: Path | None = None,
) -> str:
    """Write the tables into ``<out>/tables`` and return them in Markdown.

    Args:
        runs: Where the runs are.
        data: Take runs of this data config alone, if it is given.
        score: See :func:`ablation`.
        baseline: See :func:`ablation`.
        last: Whether to take the last epoch's weights, and write below ``<out>/tables/last``.
        folds: Pool these folds alone; see :func:`cbseg.folds.pool_folds`.
        out: Where to write, ``runs`` if it is None.

    Raises:
        InputError: If there is no finished run, or none of this data, or the score or the baseline do not exist.
    """
    check_choice("--score", score, ALL_SCORES)
    found = {path: result for path, result in find_results(runs).items() if data in (None, result.data)}
    if not found:
        raise InputError(f"{runs}: holds no finished run of data={data}")
    results = pool_folds(found, folds)
    folder = (out or runs) / "tables" / ("last" if last else "")
    if last:
        results = {path: result.of_last_epoch() for path, result in results.items()}
    sections, numbers = [], []
    for dataset, folders in rows_of(results).items():
        rows = {name: {seed: results[path] for seed, path in seeds.items()} for name, seeds in folders.items()}
        table, differences = ablation(dataset, rows, score, baseline)
        text = table.text().drop(columns="Seeds", errors="ignore").join(differences)
        sections += [f"**{table.caption}{'; weights of the last epoch' if last else ''}**"]
        sections += [text.to_markdown(disable_numparse=True), table.note]
        numbers.append(table.numbers().assign(data=dataset))
    markdown = "\n\n".join(filter(None, [*sections, explanation(results.values(), score, baseline or "the first row")]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ablation.md").write_text(markdown + "\n")
    pd.concat(numbers).to_csv(folder / "ablation.csv")
    return markdown


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="What settings do to the scores.")
    parser.add_argument("--data", help="take runs of this data config alone")
    parser.add_argument("--score", default="dice", help=f"one of {', '.join(ALL_SCORES)}")
    parser.add_argument("--baseline", help="the row to compare with, as the table names it; the first if none is given")
    parser.add_argument("--folds", type=int, nargs="+", default=(), help="pool these folds alone")
    parser.add_argument("--last", action="store_true", help="of the last epoch's weights, not the selected ones'")
    arguments = parse_with_runs(parser)
    with one_message():
        print(write(**vars(arguments)))


if __name__ == "__main__":
    main()
