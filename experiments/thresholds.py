"""Sensitivity against PPV: a bad threshold, or a bad network?

``python -m experiments.thresholds runs`` draws ``<data>-thresholds.png`` and ``.pdf`` into ``runs/figures``: for each
loss and setting a point where it was tested, and a curve over other thresholds of its probability of infection. A point
below the best of its curve has a bad threshold; a curve below another is of a worse network.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cbseg.errors import InputError
from cbseg.folds import FOLD
from cbseg.metrics import COUNTS
from cbseg.results import find_results
from cbseg.run_folder import RunFolder
from cbseg.threshold_curves import read_curve
from experiments.ablation import rows_of
from experiments.command_line import one_message, parse_with_runs

TESTED = 0.5
"""The threshold that takes the likelier of two classes."""

STYLES = ("-", "--", ":")
"""Of curves, each for as many as there are colours."""


def curves(runs: Path, last: bool = False) -> dict[str, dict[str, pd.DataFrame]]:
    """Return PPV, sensitivity and Dice by threshold, of each data and row, from counts added up over seeds.

    Runs of single folds, and those that kept no counts, are left out.

    Raises:
        InputError: If no run is left.
    """
    results = {path: result for path, result in find_results(runs).items() if FOLD not in result.keys}
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for data, rows in (rows_of(results) if results else {}).items():
        for name, seeds in rows.items():
            kept = [counts for path in seeds.values() if (counts := read_curve(RunFolder(path), last)) is not None]
            if kept:
                tp, fp, fn, _ = (sum(counts[column] for counts in kept) for column in COUNTS)
                scores = {"ppv": tp / (tp + fp), "sens": tp / (tp + fn), "dice": 2 * tp / (2 * tp + fp + fn)}
                found.setdefault(data, {})[name] = pd.DataFrame(scores)
    if not found:
        raise InputError(f"{runs}: no run kept counts at other thresholds; run them anew (rerun=true)")
    return found


def iso_dice(axes: Axes) -> None:
    """Draw lines of equal Dice."""
    for dice in np.arange(1, 10) / 10:
        ppv = np.linspace(dice / (2 - dice), 1, 1000)
        axes.plot(ppv, dice * ppv / (2 * ppv - dice), color="grey", linewidth=0.4, zorder=0)
        axes.annotate(
            f"{dice:.1f}", (1, dice / (2 - dice)), (2, 0), textcoords="offset points", fontsize=6, va="center"
        )


def draw(data: str, rows: dict[str, pd.DataFrame]) -> Figure:
    """Draw one dataset's :func:`curves`; a cross is a curve's best Dice."""
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axes = figure.subplots()
    iso_dice(axes)
    for k, (name, scores) in enumerate(rows.items()):
        (line,) = axes.plot(scores["ppv"], scores["sens"], STYLES[k // 10 % len(STYLES)], color=f"C{k}", linewidth=0.9)
        tested, best = scores.loc[TESTED], scores.iloc[int(np.nanargmax(scores["dice"]))]
        label = f"{name}: Dice {tested['dice']:.2f}, at best {best['dice']:.2f}"
        axes.plot(tested["ppv"], tested["sens"], "o", color=line.get_color(), label=label)
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
