"""The entry point: one composed config in, one finished run folder out.

``python -m cbseg.run loss=pl data=covidA`` is one run; ``-m`` and commas make it a sweep.

:func:`main` has the order: a sweep's jobs are composed, their data is looked for, Hydra's launcher starts them (its own
one by one, joblib's several at once, submitit's on a cluster), each calls :func:`start`, and what became of them is
read from their folders. A single run is one call of :func:`start`.
"""

import logging
import os
import signal
import sys
import traceback
import warnings
from contextlib import nullcontext

import hydra
import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from cbseg.config import CONF
from cbseg.config_check import check_strategy
from cbseg.errors import InputError, check_whole
from cbseg.explain import explain
from cbseg.job import Job
from cbseg.overrides import OVERRIDE_ERRORS, explain_override
from cbseg.processes import isolated, stop
from cbseg.run_folder import BusyError
from cbseg.sweep import (
    finished_at,
    launched,
    missing_data,
    print_plan,
    summarise,
    sweep_jobs,
    validation_score,
)
from cbseg.training import run

log = logging.getLogger("cbseg")


def main() -> None:
    """Run the command line; bad input ends it with one clear message and exit code 1."""
    warnings.filterwarnings("ignore", message="(?s).*validated against ConfigStore schema")  # submitit_slurm is ours
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing its own digest
    given = get_args_parser().parse_args()
    asks = given.help or given.hydra_help or given.cfg or given.info or given.shell_completion
    try:
        single = asks or given.experimental_rerun
        jobs = None if single else sweep_jobs(given.overrides, given.multirun, given.config_dir)
        if jobs is None:
            _hydra_main()
        elif jobs and jobs[0].config.dry_run:
            print_plan(jobs)
        elif not sweep(jobs):
            sys.exit(1)
    except OVERRIDE_ERRORS as error:
        sys.exit(f"error: {explain_override(error)}")
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def sweep(jobs: list[Job]) -> bool:
    """Do a sweep's jobs, print what became of each, and return whether all are finished.

    Args:
        jobs: None of them are known where the sweeper decides on the way what to run.

    Raises:
        InputError: If data is not there; nothing was started then.
    """
    if problems := missing_data(jobs):
        raise InputError(f"nothing was started, as data is not there\n{problems}")
    before = [finished_at(job.folder) for job in jobs]
    try:
        with nullcontext() if jobs else launched(jobs, before):
            _hydra_main()
    except Exception as error:  # a launcher's processes died; the folders tell which runs they left
        print(traceback.format_exception_only(error)[-1].strip())
    finally:
        finished = summarise(jobs, before)
    return finished


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _hydra_main(config: DictConfig) -> float | None:
    """Compose the command's config, or each of a sweep's, and start its run; returns its validation score."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    chosen = HydraConfig.get()
    overrides = OmegaConf.to_container(chosen.overrides.task, resolve=False)  # ${seed} stays, as in the run's name
    try:
        job = Job.composed(config, chosen.runtime.choices, overrides)  # type: ignore[arg-type]
    except InputError as error:  # Hydra would say more than that
        sys.exit(f"error: {error}")
    start(job, in_sweep=chosen.mode == RunMode.MULTIRUN)
    return validation_score(job)


def start(job: Job, in_sweep: bool) -> None:
    """Do one run: a single one in this process; one of a sweep, or on several devices, in processes of its own.

    Where it fails, its folder says why. A single run then ends the command, a sweep goes on.
    """
    try:
        if job.config.dry_run:
            print_plan([job])
            return
        processes = _processes(job.config)
        if processes == 1 and not in_sweep:
            before = signal.signal(signal.SIGINT, stop)  # Lightning would take Ctrl-C and end with exit code 1
            try:
                run(job)
            finally:
                signal.signal(signal.SIGINT, before)
            return
        reason = _apart(job, processes)
        if reason and not in_sweep:
            sys.exit(f"error: {job.folder}: {job.folder.failure() or reason}")
    except (InputError, BusyError) as error:
        if not in_sweep:
            sys.exit(f"error: {error}")
        log.warning("%s", error)
        if isinstance(error, InputError):
            job.folder.record_failure(job.config, str(error))
    except Exception as error:
        job.folder.record_failure(job.config, traceback.format_exc())
        told = f"{explain(error)}\nThe whole traceback is in {job.folder.error}"
        if not in_sweep:
            sys.exit(f"error: {told}")
        log.error("%s: failed: %s", job.folder, told)


def _apart(job: Job, processes: int) -> str:
    """Do a run in processes of its own; returns why it failed, or nothing."""
    folder = job.folder
    with folder.lock() if processes > 1 else nullcontext():
        if not folder.has_result:
            folder.error.unlink(missing_ok=True)
        try:
            reason = isolated(run_or_record, job, processes=processes)
        except (KeyboardInterrupt, SystemExit):  # told to stop, of which processes that miss each other made a failure
            folder.error.unlink(missing_ok=True)
            raise
    if reason:
        folder.record_failure(job.config, reason)
    return reason


def run_or_record(job: Job) -> None:
    """Do a run; where it fails, the folder says why, and the process ends with exit code 1."""
    try:
        run(job)
    except BusyError as error:
        log.warning("%s", error)
    except InputError as error:
        job.folder.record_failure(job.config, str(error))
        log.error("%s: %s", job.folder, error)
        sys.exit(1)
    except Exception as error:
        job.folder.record_failure(job.config, traceback.format_exc())
        log.error("%s: failed: %s", job.folder, explain(error))
        sys.exit(1)


def _processes(config: DictConfig) -> int:
    """Return how many processes train a run: one for each device.

    Raises:
        InputError: If there are several, and their trainer was not chosen.
    """
    check_strategy(config.trainer)  # by one process, before there are several
    devices = config.trainer.devices
    chosen = len(devices) if isinstance(devices, ListConfig) else devices
    if config.trainer.get("strategy") is None:
        if chosen != 1:
            raise InputError(f"trainer.devices={devices}: several devices train together with trainer=ddp; give 1")
        return 1
    if devices in (-1, "auto"):
        return torch.cuda.device_count() or 1
    check_whole("trainer.devices", chosen, least=1)
    return int(chosen)


if __name__ == "__main__":
    main()
