"""Figures from run folders: what is annotated (paper, Figure 1), predicted (Figure 3) and counted (§4.4).

``python -m experiments.figures runs`` writes ``<data>[,<settings>].png``, ``…-annotation.png`` and ``…-counting.png``
into ``runs/figures``, each with a PDF beside it.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from skimage.measure import regionprops

from cbseg.drawing import legend, paint, show
from cbseg.errors import InputError
from cbseg.metrics import count_errors, region_grid
from cbseg.overlays import read_slice
from cbseg.points import IGNORE, find_regions, is_infection
from cbseg.results import Result, Setting, by_setting, find_results
from cbseg.run_folder import RunFolder
from cbseg.run_name import file_name
from experiments.command_line import one_message, parse_with_runs
from experiments.tables import PAPER_LOSSES, titles

log = logging.getLogger(__name__)

LEVEL = 4  # of GAME, as in the paper

ByLoss = dict[str, tuple[Path, Result]]
"""Each loss's run folder and result, in the order to show."""

Slices = dict[str, dict[str, Any]]
"""Each slice's arrays by loss."""


def shown_score(score: float | None) -> str:
    """Return a score as a title has it."""
    return "undefined" if score is None else f"{score:.2f}"


def by_data(setting: Setting) -> dict[str, ByLoss]:
    """Return what to compare: of each data, the run of each loss with the lowest seed."""
    found = {}
    for data, losses in setting.by_seed().items():
        first = {loss: seeds[min(seeds)] for loss, seeds in losses.items()}
        found[data] = {loss: (first[loss], setting.results[first[loss]]) for loss in titles(first)}
    return found


def common_slices(runs: ByLoss) -> Slices:
    """Read the slices that all runs recorded by name, then loss; see :class:`cbseg.overlays.SliceRecorder`.

    One that cannot be read is named and left out.
    """
    recorded = [{path.stem for path in RunFolder(folder).slices.glob("*.npz")} for folder, _ in runs.values()]
    found: Slices = {}
    for name in sorted(set.intersection(*recorded)):
        files = {loss: RunFolder(folder).slices / f"{name}.npz" for loss, (folder, _) in runs.items()}
        try:
            arrays = {loss: read_slice(file) for loss, file in files.items()}
        except InputError as error:
            log.warning("%s", error)
            continue
        if len({one["image"].shape for one in arrays.values()}) > 1:
            log.warning("%s: is a slice of several sizes; it is shown nowhere", ", ".join(map(str, files.values())))
            continue
        found[name] = arrays
    return found


def most_regions(slices: Slices) -> tuple[str, dict[str, Any]]:
    """Return the slice whose truth has most regions, and its arrays by loss.

    Args:
        slices: One or more; see :func:`common_slices`.
    """
    return max(slices.items(), key=lambda item: region_grid(next(iter(item[1].values()))["truth"], 0).sum())


def annotation(data: str, slices: Slices) -> Figure:
    """Show what full and point supervision label on the slice with most regions (paper, Figure 1).

    Args:
        data: For the title.
        slices: One or more; see :func:`common_slices`.
    """
    name, by_loss = most_regions(slices)
    image, points, truth = (next(iter(by_loss.values()))[key] for key in ("image", "points", "truth"))
    infected = int(is_infection(points).sum())
    background = int((points == 0).sum())
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 3)
    show(axes[0], image, name)
    show(axes[1], paint(image, truth), f"full supervision: {(truth != IGNORE).sum()} pixels")
    show(axes[2], image, f"points: {infected} on infected regions, {background} on the background", points)
    figure.suptitle(f"{data}: what is labelled. Green and red: infection; yellow: background", fontsize=9)
    return figure


def qualitative(data: str, runs: ByLoss, slices: Slices) -> Figure:
    """Show one row a recorded slice: image, points, truth, and each loss's prediction.

    Args:
        data: For the title.
        runs: What to compare.
        slices: One or more that all of them recorded; see :func:`common_slices`.
    """
    columns = 3 + len(runs)
    figure = Figure(figsize=(2 * columns, 2.1 * len(slices) + 0.6), layout="constrained")
    for axes, (name, by_loss) in zip(figure.subplots(len(slices), columns, squeeze=False), slices.items(), strict=True):
        first = next(iter(by_loss.values()))
        show(axes[0], first["image"], name)
        show(axes[1], first["image"], "points", first["points"])
        show(axes[2], paint(first["image"], first["truth"]), "truth")
        for ax, (loss, arrays) in zip(axes[3:], by_loss.items(), strict=True):
            dice = shown_score(runs[loss][1].test["dice"])
            title = f"{titles(runs)[loss]}, test Dice {dice}"
            show(ax, paint(arrays["image"], arrays["truth"], arrays["prediction"]), title)
    figure.suptitle(f"{data}. {legend(_classes(runs))}", fontsize=9)
    return figure


