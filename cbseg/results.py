"""Results: the record of a finished run, which its folder holds, and which records may be compared."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cbseg.class_names import class_names
from cbseg.errors import InputError
from cbseg.json_file import read_json, write_json
from cbseg.result_forms import damaged_fields
from cbseg.run_folder import RunFolder
from cbseg.run_name import file_name

log = logging.getLogger(__name__)

SCHEMA = 1
"""Raise it when the fields below mean something else: results of another schema are not read."""


@dataclass(frozen=True)
class Result:
    """What a finished run leaves: ``metrics.json``. A number that is not finite is None.

    Attributes:
        schema: See ``SCHEMA``.
        data: The name of its data config.
        loss: The name of its loss config.
        seed: Its seed.
        settings: What it changed of the defaults, as a name; empty if nothing.
        keys: All of its config that decides the result; see :func:`cbseg.run_name.result_keys`.
        status: ``finished``.
        test: The test set's scores by name, of the selected epoch's weights.
        undefined: Why scores are undefined, by name.
        counts: Raw counts of pixels, and errors of region counts, over the test set.
        scans: The same by scan.
        last: ``test``, ``undefined``, ``counts`` and ``scans`` of the last epoch's weights.
        val: The selected epoch's validation score by name.
        best_epoch: The selected epoch, from 1.
        epochs: How many were trained.
        images_per_second: Speed of training.
        seconds: Of training and testing.
        precision: The trainer's.
        split: How many slices train, validate and test.
        dataset: The columns of the paper's Table 1.
        fingerprint: Equal for equal data and equal points.
        versions: Of Python and libraries.
        machine: System and processors.
        labels: How many labels of the training slices the loss learned from: ``clicks``, or ``regions`` that somebody
            outlined. Empty where people labelled in other ways, and in runs of before it was told.
        git: The code's commit, whether it was changed, and the same of each sitting with its first epoch.
    """

    data: str
    loss: str
    seed: int
    settings: str
    keys: dict[str, Any]
    test: dict[str, float | None]
    undefined: dict[str, str]
    counts: dict[str, Any]
    scans: dict[str, dict[str, Any]]
    last: dict[str, Any]
    val: dict[str, float | None]
    best_epoch: int
    epochs: int
    images_per_second: float
    seconds: float
    precision: str
    split: dict[str, int]
    dataset: dict[str, int]
    fingerprint: str
    versions: dict[str, str]
    machine: dict[str, Any]
    git: dict[str, Any]
    labels: dict[str, int] = field(default_factory=dict)
    status: str = "finished"
    schema: int = SCHEMA

    def write(self, folder: RunFolder) -> None:
        """Write it into its run's folder, which is finished then."""
        first = {name: getattr(self, name) for name in ("schema", "data", "loss", "seed", "settings", "status")}
        write_json(folder.metrics, first | asdict(self))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes but background, as its data config gives them."""
        prefix = "data.find_scans.classes."
        classes = {
            key.removeprefix(prefix): value
            for key, value in self.keys.items()
            if key.startswith(prefix) and isinstance(value, int | str)
        }
        counted = self.counts.get("tp")
        return class_names(classes, 1 + (len(counted) if isinstance(counted, list) else 1))

    def of_last_epoch(self) -> "Result":
        """Return it with the last epoch's scores and counts instead of the selected one's."""
        return replace(self, **self.last)


def read_result(folder: RunFolder) -> Result:
    """Read a finished run's result.

    Raises:
        InputError: If it is not there, damaged, or of another schema.
    """
    found = read_json(folder.metrics, "run it again with rerun=true")
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{folder.metrics}: is of schema {schema}, not {SCHEMA}: written by another version, or by other software; "
            "run it again with rerun=true"
        )
    found = {"labels": {}} | found  # which earlier runs do not tell
    if wrong := damaged_fields(found, {one.name: one.type for one in fields(Result)}):
        raise InputError(
            f"{folder.metrics}: is damaged ({', '.join(wrong)} missing or of another type); "
            "run it again with rerun=true"
        )
    result = Result(**{one.name: found[one.name] for one in fields(Result)})
    return replace(  # names of a file lead to no other place
        result, data=file_name(result.data), loss=file_name(result.loss), settings=file_name(result.settings)
    )


def read_results(runs: Path) -> dict[Path, Result]:
    """Read the results of all finished runs below a folder, by the run's folder; what cannot be read is named."""
    found = {}
    for folder in RunFolder.find(runs):
        if folder.metrics.is_file():
            try:
                found[folder.path] = read_result(folder)
            except InputError as error:
                log.warning("%s; left out", error)
    return found


