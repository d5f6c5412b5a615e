"""Sweeps: which runs one does, what is left of them to do, and what became of them, told from the run folders alone."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from omegaconf import DictConfig
from tabulate import tabulate

from cbseg.config import build, compose, config_files
from cbseg.data.sources import explain_missing
from cbseg.errors import InputError
from cbseg.job import Job
from cbseg.overrides import check_discrete, check_overrides
from cbseg.results import Result, read_result, read_results
from cbseg.run_folder import RunFolder
from cbseg.run_state import best_is
from cbseg.run_status import State, predecessor, state_of


def sweep_jobs(overrides: Sequence[str], multirun: bool = False, config_dir: str | None = None) -> list[Job] | None:
    """Compose the jobs of a command, in the order in which Hydra's sweeper starts them.

    Args:
        overrides: As written on the command line.
        multirun: Whether it says ``-m``; an experiment can say so too, with ``hydra.mode``.
        config_dir: A folder with more configs, as ``--config-dir`` names it.

    Returns:
        None for a single run; no job for a sweeper that decides only on the way what to run, as Optuna's does.

    Raises:
        InputError: If an override is no value that a run takes; if such a sweeper looks for the worst, or is asked for
            its plan.
    """
    with config_files(config_dir):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # which resolves glob()
        parsed = parser.parse_overrides(list(overrides))
        check_overrides(parsed)
        asked = [override for override in parsed if not override.is_sweep_override()]
        lines = [str(o.input_line) for o in asked if o.is_hydra_override() or o.get_key_element() == "experiment"]
        hydra = compose(lines).hydra  # other keys may be those of a swept option
        if not multirun and hydra.mode != RunMode.MULTIRUN:
            return None
        if not hydra.sweeper._target_.endswith(".BasicSweeper"):
            _check_search(compose([str(override.input_line) for override in asked]))
            return []
        params = parser.parse_overrides([f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()])
        task = [override for override in parsed if not override.is_hydra_override()]
        check_discrete(swept := [*params, *task])
        (batch,) = BasicSweeper.split_arguments(swept, max_batch_size=None)
        return list(map(Job.of, batch))


def _check_search(config: DictConfig) -> None:
    if config.dry_run:
        raise InputError("dry_run=true: this hydra/sweeper decides on the way what to run; leave it out")
    direction = config.hydra.sweeper.get("direction")
    name, best = getattr(direction, "name", direction), f"{best_is(config.selection.monitor)}imize"
    if name not in (None, best):
        raise InputError(
            f"hydra.sweeper.direction={name}: would look for the worst selection.monitor={config.selection.monitor}; "
            f"add hydra.sweeper.direction={best}"
        )


@contextmanager
def launched(jobs: list[Job], before: list[float]) -> Iterator[None]:
    """Note which jobs a sweeper starts that decides on the way, whatever it is and whatever launches them.

    Args:
        jobs: They are added here.
        before: When each was finished before; see :func:`finished_at`.
    """
    real = Plugins.instantiate_launcher

    def instantiate(*arguments: Any, **named: Any) -> Launcher:
        launcher = real(*arguments, **named)
        launch = launcher.launch

        def noting(job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
            for job in map(Job.of, job_overrides):
                if job.folder.path not in [other.folder.path for other in jobs]:
                    jobs.append(job)
                    before.append(finished_at(job.folder))
            return launch(job_overrides, initial_job_idx)

        launcher.launch = noting  # type: ignore[method-assign]
        return launcher

    Plugins.instantiate_launcher = instantiate  # type: ignore[method-assign]
    try:
        yield
    finally:
        Plugins.instantiate_launcher = real  # type: ignore[method-assign]


def print_plan(jobs: Sequence[Job]) -> None:
    """List the runs with their state, and how long what is left will take, as far as finished runs tell."""
    past = list(read_results(Path(jobs[0].config.runs)).values())
    rows, seconds, unknown = [], 0.0, 0
    for job in jobs:
        state = state_of(job.folder, job.config)
        todo = is_left(job)
        if state.name == "new" and (before := predecessor(job.folder, job.config)) is not None and not job.config.rerun:
            state = State("new", before.epochs, f"goes on from {before}, if its data is the same")
        done = 0 if state.name == "finished" else state.epochs
        speed = seconds_per_epoch(job, past)
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


def seconds_per_epoch(job: Job, past: Sequence[Result]) -> float | None:
    """Tell from finished runs of the same setting: of the same data and loss, else of the same data, else of any."""
    past = [result for result in past if result.settings == job.settings]
    for keys in (("data", "loss"), ("data",), ()):
        alike = [result for result in past if all(getattr(result, key) == getattr(job, key) for key in keys)]
        if alike:
            return statistics.fmean(result.seconds / result.epochs for result in alike)
    return None


def duration(seconds: float) -> str:
    """Return a time in hours and minutes, or minutes and seconds.

    >>> duration(3720), duration(75)
    ('1 h 02 min', '1 min 15 s')
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02.0f} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02.0f} min"


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
    """Return whether a run is to be done."""
    return job.config.rerun or state_of(job.folder, job.config).name not in ("finished", "refused")


def finished_at(folder: RunFolder) -> float:
    """Return when a run was finished, seconds; 0 if it is not."""
    return folder.metrics.stat().st_mtime if folder.has_result else 0.0


def validation_score(job: Job) -> float | None:
    """Return the selected epoch's validation score of a finished run, which a sweeper may look for; else None."""
    if state_of(job.folder, job.config).name != "finished":
        return None
    return next(iter(read_result(job.folder).val.values()))


def summarise(jobs: Sequence[Job], before: Sequence[float]) -> bool:
    """Print what became of each run, and return whether all are finished.

    Args:
        jobs: The sweep's.
        before: When each was finished as the sweep began; see :func:`finished_at`.
    """
    states = list(map(_outcome, jobs, before))
    names = [state.name for state in states]
    counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
    print(f"\n{len(names)} runs: {counts}")
    unfinished = [
        (state.name, job.folder, state.reason or "interrupted, or trained by another process; the same command goes on")
        for job, state in zip(jobs, states, strict=True)
        if "finished" not in state.name
    ]
    if unfinished:
        print(tabulate(unfinished, ["state", "run", "why"], maxcolwidths=[None, None, 80]))
    return not unfinished


def _outcome(job: Job, before: float) -> State:
    state = state_of(job.folder, job.config)
    if state.name != "finished" or finished_at(job.folder) != before:
        return state
    if job.config.rerun:
        return State("failed", reason="the old run is there as it was, for the new one failed before it began")
    return State("skipped, finished before")
