"""The qualitative figure (paper, Figure 3) from run folders: slice by slice, points, truth and each loss's prediction.

``python -m experiments.figures runs`` writes ``runs/figures/<data>[,<settings>].png``.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cbseg.overlays import COLOURS, paint, show
from experiments.tables import read_runs, titles


def qualitative(data: str, folders: dict[str, Path], dice: dict[str, float | None]) -> Figure | None:
    """One row a recorded slice: image, points, truth, and each loss's prediction.

    Args:
        data: For the title.
        folders: Each loss's run folder, in the order to show.
        dice: Each loss's test Dice.

    Returns:
        The figure, or nothing if the runs recorded no slice in common.
    """
    recorded = [{path.stem for path in (folder / "slices").glob("*.npz")} for folder in folders.values()]
    names = sorted(set.intersection(*recorded))
    if not names:
        return None
    columns = 3 + len(folders)
    figure = Figure(figsize=(2 * columns, 2.1 * len(names) + 0.6), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), columns, squeeze=False), names, strict=True):
        slices = {loss: np.load(folder / "slices" / f"{name}.npz") for loss, folder in folders.items()}
        first = next(iter(slices.values()))
        show(axes[0], first["image"], name)
        show(axes[1], first["image"], "points", first["points"])
        show(axes[2], paint(first["image"], first["truth"]), "truth")
        for ax, (loss, arrays) in zip(axes[3:], slices.items(), strict=True):
            score = "undefined" if dice[loss] is None else f"{dice[loss]:.2f}"
            title = f"{titles(folders)[loss]}, test Dice {score}"
            show(ax, paint(arrays["image"], arrays["truth"], arrays["prediction"]), title)
    figure.suptitle(f"{data}. {COLOURS}", fontsize=9)
    return figure


def write(runs: Path) -> list[str]:
    """Draw a figure for each data and setting, from the lowest seed of each loss.

    Returns:
        A line on each: where it is, or why there is none.

    Raises:
        SystemExit: If there is no finished run.
    """
    groups: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    dice: dict[tuple[str, str], dict[str, float | None]] = defaultdict(dict)
    for folder, run in sorted(read_runs(runs).items(), key=lambda item: item[1]["seed"], reverse=True):
        groups[run["data"], run["settings"]][run["loss"]] = folder
        dice[run["data"], run["settings"]][run["loss"]] = run["test"]["dice"]
    (runs / "figures").mkdir(exist_ok=True)
    lines = []
    for (data, settings), folders in sorted(groups.items()):
        ordered = {loss: folders[loss] for loss in titles(folders) if loss in folders}
        figure = qualitative(data, ordered, dice[data, settings])
        name = ",".join(filter(None, [data, settings]))
        if figure is None:
            lines.append(f"{name}: no figure, the runs recorded no slice in common (overlays=0?)")
            continue
        path = runs / "figures" / f"{name}.png"
        figure.savefig(path, dpi=110)
        lines.append(f"{name}: {path}")
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="The qualitative figure from run folders.")
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"))
    print("\n".join(write(parser.parse_args().runs)))


if __name__ == "__main__":
    main()
