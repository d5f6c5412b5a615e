"""Clicks against masks in equal time: Dice against the minutes that the labels take.

``python -m experiments.rival runs`` draws ``<data>-minutes.png`` and ``.pdf`` into ``runs/figures``, and prints the
numbers; ``python -m cbseg.run experiment=covidA_rival`` trains what it needs. A loss is a line over runs with
different ``data.labelled``, averaged over seeds. These label the same slices, so that the bands do not tell what a
choice of others would change.
"""

import argparse
import logging
import re
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from cbseg.errors import InputError
from cbseg.folds import pool_folds
from cbseg.results import Result, find_results
from experiments.ablation import rows_of
from experiments.command_line import one_message, parse_with_runs
from experiments.table_format import Cell

log = logging.getLogger(__name__)

SECONDS = {"clicks": (1, 3), "regions": (10, 15)}
"""What a click takes (Laradji et al. 2020, after Bearman et al. 2016), and the outline of a region."""


def minutes(result: Result) -> tuple[float, float]:
    """Return the least and the most minutes that a run's labels take, its background clicks included."""
    ((kind, count),) = result.labels.items()
    low, high = SECONDS[kind]
    return low * count / 60, high * count / 60


def points(runs: Path, last: bool = False) -> pd.DataFrame:
    """Return a row for each data, line and number of labelled slices, in the order of time.

    Those whose Dice is undefined in a seed are left out, with a message.

    Raises:
        InputError: If there is no finished run that says how many labels it learned from, or no Dice is defined.
    """
    results = {path: result for path, result in pool_folds(find_results(runs)).items() if result.labels}
    if not results:
        raise InputError(f"{runs}: no run says how many clicks or regions it learned from; run them anew (rerun=true)")
    rows = []
    for data, by_row in rows_of(results).items():
        for name, seeds in by_row.items():
            found = {k: results[path].of_last_epoch() if last else results[path] for k, path in seeds.items()}
            dice = Cell({k: result.test["dice"] for k, result in found.items()}, None)
            if dice.mean is None:
                log.warning("%s: Dice of %s is undefined in a seed; left out", data, name)
                continue
            first = next(iter(found.values()))
            low, high = minutes(first)
            row = {"data": data, "line": re.sub(r" data\.labelled=\d+", "", name), "slices": first.split["train"]}
            row |= {"minutes_low": low, "minutes_high": high, "seeds": len(found)}
            rows.append(row | {"dice": dice.mean, "dice_low": min(dice.known), "dice_high": max(dice.known)})
    if not rows:
        raise InputError(f"{runs}: no run has a defined Dice; test on masks with infection, or train longer")
    return pd.DataFrame(rows).sort_values(["data", "line", "minutes_low"], ignore_index=True)


def draw(data: str, found: pd.DataFrame) -> Figure:
    """Draw one dataset's :func:`points`: bars span the minutes, bands the seeds."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for name, line in found.groupby("line", sort=False):
        middle = (line["minutes_low"] + line["minutes_high"]) / 2
        bars = [middle - line["minutes_low"], line["minutes_high"] - middle]
        drawn = axes.errorbar(middle, line["dice"], xerr=bars, marker="o", markersize=4, capsize=2, elinewidth=0.8)
        drawn.set_label(str(name))
        axes.fill_between(middle, line["dice_low"], line["dice_high"], alpha=0.15)
        for x, y, slices in zip(middle, line["dice"], line["slices"], strict=True):
            axes.annotate(f"{slices}", (x, y), (0, 6), textcoords="offset points", fontsize=7, ha="center")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="minutes of annotation (1 to 3 s a click, 10 to 15 s a region)", ylabel="test Dice")
    axes.set_title(f"{data}: numbers are slices; bands over seeds, lowest to highest, on the same slices", fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="lower right")
    return figure


def write(runs: Path, last: bool = False, out: Path | None = None) -> str:
    """Draw each dataset's figure into ``<out>/figures``, ``runs`` if it is None, and return the numbers in Markdown."""
    found = points(runs, last)
    folder = (out or runs) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    sections = []
    for data, of_data in found.groupby("data"):
        for kind in ("png", "pdf"):
            draw(str(data), of_data).savefig(folder / f"{data}-minutes.{kind}", dpi=160)
        sections.append(of_data.to_markdown(index=False, floatfmt=".3f"))
        sections.append(f"{folder / f'{data}-minutes'}.png, .pdf")
    return "\n\n".join(sections)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Dice against the minutes that the labels take.")
    parser.add_argument("--last", action="store_true", help="of the last epoch's weights, not the selected ones'")
    arguments = parse_with_runs(parser)
    with one_message():
        print(write(arguments.runs, arguments.last, arguments.out))


if __name__ == "__main__":
    main()
