"""One HTML page from run folders: scores, learning curves, predictions, failures, and how each run was made.

``python -m experiments.report runs`` writes ``runs/report.html``. It needs no network and no other file.
"""

import argparse
import base64
import io
import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image

from cbseg.data.reading import text_of
from cbseg.drawing import legend, paint
from cbseg.errors import InputError
from cbseg.metrics import Counts
from cbseg.points import IGNORE, count_regions, is_infection
from cbseg.results import Result, Setting, by_setting, read_results
from cbseg.run_config import read_config
from cbseg.run_folder import RunFolder
from experiments.command_line import one_message, parse_with_runs
from experiments.figures import ByLoss, by_data, common_slices
from experiments.table_format import MISSING
from experiments.tables import LOSSES, tables, titles

log = logging.getLogger(__name__)

LONGEST_SIDE = 384  # pixels of an embedded slice, twice what a panel takes on a laptop's screen
OPACITY = 0.5  # of masks on slices
CURVES = ("val/dice", "val/mae", "train/loss")


@dataclass(frozen=True)
class Run:
    """A run's folder and its place in the grid; its result is None unless it finished."""

    folder: RunFolder
    data: str
    loss: str
    seed: int | str
    settings: str
    result: Result | None = None

    @property
    def status(self) -> str:
        """``finished``, ``failed`` or ``unfinished``: still running, or interrupted."""
        return "finished" if self.result else "failed" if self.folder.error.is_file() else "unfinished"

    @property
    def reason(self) -> str:
        """Why it failed, in a line."""
        return self.folder.failure() if text_of(self.folder.error).strip() else ""

    @property
    def error(self) -> str:
        """Why it failed, in full."""
        return text_of(self.folder.error)

    @property
    def config(self) -> str:
        """Its config, empty if there is none."""
        return text_of(self.folder.config)

    @property
    def phantom(self) -> bool:
        """Whether its data were drawn, of no patient."""
        if not self.folder.config.is_file():
            return False
        try:
            return OmegaConf.select(read_config(self.folder.config), "data.generate") is not None
        except InputError as error:
            log.warning("%s", error)
            return False

    @cached_property
    def curves(self) -> dict[str, dict[int, float]]:
        """``metrics.csv``: each score's value by epoch, from 1; empty if nothing was logged."""
        logged = self.folder.read_curves()
        if logged.empty:
            return {}
        numbers = logged.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
        by_epoch = numbers.set_index("epoch").to_dict("series")
        return {str(score): {int(k): x for k, x in column.items() if x == x} for score, column in by_epoch.items()}


def find_runs(runs: Path) -> dict[str, tuple[Setting | None, list[Run]]]:
    """Find every run, finished or not: by setting's title, its finished ones, and all in order.

    What did not finish is shown with the setting of its folder's name.

    Raises:
        InputError: If there is none.
    """
    folders = RunFolder.find(runs)
    if not folders:
        raise InputError(f"{runs}: holds no run (<data>/<loss>/seed<k>); run python -m cbseg.run first")
    results = read_results(runs)
    found: dict[str, tuple[Setting | None, list[Run]]] = {}
    for setting in by_setting(results):
        places = [(RunFolder(path), result) for path, result in setting.results.items()]
        found[setting.title] = setting, [Run(f, r.data, r.loss, r.seed, r.settings, r) for f, r in places]
    for folder in folders:
        if folder.path not in results:
            run = Run(folder, **folder.place)  # type: ignore[arg-type]
            found.setdefault(run.settings or "the defaults", (None, []))[1].append(run)
    return dict(sorted(found.items(), key=lambda item: item[0].replace("the defaults", "")))


@dataclass(frozen=True)
class Axis:
    """Where values lie on a side of a chart: ``low`` at the pixel ``start``, ``high`` at ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(cls, score: str, values: Collection[float]) -> "Axis":
        """Make the vertical axis for a score's values: from 0, Dice up to 1; logarithmic for losses over decades."""
        low, high = min(values), max(values)
        if score.startswith("train/") and 0 < low * 30 < high:
            return cls(low, high, 196, 8, log=True)
        return cls(min(low, 0), 1 if score == "val/dice" else max(high, 0) or 1, 196, 8)

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, value = np.log10([self.low, self.high, value]) if self.log else (self.low, self.high, value)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Pixels and labels of a few round values."""
        round_values = (1.0, 2.0, 5.0) if self.high < 300 * self.low else (1.0,)
        locator = LogLocator(subs=round_values) if self.log else MaxNLocator(5, integer=self.high > 5)
        shown = [tick for tick in locator.tick_values(self.low, self.high) if self.low <= tick <= self.high]
        return [(self.at(tick), f"{tick:.4g}") for tick in shown]


def chart(score: str, runs: list[Run]) -> dict[str, Any] | None:
    """Collect what the template draws of a score over epochs: axes, and a line a run; nothing if no run logged it."""
    logged = [(run, run.curves[score]) for run in runs if run.curves.get(score)]
    if not logged:
        return None
    x = Axis(1, max(2, *(max(curve) for _, curve in logged)), 46, 352)
    y = Axis.around(score, [value for _, curve in logged for value in curve.values()])
    lines = []
    for run, curve in logged:
        at = {epoch: (x.at(epoch), y.at(value)) for epoch, value in curve.items()}
        points = " ".join(f"{column:g},{row:g}" for column, row in at.values())
        selected = at.get(run.result.best_epoch) if run.result and score.startswith("val/") else None
        last = f"{curve[max(curve)]:.3g} in epoch {max(curve)}"
        lines.append({"run": run, "points": points, "selected": selected, "end": at[max(at)], "last": last})
    return {"score": score, "x": x, "y": y, "lines": lines}


def scan_dice(run: Run) -> dict[str, float]:
    """Compute each scan's own test Dice, NaN where it is undefined; see :meth:`cbseg.metrics.Counts.own_dice`."""
    scans = run.result.scans if run.result else {}
    return {scan: Counts.of_named(named).own_dice().item() for scan, named in scans.items()}


