"""The qualitative figure (paper, Figure 3) from run folders: slice by slice, points, truth and each loss's prediction.

``python -m experiments.figures runs`` writes ``runs/figures/<data>[,<settings>].png``.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cbseg.overlays import COLOURS, paint, show
from experiments.tables import LOSSES, read_runs


def qualitative(data: str, folders: dict[str, Path], dice: dict[str, float | None]) -> Figure:
    """One row a recorded slice: image, points, truth, and each loss's prediction.

    Args:
        data: For the title.
        folders: Each loss's run folder.
        dice: Each loss's test Dice.

    Raises:
        ValueError: If the runs recorded no slice in common.
    """
    recorded = [{path.stem for path in (folder / "slices").glob("*.npz")} for folder in folders.values()]
    names = sorted(set.intersection(*recorded))
    if not names:
        raise ValueError(f"{data}: the runs recorded no slice in common (overlays=0?)")
    figure = Figure(figsize=(2 * (3 + len(folders)), 2.1 * len(names) + 0.6), layout="constrained")
    grid = figure.subplots(len(names), 3 + len(folders), squeeze=False)
    for axes, name in zip(grid, names, strict=True):
        slices = {loss: np.load(folder / "slices" / f"{name}.npz") for loss, folder in folders.items()}
        first = next(iter(slices.values()))
        show(axes[0], first["image"], name)
        show(axes[1], first["image"], "points", first["points"])
        show(axes[2], paint(first["image"], first["truth"]), "truth")
        for ax, (loss, arrays) in zip(axes[3:], slices.items(), strict=True):
            score = "undefined" if dice[loss] is None else f"{dice[loss]:.2f}"
            show(
                ax,
                paint(arrays["image"], arrays["truth"], arrays["prediction"]),
                f"{LOSSES[loss]}, test Dice {score}",
            )
    figure.suptitle(f"{data}. {COLOURS}", fontsize=9)
    return figure


def write(runs: Path) -> list[Path]:
    """Draw a figure for each data and setting, from the lowest seed of each loss.

    Raises:
        SystemExit: If there is no finished run.
    """
    groups: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    dice: dict[tuple[str, str], dict[str, float | None]] = defaultdict(dict)
    for folder, run in sorted(read_runs(runs).items(), key=lambda item: item[1]["seed"], reverse=True):
        groups[run["data"], run["settings"]][run["loss"]] = folder
        dice[run["data"], run["settings"]][run["loss"]] = run["test"]["dice"]
    (runs / "figures").mkdir(exist_ok=True)
    written = []
    for (data, settings), folders in groups.items():
        path = runs / "figures" / f"{','.join(filter(None, [data, settings]))}.png"
        ordered = {loss: folders[loss] for loss in LOSSES if loss in folders}
        qualitative(data, ordered, dice[data, settings]).savefig(path, dpi=110)
        written.append(path)
    return written


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="The qualitative figure from run folders.")
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"))
    for path in write(parser.parse_args().runs):
        print(f"figure: {path}")


if __name__ == "__main__":
    main()
