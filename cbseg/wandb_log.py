"""Weights & Biases: one W&B run for each run folder, which is never waited for long and never ends a run."""

import hashlib
import logging
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import requests
import wandb
from omegaconf import OmegaConf
from pytorch_lightning.loggers import WandbLogger

from cbseg.errors import InputError
from cbseg.job import Job
from cbseg.wandb_settings import default_project, refused_settings, wandb_mode

log = logging.getLogger(__name__)


@contextmanager
def logged_to_wandb(trainer: pl.Trainer, job: Job, history: Sequence[dict[str, float]]) -> Iterator[None]:
    """Log what a trainer does to W&B, if its job's config says so; W&B is told whether it ended well.

    Args:
        trainer: It gets the logger.
        job: The run.
        history: See :func:`start_logger`.

    Raises:
        InputError: See :func:`start_logger`.
    """
    logger = start_logger(job, history, **job.config.logger) if job.config.get("logger") else None
    if logger is not None:
        trainer.loggers = [logger]
    failed = True
    try:
        yield
        failed = False
    finally:
        if logger is not None:
            logger.end(failed)


class RunLogger(WandbLogger):
    """Logs a run to W&B as long as that works: what fails there is told, and the run goes on without it.

    Args:
        experiment: W&B's run.
        folder: Where W&B's files lie.
        pictures: Whether slices may be logged.
        timeout: Seconds for W&B to take what is left at the end.
    """

    def __init__(self, experiment: Any, folder: Path, pictures: bool, timeout: float) -> None:
        super().__init__(experiment=experiment, save_dir=folder.parent)
        self.folder, self.pictures, self.timeout = folder, pictures, timeout
        self.works = True

    def begin(self, history: Sequence[dict[str, float]]) -> None:
        """Tell W&B of the epochs so far, where it does not know them."""

        def tell() -> None:
            self.experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            for row in () if self.experiment.resumed else history:
                # as Lightning logs them, its epochs counted from 0
                self.experiment.log({**row, "trainer/global_step": row["step"], "epoch": row["epoch"] - 1})

        self._attempt(tell)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log numbers or pictures by name."""
        self._attempt(lambda: super(RunLogger, self).log_metrics(metrics, step))

    def log_pictures(self, name: str, make: Callable[[], list[wandb.Image]], step: int) -> None:
        """Make pictures and log them under a name; where they cannot be made, no more are tried."""
        try:
            pictures = make()
        except Exception as error:  # the temporary folder, where W&B writes them, is full or was cleared, say
            self.pictures = False
            log.warning("W&B gets no pictures (%s); those of test slices are in slices/", error)
            return
        self.log_metrics({name: pictures}, step)

    def end(self, failed: bool) -> None:
        """Tell W&B whether the run ended well, and wait for it within the time limit."""

        def finish() -> None:
            self._attempt(lambda: self.experiment.finish(exit_code=int(failed)))
            _tear_down()

        thread = threading.Thread(target=finish, daemon=True)  # for a service that answers no more
        thread.start()
        thread.join(2 * self.timeout + 5)

    def _attempt(self, action: Callable[[], None]) -> None:
        if not self.works:
            return
        try:
            action()
        except TimeoutError:
            log.warning(
                "W&B did not take all within %g s (logger.timeout): `wandb sync %s/run-*` uploads it",
                self.timeout,
                self.folder,
            )
        except Exception as error:  # whatever it is, training and results do not depend on it
            self.works = False
            log.warning("W&B fails (%s): the run goes on without it; its curves are in metrics.csv", error)


def start_logger(
    job: Job,
    history: Sequence[dict[str, float]],
    mode: str,
    pictures: bool | str,
    timeout: float,
    project: str | None,
    entity: str | None,
) -> RunLogger | None:
    """Start a W&B run for a run folder, and say what goes where.

    A run that goes on keeps its W&B run. Offline, where W&B cannot take up a run again, a new file with all epochs so
    far replaces that of the process that died.

    Args:
        job: The run; W&B's files go into ``wandb`` in its folder.
        history: The averages of the epochs that are done, of a run that goes on.
        mode: See :func:`cbseg.wandb_settings.wandb_mode`. ``auto`` goes on offline where W&B cannot be reached.
        pictures: Whether validation slices are logged; ``auto``: where they stay here, or if ``mode`` is ``online``.
        timeout: Seconds for W&B to answer, and to take what is left at the end.
        project: W&B's project; see :func:`cbseg.wandb_settings.default_project`.
        entity: W&B's user or team; the user's default if it is null.

    Returns:
        Nothing where the environment disables W&B.

    Raises:
        InputError: If the mode does not exist, or W&B was asked for and cannot be reached, or cannot write.
    """
    used, files, experiment = wandb_mode(mode), job.folder.wandb, None
    if used == "disabled":
        return None
    where = {"project": project or default_project(), "entity": entity}
    if used == "online":
        url = wandb.setup().settings.base_url
        try:
            requests.head(url, timeout=timeout)  # refused at once, where W&B would try again and again
            experiment = _start(job, used, timeout, where)
        except (requests.RequestException, wandb.errors.Error) as error:
            reason = f"{url} did not answer within {timeout:g} s ({type(error).__name__})"
            if mode == "online":
                raise InputError(f"logger.mode=online: {reason}; logger.mode=offline logs here") from error
            log.warning("W&B: %s: logging offline", reason)
            _tear_down()  # the attempt would keep the run's id
    try:
        experiment = experiment or _start(job, "offline", timeout, where)
    except (wandb.errors.Error, OSError) as error:
        raise InputError(f"{files}: W&B cannot start ({error}); logger=csv goes without it") from error
    shows = pictures is True or (pictures == "auto" and (experiment.offline or mode == "online"))
    if experiment.offline:
        log.info("W&B: nothing leaves this machine; `wandb sync %s/offline-run-*` would upload it", files)
        for dead in set(files.glob("offline-run-*")) - {Path(experiment.dir).parent}:  # of processes that died
            shutil.rmtree(dead, ignore_errors=True)
    else:
        too = ", and validation slices with their names" if shows else "; no pictures"
        log.info("W&B: to %s go scores, config, command line%s", experiment.url, too)
    logger = RunLogger(experiment, files, shows, timeout)
    logger.begin(history)
    return logger


def _start(job: Job, mode: str, timeout: float, where: dict[str, str | None]) -> Any:
    """Start W&B's run, grouped by data, its job type the loss."""
    data, loss, settings = job.data, job.loss, job.settings
    identity = job.folder.wandb / "id"
    identity.parent.mkdir(exist_ok=True)
    if not identity.is_file():
        identity.write_text(secrets.token_hex(4))
    with refused_settings():
        return wandb.init(
            mode=mode,  # type: ignore[arg-type]
            dir=job.folder.path,
            name=_cut(" ".join(filter(None, [data, loss, f"seed{job.config.seed}", settings]))),
            group=_cut(data),
            job_type=_cut(loss, 64),
            tags=[_cut(tag, 64) for tag in (data, loss, settings) if tag],
            config={**OmegaConf.to_container(job.config, resolve=True), "settings": settings or "defaults"},  # type: ignore
            settings=wandb.Settings(
                silent=True,
                console="off",  # what is printed may name patients' files
                init_timeout=timeout,
                finish_timeout=timeout,
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=1,
            ),
            reinit="finish_previous",
            id=identity.read_text(),
            resume="allow" if mode == "online" else None,
            **where,  # type: ignore[arg-type]
        )


def _tear_down() -> None:
    """End W&B's service, if it did not end before; W&B would end this process with it if it died."""
    with suppress(Exception, SystemExit):
        wandb.teardown()


def _cut(text: str, longest: int = 128) -> str:
    """Return a text as long as W&B takes it; of what is cut off a hash stays.

    >>> _cut("covidA", 8), _cut("covidA_and_more", 12)
    ('covidA', 'covid-2efcc1')
    """
    digits = hashlib.sha256(text.encode()).hexdigest()[:6]
    return text if len(text) <= longest else f"{text[: longest - 7]}-{digits}"