def distribution(runs: list[Run]) -> list[dict[str, Any]]:
    """Collect what the template draws of test Dice by scan: each loss's scans of all seeds, and their quartiles."""
    rows = []
    for loss in titles(run.loss for run in runs):
        scores = [(dice, scan, run.seed) for run in runs if run.loss == loss for scan, dice in scan_dice(run).items()]
        known = sorted(score for score in scores if score[0] == score[0])
        quartiles = np.quantile([dice for dice, _, _ in known], [0.25, 0.5, 0.75]).tolist() if known else None
        if scores:
            row = {"loss": loss, "scans": len({scan for _, scan, _ in scores}), "undefined": len(scores) - len(known)}
            rows.append(row | {"known": known, "quartiles": quartiles})
    return rows


def pictures(runs: ByLoss) -> list[dict[str, Any]]:
    """Collect what the template shows of the slices that all runs recorded, those aside that recorded none.

    Image, points and truth are given once; masks are colours to lay over the image.
    """
    recorded = {loss: run for loss, run in runs.items() if any(RunFolder(run[0]).slices.glob("*.npz"))}
    shown = []
    for name, by_loss in (common_slices(recorded) if recorded else {}).items():
        image, points, truth = (next(iter(by_loss.values()))[key] for key in ("image", "points", "truth"))
        predictions = []
        for loss, arrays in by_loss.items():
            mask = arrays["prediction"]
            joined = np.where(truth == IGNORE, IGNORE, is_infection(truth))
            counts = Counts.of(torch.from_numpy(mask > 0).long(), torch.from_numpy(joined).long())
            prediction = {"loss": loss, "overlay": overlay(truth, mask), "regions": count_regions(mask)}
            predictions.append(prediction | {"dice": counts.scores()["dice"].item()})
        everywhere = bool((points == 0).all())  # a slice without regions is labelled as a whole
        annotated = [] if everywhere else np.argwhere(points != IGNORE).tolist()
        picture = {"name": name, "height": image.shape[0], "width": image.shape[1], "predictions": predictions}
        picture |= {"truth": overlay(truth), "regions": count_regions(truth)}
        picture["points"] = [(column + 0.5, row + 0.5, bool(points[row, column])) for row, column in annotated]
        picture["image"] = embed(Image.fromarray(image), Image.Resampling.LANCZOS, quality=70)
        shown.append(picture)
    return shown


def overlay(truth: NDArray[np.uint8], prediction: NDArray[np.uint8] | None = None) -> str:
    """Return a data URI of the colours of :func:`cbseg.drawing.paint`, transparent elsewhere.

    Shape:
        - truth, prediction: :math:`(H, W)` uint8.
    """
    colours = paint(np.zeros_like(truth), truth, prediction, opacity=1)
    alpha = np.where(colours.any(-1), round(255 * OPACITY), 0).astype(np.uint8)
    return embed(Image.fromarray(np.dstack([colours, alpha])), Image.Resampling.NEAREST, lossless=True)


def embed(picture: Image.Image, resampling: Image.Resampling, **options: Any) -> str:
    """Return a picture as a data URI in WebP, no side longer than ``LONGEST_SIDE``."""
    file = io.BytesIO()
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), resampling)
    picture.save(file, "webp", method=6, **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def section(title: str, setting: Setting | None, runs: list[Run]) -> dict[str, Any]:
    """Collect what the template shows of the runs of one setting, of which some finished or none."""
    compared = by_data(setting) if setting else {}
    datasets = []
    for data in sorted({run.data for run in runs}):
        of_data = [run for run in runs if run.data == data]
        terms = {term: None for run in of_data for term in run.curves if term.startswith("train/")}
        dataset = {"name": data, "runs": of_data, "distribution": distribution(of_data)}
        dataset["charts"] = list(filter(None, (chart(score, of_data) for score in CURVES)))
        dataset["terms"] = list(filter(None, (chart(term, of_data) for term in terms if term not in CURVES)))
        names = next((result.class_names for _, result in compared.get(data, {}).values()), ("infection",))
        datasets.append(dataset | {"pictures": pictures(compared.get(data, {})), "colours": legend(names)})
    return {"title": title, "runs": runs, "tables": tables(setting) if setting else [], "datasets": datasets}


def write(runs: Path, out: Path | None = None) -> Path:
    """Write ``report.html`` into a folder, ``runs`` if there is no other, and return its path.

    Raises:
        InputError: If there is no run.
    """
    found = find_runs(runs)
    losses = titles([*LOSSES, *(run.loss for _, of_setting in found.values() for run in of_setting)])
    styles = {loss: k for k, loss in enumerate(losses)}
    for _, of_setting in found.values():
        of_setting.sort(key=lambda run: (run.data, styles[run.loss], str(run.folder)))
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = templates.get_template("report.html.j2").render(
        folder=runs,
        now=datetime.now().astimezone(),
        runs=[run for _, of_setting in found.values() for run in of_setting],
        sections=[section(title, setting, of_setting) for title, (setting, of_setting) in found.items()],
        titles=losses,
        styles=styles,
        missing=MISSING,
    )
    path = (out or runs) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="One HTML page from run folders.")
    arguments = parse_with_runs(parser)
    with one_message():
        print(write(arguments.runs, arguments.out))


if __name__ == "__main__":
    main()
