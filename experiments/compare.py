"""How much each loss differs from a baseline, with intervals from a paired bootstrap over test scans.

``python -m experiments.compare runs --score dice --baseline pl`` prints Markdown and writes it, and CSV, into
``runs/tables``. Scans are drawn with replacement, the same for both losses; their raw counts add up to a dataset-level
score of each loss; the interval holds the middle 95 % of the differences between the two. With ``--last`` the last
epoch's weights are compared, not the selected ones', and ``runs/tables/last`` is written.
"""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbseg.errors import InputError
from cbseg.folds import pool_folds
from cbseg.metrics import (
    COUNTING_SCORES,
    COUNTS,
    SCORES,
    SURFACE_SCORES,
    Counts,
    counting_scores,
    segmentation_scores,
    surface_scores,
)
from cbseg.results import Result, Setting, by_setting, find_results
from experiments.command_line import one_message, parse_with_runs
from experiments.table_format import MISSING
from experiments.tables import titles

ALL_SCORES = [*SCORES, "dice_mean", *SURFACE_SCORES, *COUNTING_SCORES]
RESAMPLES, SEED = 10_000, 0
FEW = 6
"""An interval from fewer scans is not to be trusted."""

BySeed = Mapping[int, Result]
"""One loss's results by seed."""


@dataclass(frozen=True)
class Difference:
    """A loss's score minus the baseline's, the mean over ``seeds`` common to both, of ``all_seeds`` that either has.

    ``undefined`` is the share of resamples left out because a score is 0/0 there; ``remark`` says why there is no
    interval, or what is wrong with it.
    """

    data: str
    loss: str
    seeds: int
    all_seeds: int
    scans: int = 0
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    undefined: float | None = None
    remark: str = ""

    def text(self) -> dict[str, str]:
        """Return the cells of a Markdown table's row."""
        interval = "none" if self.low is None else f"{self.low:+z.3f} to {self.high:+z.3f}"
        return {
            "Data": self.data,
            "Loss": titles([self.loss])[self.loss],
            "Seeds": str(self.seeds) + (f" of {self.all_seeds}" if self.seeds < self.all_seeds else ""),
            "Scans": str(self.scans or MISSING),
            "Difference": MISSING if self.difference is None else f"{self.difference:+z.3f}",
            "95 % interval": f"{interval} ({self.remark})" if self.remark else interval,
        }


def scan_counts(result: Result) -> NDArray[np.float64]:
    """Return what a run counted by test scan, in the order of the scans' names.

    Shape:
        - output: (N, 4 K + 13) for N scans and K foreground classes: ``COUNTS`` of each class, the counting errors at
          5 levels, slices that are known everywhere, and those that are known at some pixels only, 4 sums of
          ``SURFACE_SCORES``, the scan's own Dice, and whether it is defined.
    """
    rows = []
    for name in sorted(result.scans):
        scan = Counts.of_named(result.scans[name])
        dice = scan.own_dice().item()
        own = [0, 0] if np.isnan(dice) else [dice, 1]
        rows.append([*scan.pixels.ravel(), *scan.errors, scan.whole, scan.sparse, *scan.surface, *own])
    return np.array(rows, np.float64)


def dataset_scores(counts: NDArray[np.float64], score: str) -> NDArray[np.float64]:
    """Compute one dataset-level score from each row of summed counts, NaN where it is undefined or was not measured.

    Shape:
        - counts: (R, 4 K + 13), see :func:`scan_counts`; output: (R,).
    """
    columns = (torch.from_numpy(part) for part in np.split(counts, [-13, -8, -6, -2], axis=1))
    pixels, errors, known, surface, dice = columns

    def one(p: Tensor, e: Tensor, k: Tensor, s: Tensor, d: Tensor) -> Tensor:
        scores = (
            segmentation_scores(p, k[1]) | counting_scores(e, k[0]) | surface_scores(s) | {"dice_mean": d[0] / d[1]}
        )
        return scores[score]

    return torch.vmap(one)(pixels.reshape(len(counts), len(COUNTS), -1), errors, known, surface, dice).numpy()


def mean_score(weights: NDArray[np.int64], counts: NDArray[np.float64], score: str) -> NDArray[np.float64]:
    """Compute the mean over seeds of the score of weighted scans, NaN where it is undefined in any seed.

    Shape:
        - weights: (R, N); counts: (S, N, 4 K + 13); output: (R,).
    """
    return np.mean([dataset_scores(weights @ one, score) for one in counts], axis=0)


def bootstrap(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], score: str, resamples: int, seed: int
) -> NDArray[np.float64]:
    """Draw the differences of two losses' scores on the same resamples of scans, NaN where one is undefined.

    Args:
        ours: Each seed's counts, see :func:`scan_counts`; scores are means over seeds.
        theirs: The baseline's, of the same seeds and scans.
        score: One of ``ALL_SCORES``.
        resamples: How many.
        seed: Which.

    Shape:
        - ours, theirs: (S, N, 4 K + 13); output: (R,).
    """
    scans = ours.shape[1]
    drawn = np.random.default_rng(seed).multinomial(scans, np.full(scans, 1 / scans), size=resamples)
    return mean_score(drawn, ours, score) - mean_score(drawn, theirs, score)


