"""Sweeps: what is to be done, and what became of it, told from the run folders alone."""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pandas as pd
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from tabulate import tabulate

from cbseg.config import Job, build
from cbseg.data.sources import explain_missing
from cbseg.errors import InputError
from cbseg.run_state import CURVES
from cbseg.tracking import METRICS, failure, is_finished, is_resumable


class State(NamedTuple):
    """What a run's folder tells.

    Attributes:
        name: ``finished``; ``refused``, as another config's finished run lies there; ``failed``; ``resumable``, if it
            finished an epoch and can go on; or ``new``.
        epochs: How many are done.
        reason: Why it failed or is refused.
    """

    name: str
    epochs: int = 0
    reason: str = ""


def state_of(job: Job) -> State:
    """What became of a run so far."""
    folder, config = job.folder, job.config
    try:
        finished = is_finished(folder, config)
    except InputError as error:
        if not config.rerun:
            return State("refused", reason=str(error))
        finished = True
    if finished:
        return State("finished", config.trainer.max_epochs)
    epochs = len(pd.read_csv(folder / CURVES)) if (folder / CURVES).is_file() else 0
    if reason := failure(folder):
        return State("failed", epochs, reason)
    return State("resumable", epochs) if is_resumable(folder, config) else State("new")


def print_plan(jobs: Sequence[Job]) -> None:
    """List the runs with their state, and how long what is left will take, as far as finished runs tell."""
    rows, seconds, unknown = [], 0.0, 0
    for job in jobs:
        state = state_of(job)
        todo = is_left(job)
        done = 0 if state.name == "finished" else state.epochs
        speed = seconds_per_epoch(job)
        left = None if speed is None else speed * (job.config.trainer.max_epochs - done)
        if todo and left is not None:
            seconds += left
        unknown += todo and left is None
        estimate = "" if not todo else "unknown" if left is None else duration(left)
        name = "finished, again" if state.name == "finished" and todo else state.name
        epochs = f"{done} of {job.config.trainer.max_epochs}" if done else ""
        rows.append((name, epochs, estimate, job.folder, state.reason))
    print(tabulate(rows, ["state", "epochs", "left", "run", "why"]))
    doubt = f", and {unknown} runs of which no past run tells" if unknown else ""
    print(f"\nLeft, one after the other: {duration(seconds)}{doubt}. Nothing was started (dry_run=true).")


def seconds_per_epoch(job: Job) -> float | None:
    """From finished runs of the same settings: of the same data and loss, else of the same data, else of any."""
    past = [json.loads(path.read_text()) for path in Path(job.config.runs).glob(f"*/*/seed*/{METRICS}")]
    past = [run for run in past if run["settings"] == job.settings]
    for keys in (("data", "loss"), ("data",), ()):
        alike = [run for run in past if all(run[key] == getattr(job, key) for key in keys)]
        if alike:
            return statistics.fmean(run["seconds"] / run["epochs"] for run in alike)
    return None


def duration(seconds: float) -> str:
    """In hours and minutes, or minutes and seconds.

    >>> duration(3720), duration(75)
    ('1 h 02 min', '1 min 15 s')
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02.0f} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02.0f} min"


class SweepReport(Callback):
    """Hydra's callback that says before a sweep what it will do, if asked, and after it what became of it.

    Attributes:
        current: This process's sweep, if it runs one.
    """

    current: ClassVar["SweepReport | None"] = None

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.before: list[float] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Find the jobs, as Hydra's sweeper will; a dry run ends here."""
        try:
            self.jobs = _jobs(config)
        except ConfigCompositionException:
            return  # Hydra is about to say so
        if self.jobs[0].config.dry_run:
            print_plan(self.jobs)
            sys.exit()
        if problems := missing_data(self.jobs):
            sys.exit(f"error: nothing was started, as data is not there\n{problems}")
        self.before = [_finished_at(job.folder) for job in self.jobs]
        SweepReport.current = self

    def summarise(self) -> bool:
        """Print what became of each run, and give whether all are finished."""
        states = list(map(self._outcome, self.jobs, self.before))
        names = [state.name for state in states]
        counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
        print(f"\n{len(names)} runs: {counts}")
        unfinished = [
            (
                state.name,
                job.folder,
                state.reason or "interrupted, or trained by another process; the same command goes on",
            )
            for job, state in zip(self.jobs, states, strict=True)
            if "finished" not in state.name
        ]
        if unfinished:
            print(tabulate(unfinished, ["state", "run", "why"], maxcolwidths=[None, None, 80]))
        return not unfinished

    def _outcome(self, job: Job, before: float) -> State:
        state = state_of(job)
        if state.name != "finished" or _finished_at(job.folder) != before:
            return state
        if job.config.rerun:
            return State("failed", reason="the old run is there as it was, for the new one failed before it began")
        return State("skipped, finished before")


def missing_data(jobs: Sequence[Job]) -> str:
    """Say what data the runs that are left to do lack: nothing, or a line for each dataset."""
    missing: dict[Path, str] = {}
    unreadable: dict[str, None] = {}
    for data in (job.config.data for job in jobs if job.config.data.generate is None and is_left(job)):
        root = Path(data.root)
        if not root.is_dir():
            missing[root] = data.name
            continue
        try:  # reads names only
            build(data.find_scans, "data.find_scans")(root)
        except InputError as error:
            unreadable[f"{data.name}: {error}"] = None
    return "\n".join([*unreadable, *([explain_missing(missing)] if missing else [])])


def is_left(job: Job) -> bool:
    """Whether a run is to be done."""
    state = state_of(job).name
    return state not in ("finished", "refused") or (state == "finished" and job.config.rerun)


def _finished_at(folder: Path) -> float:
    """When a run was finished, seconds; 0 if it is not."""
    return (folder / METRICS).stat().st_mtime if (folder / METRICS).is_file() else 0.0


def _jobs(sweep: DictConfig) -> list[Job]:
    params = [f"{key}={value}" for key, value in (sweep.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *sweep.hydra.overrides.task])
    (batch,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return list(map(Job.of, batch))
