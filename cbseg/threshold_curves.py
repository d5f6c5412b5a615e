"""A run's file of pixel counts at other thresholds of the probability of infection, beside its result."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from cbseg.errors import InputError
from cbseg.metrics import COUNTS, LOG_ODDS, Counts, threshold_counts
from cbseg.run_folder import RunFolder
from cbseg.whole_file import whole


def write_curve(path: Path, scans: Mapping[str, Counts]) -> None:
    """Write TP, FP, FN and TN of infection, a row for each scan and threshold."""
    thresholds = LOG_ODDS.double().sigmoid().tolist()
    rows = [
        (scan, round(threshold, 6), *counts)
        for scan, of_scan in scans.items()
        for threshold, counts in zip(thresholds, threshold_counts(of_scan.levels).T.tolist(), strict=True)
    ]
    with whole(path) as part:
        pd.DataFrame(rows, columns=["scan", "threshold", *COUNTS]).to_csv(part, index=False)


def read_curve(folder: RunFolder, last: bool = False) -> pd.DataFrame | None:
    """Read ``COUNTS`` over all scans, by threshold from low to high; None where the run kept none.

    Args:
        folder: A finished run's.
        last: Whether to read those of the last epoch's weights, where these are others.

    Raises:
        InputError: If the file is damaged.
    """
    path = folder.last_thresholds if last and folder.last_thresholds.is_file() else folder.thresholds
    if not path.is_file():
        return None
    try:
        return pd.read_csv(path).groupby("threshold")[list(COUNTS)].sum()
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: is damaged ({error}); run it again with rerun=true") from error