def find_results(runs: Path) -> dict[Path, Result]:
    """Read the results of all finished runs below a folder, by the run's folder; what cannot be read is named.

    Raises:
        InputError: If there is none.
    """
    found = read_results(runs)
    if not found:
        raise InputError(
            f"{runs}: holds no finished run (<data>/<loss>/seed<k>/metrics.json); run python -m cbseg.run first"
        )
    return found


@dataclass(frozen=True)
class Setting:
    """Runs that may stand side by side: they change the same of the defaults, and each data is one and the same.

    Attributes:
        name: What they change, as the runs' names have it; empty for the defaults.
        differing: In which keys they differ from other runs of this name, with their values; mostly in none.
        results: Their results by folder, in the order of data, loss and seed.
    """

    name: str
    differing: tuple[tuple[str, str], ...]
    results: Mapping[Path, Result]

    @property
    def title(self) -> str:
        """The name, and in brackets what tells it apart from others of that name."""
        name = self.name or "the defaults"
        return f"{name} ({', '.join(f'{key}={value}' for key, value in self.differing)})" if self.differing else name

    @property
    def file_name(self) -> str:
        """The title as a name for files and folders."""
        return file_name(self.title) if self.differing else file_name(self.name)

    def by_seed(self) -> dict[str, dict[str, dict[int, Path]]]:
        """Return the runs' folders by data, loss and seed."""
        found: dict[str, dict[str, dict[int, Path]]] = defaultdict(lambda: defaultdict(dict))
        for folder, result in self.results.items():
            found[result.data][result.loss][result.seed] = folder
        return found


def by_setting(results: Mapping[Path, Result]) -> list[Setting]:
    """Group results that may be compared or pooled over seeds: by what they are, not by how they were written.

    Runs of one data and loss are pooled if their result keys and their data's fingerprint are equal, whatever their
    names; such a pool goes by the shortest. Pools of one name stand side by side, but where they differ in what should
    be common (the data, and all keys but those of the loss, which differ by loss) each is a setting by itself.
    """
    pools: dict[tuple[str, str, str, str], dict[Path, Result]] = defaultdict(dict)
    for folder, result in sorted(results.items(), key=lambda item: (item[1].data, item[1].loss, item[1].seed, item[0])):
        pool = pools[result.data, result.loss, data_of(result), json.dumps(result.keys, sort_keys=True)]
        if twin := next((path for path, other in pool.items() if other.seed == result.seed), None):
            log.warning("%s: is the same run as %s, by another name; left out", folder, twin)
        else:
            pool[folder] = result
    named: dict[str, list[dict[Path, Result]]] = defaultdict(list)
    for pool in pools.values():
        named[min((result.settings for result in pool.values()), key=lambda name: (len(name), name))].append(pool)
    settings = []
    for name, alike in sorted(named.items()):
        variants: dict[tuple[tuple[str, str], ...], dict[Path, Result]] = defaultdict(dict)
        for pool in alike:
            variants[_differing(_first(pool), [_first(other) for other in alike])] |= pool
        settings += [Setting(name, differing, found) for differing, found in sorted(variants.items())]
    return settings


def _first(pool: Mapping[Path, Result]) -> Result:
    return next(iter(pool.values()))


def _differing(one: Result, others: list[Result]) -> tuple[tuple[str, str], ...]:
    """Return in what a result differs from some of its name: from those of its data, and in its loss from its loss."""
    of_data = [other for other in others if other.data == one.data]
    of_loss = [other for other in of_data if other.loss == one.loss]
    keys = {key for other in of_data for key in other.keys.keys() | one.keys.keys() if not key.startswith("loss.")}
    keys |= {key for other in of_loss for key in other.keys.keys() | one.keys.keys()}
    differing = {}
    for key in sorted(keys):
        alike = of_loss if key.startswith("loss.") else of_data
        if any(other.keys.get(key) != one.keys.get(key) for other in alike):
            differing[key] = str(one.keys.get(key))
    if any(data_of(other) != data_of(one) for other in of_data):
        differing["fingerprint"] = data_of(one)
    return tuple(differing.items())


def data_of(result: Result) -> str:
    """Return the fingerprint, without its part on points where they are another draw for each seed."""
    by_seed = result.keys.get("data.annotate.seed") == "${seed}"
    return result.fingerprint.rpartition("-")[0] if by_seed else result.fingerprint
