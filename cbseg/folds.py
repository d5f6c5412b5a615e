"""Cross-validation as one result: runs that hold out one fold each are pooled over all held-out slices."""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cbseg.errors import InputError
from cbseg.metrics import Counts, score_scans
from cbseg.results import Result, data_of

log = logging.getLogger(__name__)

FOLD, FOLDS = "data.split.fold", "data.split.folds"
"""The keys of :func:`cbseg.data.splits.fold` in a run's config."""


def pool_folds(results: Mapping[Path, Result], only: Collection[int] = ()) -> dict[Path, Result]:
    """Pool results that differ in their fold alone: counts of all held-out slices add up, each once.

    Args:
        results: By folder. Those without folds stay as they are.
        only: Pool these folds, whatever others there are; all, if none is given.

    Returns:
        Results by folder. A pooled one has its first fold's folder, no fold in its keys and settings, and tests on all
        slices; what it says of training is the first fold's. Where a fold is missing, a warning names it and there is
        no result.

    Raises:
        InputError: If no result is left, or two folds hold out the same scan.
    """
    pools: dict[str, dict[int, tuple[Path, Result]]] = defaultdict(dict)
    pooled = {}
    for path, result in results.items():
        if FOLD not in result.keys:
            pooled[path] = result
        else:
            fold = result.keys[FOLD]
            same = {key: value for key, value in result.keys.items() if key != FOLD}
            pool = pools[json.dumps([result.data, result.loss, result.seed, data_of(result), same], sort_keys=True)]
            if fold in pool:
                log.warning("%s: is the same run as %s, by another name; left out", path, pool[fold][0])
            else:
                pool[fold] = path, result
    incomplete = []
    for pool in pools.values():
        first = pool[min(pool)][1]
        needed = sorted(only) or range(first.keys[FOLDS])
        if missing := [str(fold) for fold in needed if fold not in pool]:
            name = ", ".join(
                filter(None, [first.data, first.loss, f"seed {first.seed}", _without_fold(first.settings)])
            )
            incomplete.append(f"{name}: {FOLD}={','.join(missing)} missing")
        else:
            pooled[pool[needed[0]][0]] = _join([pool[fold] for fold in needed])
    if not pooled:
        raise InputError(
            "no cross-validation is complete; run what is missing, or pool some folds alone (python -m "
            "experiments.ablation --folds 0 1). "
            f"{'; '.join(incomplete)}"
        )
    for what in incomplete:
        log.warning("%s; left out", what)
    return pooled


def _join(runs: list[tuple[Path, Result]]) -> Result:
    """Return the pooled result of one run a fold."""
    holders: dict[str, Path] = {}
    for path, result in runs:
        for scan in result.scans:
            if scan in holders:
                raise InputError(f"{path} and {holders[scan]}: both hold out {scan}, so that it would count twice")
            holders[scan] = path
    first = runs[0][1]
    keys = {key: value for key, value in first.keys.items() if key != FOLD}
    last = _tested([result.of_last_epoch() for _, result in runs])
    selected = _tested([result for _, result in runs])
    return replace(first, keys=keys, settings=_without_fold(first.settings), last=last, **selected)


def _tested(results: list[Result]) -> dict[str, Any]:
    return score_scans({scan: Counts.of_named(named) for result in results for scan, named in result.scans.items()})


def _without_fold(settings: str) -> str:
    return re.sub(rf"(^|,){re.escape(FOLD)}=\d+", "", settings).removeprefix(",")
