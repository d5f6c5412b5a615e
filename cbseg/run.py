"""The entry point: one composed config in, one finished run folder out.

``python -m cbseg.run loss=pl data=covidA`` is one run; ``-m`` and commas make it a sweep.
"""

import logging
import os
import sys
import traceback
import warnings
from contextlib import nullcontext

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from cbseg.config import CONF, Job
from cbseg.errors import InputError, check_whole
from cbseg.explain import explain
from cbseg.processes import isolated
from cbseg.sweep import SweepReport, print_plan
from cbseg.tracking import ERROR, METRICS, BusyError, failure, lock, record_failure
from cbseg.training import run

log = logging.getLogger("cbseg")


def run_or_record(job: Job) -> None:
    """A sweep's job: :func:`run`; where it fails, the folder says why, and the process ends with exit code 1."""
    try:
        run(job)
    except BusyError as error:
        log.warning("%s", error)
    except Exception as error:
        record_failure(job.folder, job.config, traceback.format_exc())
        log.error("%s: failed: %s", job.folder, explain(error))
        sys.exit(1)


def run_here(job: Job) -> None:
    """Do a single run in this process; where it breaks, the folder says why, and the process ends with exit code 1."""
    try:
        run(job)
    except (InputError, BusyError) as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        record_failure(job.folder, job.config, traceback.format_exc())
        sys.exit(f"error: {explain(error)}\nThe whole traceback is in {job.folder / ERROR}")


def _processes(config: DictConfig) -> int:
    """How many processes train a run: one for each device.

    Raises:
        InputError: If there are several, and their trainer was not chosen.
    """
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


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _hydra_main(config: DictConfig) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    chosen = HydraConfig.get()
    choices = chosen.runtime.choices
    job = Job(config, choices["data"], choices["loss"], list(chosen.overrides.task))
    sweep = chosen.mode == RunMode.MULTIRUN
    if config.dry_run:
        print_plan([job])
    elif not sweep and _processes(config) == 1:
        run_here(job)
    else:
        _train_apart(job, _processes(config), sweep)


def _train_apart(job: Job, processes: int, sweep: bool) -> None:
    """Train a run in processes of its own."""
    folder = job.folder
    try:
        with lock(folder) if processes > 1 else nullcontext():
            if not (folder / METRICS).is_file():
                (folder / ERROR).unlink(missing_ok=True)
            reason = isolated(run_or_record, job, processes=processes)
    except BusyError as error:
        reason = str(error) if not sweep else ""
        log.warning("%s", error)
    if reason:
        record_failure(folder, job.config, reason)
        if not sweep:
            sys.exit(f"error: {folder}: {failure(folder) or reason}")


def _explained(error: ConfigCompositionException) -> str:
    """Hydra's message, and for a misspelt key the keys that exist beside it."""
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        exist = ", ".join(str(key) for key in cause.parent_node)
        where = str(cause.full_key).rpartition(".")[0] or "the config"
        return f"{error}\n{cause.full_key} does not exist; {where} has: {exist}"
    return str(error)


def main() -> None:
    """Run the command line; bad input ends it with one clear message and exit code 1."""
    warnings.filterwarnings("ignore", message="(?s).*validated against ConfigStore schema")  # submitit_slurm is ours
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing its own digest
    try:
        _hydra_main()
    except ConfigCompositionException as error:
        sys.exit(f"error: {_explained(error)}")
    except (InputError, BusyError, OverrideParseException, OSError) as error:
        sys.exit(f"error: {error}")  # of an OSError, such as a full disk, the run's error.txt tells where
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        if SweepReport.current is None:
            raise
        # a launcher's processes died; the folders tell which runs they left
        print(traceback.format_exception_only(sys.exc_info()[1])[-1].strip())
    finally:
        if SweepReport.current is not None and not SweepReport.current.summarise() and sys.exc_info()[0] is None:
            sys.exit(1)


if __name__ == "__main__":
    main()
