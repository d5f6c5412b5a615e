"""Look at a dataset before training on it for a day: ``python -m cbseg.data.check covidB_sep data.root=<folder>``.

Prints what was found; intensity range, orientation and spacing of each scan; the split; what is wrong with every scan
that cannot be read; and writes a contact sheet with mask outlines.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cbseg.config import build, compose
from cbseg.console import prepare_console
from cbseg.data.markups import SUFFIX, read_markups
from cbseg.data.reading import reading
from cbseg.data.scans import Scan, SliceData
from cbseg.data.store import SliceInfo
from cbseg.data.volume_scan import VolumeScan
from cbseg.drawing import show
from cbseg.errors import InputError
from cbseg.overrides import OVERRIDE_ERRORS, explain_override
from cbseg.points import IGNORE, is_infection

_COLUMNS = 6  # of the contact sheet


def check(datamodule: Any, sheet: Path) -> Iterator[str]:
    """Read every scan of a DataModule's dataset and report on it, line by line.

    Args:
        datamodule: A :class:`cbseg.data.datamodule.SliceDataModule`, not set up.
        sheet: Where the contact sheet goes.

    Yields:
        Lines to print; a problem's begins with ``problem:``.
    """
    if datamodule.generate is not None:
        datamodule.generate(datamodule.root)
    try:
        scans: Sequence[Scan] = datamodule.find_scans(datamodule.root)
    except InputError as error:
        yield f"problem: {error}"
        return
    names = ("background", *datamodule.class_names)
    slices: list[SliceInfo] = []
    pictures: list[tuple[Scan, SliceData]] = []
    for scan in scans:
        try:
            with reading(scan.files[0]):
                found = list(scan.read())
        except InputError as error:
            yield f"problem: {error}"
            continue
        infos = [SliceInfo.of(scan, k, name, mask) for k, (name, _, mask) in enumerate(found)]
        yield f"{scan.name}: {_described(scan, infos, found, names)}, {_greys([item.image for item in found])}"
        slices += infos
        fullest = max(range(len(found)), key=lambda k: int(is_infection(found[k].mask).sum()))
        pictures.append((scan, found[fullest]))
    if not slices:
        return
    infected = [item for item in slices if item.regions]
    yield (
        f"in all {len(scans)} scans, {len(slices)} slices, {len(infected)} with infection "
        f"({len(infected) / len(slices):.1%}), {sum(item.regions for item in slices)} infected regions"
    )
    try:
        split = datamodule.split_slices(slices)
        yield "split: " + ", ".join(f"{len(part)} {name}" for name, part in split._asdict().items())
    except InputError as error:
        yield f"problem: {error}"
    if cost := _cost(scans):
        yield cost
    _contact_sheet(pictures).savefig(sheet, dpi=110)
    yield f"contact sheet, each scan's most infected slice: {sheet}"
    if any(isinstance(scan, VolumeScan) for scan, _ in pictures):
        yield "if all is well, spine and table are at the bottom (P) in it, the patient's right side at the left (R)"


def _described(scan: Scan, infos: Sequence[SliceInfo], found: Sequence[SliceData], names: Sequence[str]) -> str:
    sizes = sorted({item.shape for item in infos})
    text = f"{len(infos)} slices of {' and '.join(f'{width} × {height}' for height, width in sizes)}"
    if len(infos) > 1:
        text += f", {infos[0].name} to {infos[-1].name}"
    text += f", {sum(item.regions > 0 for item in infos)} with infection"
    if clicked := [item for item in found if (item.mask == IGNORE).any()]:
        classes = np.concatenate([item.mask[item.mask != IGNORE] for item in clicked])
        known = ", ".join(f"{count} {name}" for name, count in zip(names, np.bincount(classes), strict=False))
        text += f", {len(found) - len(clicked)} known everywhere; pixels known in the others: {known}"
    if isinstance(scan, VolumeScan):
        volume = scan.open_image()
        spacing = " × ".join(f"{side:.2f}" for side in volume.spacing)
        middle = volume.slice(volume.shape[0] // 2)
        text += f", stored as {volume.orientation}, {spacing} mm, values {middle.min():.0f}…{middle.max():.0f}"
    return text


def _cost(scans: Sequence[Scan]) -> str:
    """Say what the clicks cost, as far as their time was noted; nothing where none was."""
    files = {path for scan in scans for path in scan.files if path.name.endswith(SUFFIX)}
    seconds = [point.seconds for path in sorted(files) for point in read_markups(path)]
    timed = [x for x in seconds if x is not None]
    if not timed:
        return ""
    return (
        f"clicks: {len(seconds)}, of which {len(timed)} were timed: {np.mean(timed):.1f} s each, "
        f"{sum(timed) / 60:.1f} minutes in all"
    )


def _greys(images: Sequence[NDArray[np.uint8]]) -> str:
    """Describe what shows a wrong window: the extremes, and the shares of black and white."""
    counts = np.sum([np.bincount(x.ravel(), minlength=256) for x in images], axis=0)
    low, high = np.flatnonzero(counts)[[0, -1]]
    black, white = counts[[0, 255]] / counts.sum()
    return f"grey values {low}…{high}, {black:.0%} black, {white:.0%} white"


def _contact_sheet(pictures: Sequence[tuple[Scan, SliceData]]) -> Figure:
    rows = -(-len(pictures) // _COLUMNS)
    figure = Figure(figsize=(2 * _COLUMNS, 2.1 * rows), layout="constrained")
    cells = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
    for axes, (scan, (name, image, mask)) in zip(cells, pictures, strict=False):
        partial = (mask == IGNORE).any()
        show(axes, image, name, mask if partial else None)
        if isinstance(scan, VolumeScan):
            for letter, x, y in (("A", 0.5, 0.95), ("P", 0.5, 0.05), ("R", 0.04, 0.5), ("L", 0.96, 0.5)):
                axes.text(x, y, letter, color="yellow", fontsize=6, ha="center", va="center", transform=axes.transAxes)
        if mask.any() and not partial:
            axes.contour(mask > 0, levels=[0.5], colors="red", linewidths=0.6)
    return figure


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Check a dataset before training on it.")
    parser.add_argument("data", help="a data config, such as covidA or covidB_sep")
    parser.add_argument("overrides", nargs="*", help="such as data.root=<folder> or experiment=demo")
    parser.add_argument("--sheet", type=Path, help="the contact sheet's file (default: check-<data>.png)")
    arguments = parser.parse_args()
    prepare_console(warn_on=sys.stdout)
    if arguments.sheet is not None and not arguments.sheet.parent.is_dir():
        sys.exit(f"error: --sheet {arguments.sheet}: no such folder; make it first")
    try:
        config = compose([f"data={arguments.data}", *arguments.overrides])
        sheet = arguments.sheet or Path(f"check-{arguments.data}.png")
        problems = 0
        for line in check(build(config.data, "data"), sheet):
            problems += line.startswith("problem:")
            print(line, flush=True)
    except OVERRIDE_ERRORS as error:
        sys.exit(f"error: {explain_override(error)}")
    except InputError as error:
        sys.exit(f"error: {error}")
    sys.exit(f"{problems} problem(s)" if problems else 0)


if __name__ == "__main__":
    main()