def counting(data: str, runs: ByLoss, slices: Slices) -> Figure:
    """Show the recorded slice with most regions: the regions numbered, and where GAME finds errors.

    Args:
        data: For the title.
        runs: What to compare.
        slices: One or more that all of them recorded; see :func:`common_slices`.
    """
    name, by_loss = most_regions(slices)
    image, truth = (next(iter(by_loss.values()))[key] for key in ("image", "truth"))
    figure = Figure(figsize=(3.4 * (1 + len(runs)), 3.9), layout="constrained")
    axes = figure.subplots(1, 1 + len(runs))
    show(axes[0], paint(image, truth), "")
    axes[0].set_title(f"{name}: {number_regions(axes[0], truth)} true regions", fontsize=8)
    for ax, (loss, arrays) in zip(axes[1:], by_loss.items(), strict=True):
        prediction = arrays["prediction"]
        show(ax, paint(image, truth, prediction), "")
        count = number_regions(ax, prediction)
        draw_errors(ax, prediction, truth)
        errors = count_errors(torch.from_numpy(prediction)[None], torch.from_numpy(truth)[None], LEVEL).tolist()
        test = runs[loss][1].test
        ax.set_title(
            f"{titles(runs)[loss]}: {count} blobs\nhere |error| {errors[0]}, GAME({LEVEL}) {errors[-1]}; "
            f"test MAE {shown_score(test['mae'])}, GAME {shown_score(test['game'])}",
            fontsize=8,
        )
    framed = "a framed cell holds too many centroids (+) or too few (−)"
    figure.suptitle(f"{data}. {legend(_classes(runs))}; {framed}", fontsize=9)
    return figure


def _classes(runs: ByLoss) -> tuple[str, ...]:
    """Return the names of the classes that some runs tell apart."""
    return next(iter(runs.values()))[1].class_names


def number_regions(ax: Axes, mask: NDArray[np.uint8]) -> int:
    """Write 1…n at the centroids of a mask's regions, and return n."""
    labels, count = find_regions(is_infection(mask))
    for region in regionprops(labels):
        row, column = region.centroid
        ax.text(column, row, str(region.label), color="white", fontsize=7, ha="center", va="center", weight="bold")
    return count


def draw_errors(ax: Axes, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
    """Draw GAME's grid, and a frame with the surplus of predicted regions around each cell where there is one."""
    height, width = (side / 2**LEVEL for side in truth.shape)
    for k in range(1, 2**LEVEL):
        ax.axhline(k * height - 0.5, color="white", linewidth=0.3, alpha=0.5)
        ax.axvline(k * width - 0.5, color="white", linewidth=0.3, alpha=0.5)
    surplus = region_grid(prediction, LEVEL) - region_grid(truth, LEVEL)
    for row, column in np.argwhere(surplus):
        corner = (column * width - 0.5, row * height - 0.5)
        ax.add_patch(Rectangle(corner, width, height, fill=False, color="yellow", linewidth=1))
        ax.text(*corner, f"{surplus[row, column]:+d}", color="yellow", fontsize=6, va="bottom")


def write(runs: Path, out: Path | None = None) -> list[str]:
    """Draw the figures of each data and setting, from the lowest seed of each loss.

    Args:
        runs: Where the runs are.
        out: Where to write, ``runs`` if it is None.

    Returns:
        A line on each: where it is, or why there is none.

    Raises:
        InputError: If there is no finished run.
    """
    settings, lines = by_setting(find_results(runs)), []
    drawn = (out or runs) / "figures"
    drawn.mkdir(parents=True, exist_ok=True)
    for setting, (data, found) in [(one, item) for one in settings for item in by_data(one).items()]:
        slices = common_slices(found)
        figures = {"": qualitative(data, found, slices) if slices else None}
        if slices:
            figures["-annotation"] = annotation(data, slices)
        if counted := {loss: found[loss] for loss in PAPER_LOSSES["counting"] if loss in found}:
            slices = common_slices(counted)
            figures["-counting"] = counting(data, counted, slices) if slices else None
        for suffix, figure in figures.items():
            name = file_name(",".join(filter(None, [data, setting.file_name]))) + suffix
            if figure is None:
                lines.append(f"{name}: no figure, the runs recorded no slice in common (overlays=0?)")
                continue
            for kind in ("png", "pdf"):
                figure.savefig(drawn / f"{name}.{kind}", dpi=160 if suffix else 110)
            lines.append(f"{name}: {drawn / name}.png, .pdf")
    return lines


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Figures from run folders.")
    arguments = parse_with_runs(parser)
    with one_message():
        print("\n".join(write(arguments.runs, arguments.out)))


if __name__ == "__main__":
    main()