def compare(data: str, loss: str, ours: BySeed, theirs: BySeed, score: str) -> Difference:
    """Compare two losses on one dataset: the difference, with an interval where the runs allow one.

    Args:
        data: Its name.
        loss: Its name.
        ours: The loss's runs.
        theirs: The baseline's.
        score: One of ``ALL_SCORES``.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    row = Difference(data, loss, len(seeds), len(ours.keys() | theirs.keys()))
    if not seeds:
        return replace(row, remark="no seed in common" if theirs else "the baseline was not run")
    if len({_tested(results[k]) for results in (ours, theirs) for k in seeds}) > 1:
        return replace(row, remark="the runs were tested on different scans")
    our_counts, their_counts = (np.stack([scan_counts(results[k]) for k in seeds]) for results in (ours, theirs))
    row = replace(row, scans=our_counts.shape[1])
    whole = np.ones((1, row.scans), np.int64)
    difference = (mean_score(whole, our_counts, score) - mean_score(whole, their_counts, score)).item()
    if np.isnan(difference):
        return replace(row, remark=f"{score} is undefined in a run, or was not measured")
    row = replace(row, difference=difference)
    if row.scans == 1:
        return replace(row, remark="one test scan")
    drawn = bootstrap(our_counts, their_counts, score, RESAMPLES, SEED)
    undefined = int(np.isnan(drawn).sum())
    low, high = np.nanpercentile(drawn, [2.5, 97.5]).tolist()
    remarks = [f"fewer than {FEW} scans: not to be trusted"] if row.scans < FEW else []
    remarks += [f"{undefined:,} of {RESAMPLES:,} resamples left out, undefined"] if undefined else []
    return replace(row, low=low, high=high, undefined=undefined / RESAMPLES, remark="; ".join(remarks))


def _tested(result: Result) -> frozenset[tuple[str, str]]:
    """Return what tells test sets apart: the scans' names and infected pixels."""
    return frozenset((name, str(np.add(scan["tp"], scan["fn"]))) for name, scan in result.scans.items())


def differences(setting: Setting, score: str, baseline: str) -> list[Difference]:
    """Compare every loss with the baseline on every dataset.

    Args:
        setting: Its runs.
        score: One of ``ALL_SCORES``.
        baseline: A loss's name.
    """
    found = {
        data: {loss: {seed: setting.results[run] for seed, run in runs.items()} for loss, runs in losses.items()}
        for data, losses in setting.by_seed().items()
    }
    return [
        compare(data, loss, losses[loss], losses.get(baseline, {}), score)
        for data, losses in sorted(found.items())
        for loss in titles(losses)
        if loss != baseline
    ]


def explanation(results: Iterable[Result], score: str, baseline: str) -> str:
    """Say what the numbers of :func:`differences` tell, and what they do not."""
    better = "lower" if score in (*COUNTING_SCORES, "hd95") else "higher"
    single = {result.data for result in results if all(scan["slices"] == 1 for scan in result.scans.values())}
    lines = [
        f"Difference: test {score} ({better} is better) minus that of {titles([baseline])[baseline]}, each the mean",
        "over the seeds run for both.",
        f"Interval: paired bootstrap over test scans, {RESAMPLES:,} resamples, seed {SEED}. It says what other scans",
        "may change, not what other training seeds may.",
    ]
    if single:
        lines += [f"A scan of {', '.join(sorted(single))} is one slice; slices of one patient count as independent,"]
        lines += ["so that intervals may be too narrow."]
    return "\n".join(lines)


def write(runs: Path, score: str, baseline: str, last: bool = False, out: Path | None = None) -> str:
    """Write every setting's differences into ``<out>/tables`` and return them in Markdown.

    Args:
        runs: Where the runs are.
        score: One of ``ALL_SCORES``.
        baseline: A loss's name.
        last: Whether to compare the last epoch's weights, below ``<out>/tables/last``.
        out: Where to write, ``runs`` if it is None.

    Raises:
        InputError: If there is no finished run, or the score or the baseline do not exist.
    """
    results = pool_folds(find_results(runs))
    folder = (out or runs) / "tables"
    if last:
        results, folder = {path: result.of_last_epoch() for path, result in results.items()}, folder / "last"
    losses = titles(result.loss for result in results.values())
    for option, value, choices in (("score", score, ALL_SCORES), ("baseline", baseline, list(losses))):
        if value not in choices:
            raise InputError(f"--{option} {value}: unknown; choose one of: {', '.join(choices)}")
    sections, rows = [], []
    for setting in by_setting(results):
        compared = differences(setting, score, baseline)
        table = pd.DataFrame([difference.text() for difference in compared])
        text = table.to_markdown(index=False, disable_numparse=True) if compared else f"No loss but {baseline} was run."
        sections += [f"# Settings: {setting.title}{'; weights of the last epoch' if last else ''}", text]
        rows += [{"settings": setting.title, "score": score, "baseline": baseline} | asdict(row) for row in compared]
    markdown = "\n\n".join([*sections, explanation(results.values(), score, baseline)]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "differences.md").write_text(markdown)
    pd.DataFrame(rows).to_csv(folder / "differences.csv", index=False)
    return markdown


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Differences between losses, with intervals over test scans.")
    parser.add_argument("--score", default="dice", help=f"one of {', '.join(ALL_SCORES)}")
    parser.add_argument("--baseline", default="pl", help="the loss to compare with")
    parser.add_argument("--last", action="store_true", help="of the last epoch's weights, not the selected ones'")
    arguments = parse_with_runs(parser)
    with one_message():
        print(write(arguments.runs, arguments.score, arguments.baseline, arguments.last, arguments.out))
    print(f"Markdown and CSV are in {arguments.out / 'tables' / ('last' if arguments.last else '')}/differences.*")


if __name__ == "__main__":
    main()
