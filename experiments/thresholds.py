"""Sensitivity against PPV: a bad threshold, or a bad network?

``python -m experiments.thresholds runs`` draws ``<data>-thresholds.png`` and ``.pdf`` into ``runs/figures``: for each
loss and setting a point where it was tested, and a curve over other thresholds of its probability of infection; all are
means over seeds. A point below the best of its curve has a bad threshold; a curve below another is of a worse network.
Of several kinds of infection the curve tells any from background; no threshold decides between kinds, so there is no
point.
"""

import argparse
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cbseg.errors import InputError
from cbseg.folds import FOLD
from cbseg.metrics import COUNTS
from cbseg.results import Result, find_results
from cbseg.run_folder import RunFolder
from cbseg.threshold_curves import read_curve
from experiments.ablation import rows_of
from experiments.command_line import one_message, parse_with_runs

log = logging.getLogger(__name__)

TESTED = 0.5
"""The threshold that takes the likelier of two classes."""

STYLES = ("-", "--", ":")
"""Of curves, each for as many as there are colours."""


class Curve(NamedTuple):
    """PPV, sensitivity and Dice of infection by threshold, and of how many kinds it is."""

    scores: pd.DataFrame
    kinds: int


def curves(runs: Path, last: bool = False) -> dict[str, dict[str, Curve]]:
    """Return the curve of each data and row, the mean over seeds; undefined where it is in any.

    Runs of single folds, and those that kept no counts, are left out; so are, with a message, those whose test slices
    are known at a few pixels only.

    Raises:
        InputError: If no run is left.
    """
    results = {path: result for path, result in find_results(runs).items() if FOLD not in result.keys}
    found: dict[str, dict[str, Curve]] = {}
    for data, rows in (rows_of(results) if results else {}).items():
        for name, seeds in rows.items():
            kept = [scores for path in seeds.values() if (scores := _scores(path, results[path], last)) is not None]
            if kept:
                kinds = len(results[next(iter(seeds.values()))].class_names)
                found.setdefault(data, {})[name] = Curve(sum(kept[1:], kept[0]) / len(kept), kinds)
    if not found:
        raise InputError(
            f"{runs}: no run kept counts at other thresholds; run them anew (rerun=true), with masks to test on"
        )
    return found


def _scores(path: Path, result: Result, last: bool) -> pd.DataFrame | None:
    """Return a run's scores by threshold, or None where it tells none."""
    if result.counts.get("sparse"):
        log.warning("%s: test slices are known at a few pixels only, which tell no PPV and no Dice; left out", path)
        return None
    counts = read_curve(RunFolder(path), last)
    if counts is None:
        return None
    tp, fp, fn, _ = (counts[column] for column in COUNTS)
    scores = pd.DataFrame({"ppv": tp / (tp + fp), "sens": tp / (tp + fn), "dice": 2 * tp / (2 * tp + fp + fn)})
    if scores["sens"].isna().any():
        log.warning("%s: tests no slice with infection; left out", path)
        return None
    return scores


def iso_dice(axes: Axes) -> None:
    """Draw lines of equal Dice."""
    for dice in np.arange(1, 10) / 10:
        ppv = np.linspace(dice / (2 - dice), 1, 1000)
        axes.plot(ppv, dice * ppv / (2 * ppv - dice), color="grey", linewidth=0.4, zorder=0)
        axes.annotate(
            f"{dice:.1f}", (1, dice / (2 - dice)), (2, 0), textcoords="offset points", fontsize=6, va="center"
        )


def draw(data: str, rows: dict[str, Curve]) -> Figure:
    """Draw one dataset's :func:`curves`; a cross is a curve's best Dice."""
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axes = figure.subplots()
    iso_dice(axes)
    for k, (name, (scores, kinds)) in enumerate(rows.items()):
        (line,) = axes.plot(scores["ppv"], scores["sens"], STYLES[k // 10 % len(STYLES)], color=f"C{k}", linewidth=0.9)
        tested, best = scores.loc[TESTED], scores.iloc[int(np.nanargmax(scores["dice"]))]
        at_best = f"at best {best['dice']:.2f}"
        if kinds == 1:
            axes.plot(tested["ppv"], tested["sens"], "o", color=line.get_color())
            line.set_label(f"{name}: Dice {tested['dice']:.2f}, {at_best}")
        else:
            line.set_label(f"{name}: Dice of any of {kinds} kinds of infection, {at_best}")
        axes.plot(best["ppv"], best["sens"], "x", color=line.get_color())
    axes.set(xlabel="PPV", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"{data}: tested (dot), over thresholds (curve), best (cross); grey: equal Dice", fontsize=9)
    figure.legend(fontsize=7, loc="outside lower center", ncols=2)
    return figure


def write(runs: Path, last: bool = False, out: Path | None = None) -> list[str]:
    """Draw each dataset's figure into ``<out>/figures``, ``runs`` if it is None; returns a line on each."""
    folder = (out or runs) / "figures"
    found = curves(runs, last)
    folder.mkdir(parents=True, exist_ok=True)
    for data, rows in found.items():
        for kind in ("png", "pdf"):
            draw(data, rows).savefig(folder / f"{data}-thresholds.{kind}", dpi=160)
    return [f"{folder / f'{data}-thresholds'}.png, .pdf" for data in found]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Sensitivity against PPV over thresholds of the probability.")
    parser.add_argument("--last", action="store_true", help="of the last epoch's weights, not the selected ones'")
    arguments = parse_with_runs(parser)
    with one_message():
        print("\n".join(write(arguments.runs, arguments.last, arguments.out)))


if __name__ == "__main__":
    main()
