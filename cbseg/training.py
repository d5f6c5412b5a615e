"""A run: prepares its parts, trains, selects and tests, and leaves one finished folder behind."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from cbseg.config import build
from cbseg.config_check import check_config
from cbseg.data.datamodule import SliceDataModule
from cbseg.errors import InputError
from cbseg.evaluation import test
from cbseg.job import Job
from cbseg.metrics import COUNTING_SCORES, COUNTS, SCORES
from cbseg.parts import Parts, prepare
from cbseg.provenance import code_of, provenance
from cbseg.results import Result, read_result
from cbseg.run_folder import RunFolder
from cbseg.run_state import LAST, read_last
from cbseg.run_status import differences, is_finished, is_resumable, predecessor
from cbseg.wandb_log import logged_to_wandb

log = logging.getLogger(__name__)


def run(job: Job) -> Path:
    """Train, select by validation Dice, test, and leave a run folder behind; or go on with one that was begun.

    Returns:
        The run's folder.

    Raises:
        InputError: If the config or the data is bad; nothing was trained then, and nothing is lost.
        BusyError: If another process trains this run.
        NonFiniteLossError: If training diverged; the folder keeps ``best.ckpt``.
    """
    config, folder = job.config, job.folder
    check_config(config)
    if not config.rerun and is_finished(folder, config):
        refuse_other_data(job)
        if folder.has_result:
            log.info("%s: finished before, skipped (rerun=true runs it again)", folder)
            return folder.path
    parts, code = prepare(job), provenance()
    with folder.lock() if parts.trainer.world_size == 1 else nullcontext():  # of several processes, the parent holds it
        if not config.rerun and is_finished(folder, config):
            log.info("%s: finished by another process", folder)
        else:
            train(job, parts, code)
    return folder.path


def refuse_other_data(job: Job) -> None:
    """Refuse to take a finished run for one on data that has changed since, or lies elsewhere and is other data.

    Where the data is no longer there at all, there is nothing to compare. Where its annotation is meant to grow
    (``data.grows``), the run is kept aside instead, and trains anew.

    Raises:
        InputError: If the data cannot be read, is other data, or its points are others; the run's folder says so too.
    """
    folder, data = job.folder, job.config.data
    folder.refusal.unlink(missing_ok=True)
    if data.generate is None and not Path(data.root).is_dir():
        return
    try:
        was = read_result(folder).fingerprint
        datamodule = build(data, "data")
        datamodule.setup()
        if was != datamodule.fingerprint and datamodule.grows:
            _keep_aside(folder)
        elif was != datamodule.fingerprint:
            raise InputError(
                f"{folder}: holds a finished run on other data or points (fingerprint {was}) than those of data.root="
                f"{data.root} (fingerprint {datamodule.fingerprint}). rerun=true runs it again on these and keeps the "
                "old folder aside; runs=<another folder> leaves it as it is"
            )
    except InputError as error:
        folder.refuse(str(error))
        raise


def _keep_aside(folder: RunFolder) -> None:
    """Keep a run on other clicks aside."""
    log.info("%s: its clicks, or its scans, are others now: trains anew, and the former run is kept in old/", folder)
    folder.set_aside()


def train(job: Job, parts: Parts, code: dict[str, Any]) -> None:
    """Train, test and record in the run's folder, from its last epoch on if there is one, or that of a shorter run.

    Of several processes that train together, the first writes. The result is there before W&B is waited for.

    Raises:
        InputError: If Lightning refuses an argument, or the run began on other data.
    """
    folder, state, first = job.folder, parts.state, parts.trainer.is_global_zero
    if first and parts.datamodule.grows and is_resumable(folder, job.config) and _began_on_other_data(parts):
        _keep_aside(folder)
    begun = folder if is_resumable(folder, job.config) else shorter_run(job, parts)
    if first:
        if begun is not folder and folder.last.is_file() and not folder.metrics.is_file():
            other = differences(folder, job.config)
            log.warning("%s: %s; begins anew, and the old run is kept in old/", folder, other)
        folder.open(job.config, goes_on=begun is folder)
        if begun not in (None, folder):
            folder.take_over(begun)
    last = state.resume(begun, job.config.trainer.max_epochs, repair=first) if begun else None
    state.sitting = {"epoch": state.epochs + 1, **code["git"]}
    with logged_to_wandb(parts.trainer, job, state.history) if first else nullcontext():
        if first:
            slices = ", ".join(f"{count} {name}" for name, count in _split(parts).items())
            goes_on = f", goes on after epoch {state.epochs} of {job.config.trainer.max_epochs}" if begun else ""
            if begun not in (None, folder):
                log.info("%s: goes on from %s, which stays as it is", folder, begun)
            log.info("%s: %s slices%s", folder, slices, goes_on)
        try:
            scores = fit_and_test(parts, last)
        except MisconfigurationException as error:  # what Lightning alone can tell
            raise InputError(f"trainer: {error}") from error
        if first:
            record(job, parts, scores, code)


def shorter_run(job: Job, parts: Parts) -> RunFolder | None:
    """Return the finished run of fewer epochs from which this one can go on, if its data was the same."""
    before = None if job.config.rerun else predecessor(job.folder, job.config)
    if before is None:
        return None
    try:
        read_last(before)
        return before if read_result(before).fingerprint == parts.datamodule.fingerprint else None
    except InputError as error:
        log.warning("%s; begins from the start", error)
        return None


def record(job: Job, parts: Parts, scores: dict[str, Any], code: dict[str, Any]) -> None:
    """Write a run's result, which makes it finished, and say how it scored.

    Args:
        job: The run.
        parts: Its parts.
        scores: See :func:`fit_and_test`.
        code: With what it ended; see :func:`cbseg.provenance.provenance`.
    """
    result = Result(
        data=job.data,
        loss=job.loss,
        seed=job.config.seed,
        settings=job.settings,
        keys=job.keys,
        precision=str(parts.trainer.precision),
        split=_split(parts),
        labels=parts.datamodule.training_set.count_labels(getattr(parts.module.loss, "labels", None)),
        dataset=parts.datamodule.store.statistics(),
        fingerprint=parts.datamodule.fingerprint,
        git=code_of([*parts.state.earlier, parts.state.sitting]),
        **scores,
        **{name: value for name, value in code.items() if name != "git"},
    )
    if not job.config.keep_last:
        parts.state.write_last_weights()
    result.write(job.folder)
    job.folder.close(job.config.keep_last)
    which = "last" if parts.state.monitor == LAST else "best"
    when = f"{which} epoch {result.best_epoch} of {result.epochs}, {result.seconds:.0f} s"
    log.info("%s: test %s (%s)", job.folder, _told(result), when)


def fit_and_test(parts: Parts, last: Path | None) -> dict[str, Any]:
    """Fit, from ``last`` on if it is given, then test: the last epoch's weights, and the selected epoch's.

    Returns:
        What a :class:`cbseg.results.Result` says of the test set and of the training: the selected epoch (from 1),
        its validation score, and the speed.
    """
    datamodule, module, trainer = parts.datamodule, parts.module, parts.trainer
    timer, state = parts.timer, parts.state
    kept = state.folder
    if last is not None and state.complete and not trainer.is_global_zero:
        kept = RunFolder(last.parent)  # as the first process may not have taken it over yet
    if not state.complete:
        trainer.fit(module, datamodule=datamodule, ckpt_path=last)
    elif last is not None:
        checkpoint = read_last(kept)
        timer.load_state_dict(checkpoint["callbacks"][timer.state_key])
        datamodule.load_state_dict(checkpoint[type(datamodule).__qualname__])
    loader, limit = datamodule.train_dataloader(), trainer.limit_train_batches
    batches = int(limit * len(loader)) if isinstance(limit, float) else limit
    samples = min(len(loader.sampler), batches * (loader.batch_size or 1)) * trainer.world_size  # type: ignore[arg-type]
    last_is_best = state.best["epoch"] == state.epochs
    last_epoch = None if last_is_best else test(trainer, module, datamodule, kept.last, "last")
    seconds = timer.time_elapsed("train") + timer.time_elapsed("test")
    selected = test(trainer, module, datamodule, kept.best, "test")
    score = "val/dice" if state.monitor == LAST else state.monitor
    return {
        **selected,
        "last": last_epoch or selected,
        "val": {score: state.best.get(score)},
        "best_epoch": int(state.best["epoch"]),
        "epochs": state.epochs,
        "images_per_second": round(state.epochs * samples / state.seconds, 2),
        "seconds": round(seconds + timer.time_elapsed("test"), 2),
    }


def _began_on_other_data(parts: Parts) -> bool:
    """Tell whether an unfinished run began on other slices or points than those of now."""
    kept = SliceDataModule.__qualname__
    return bool(read_last(parts.state.folder, kept)[kept] != parts.datamodule.state_dict())


def _split(parts: Parts) -> dict[str, int]:
    return {name: len(part) for name, part in parts.datamodule.split._asdict().items()}


def _told(result: Result) -> str:
    """Say how a run scored; where its test slices are known at clicks only, what these tell, and how many they are."""
    if not result.counts.get("sparse"):
        return " ".join(f"{name} {_shown(result.test[name])}" for name in (*SCORES, *COUNTING_SCORES))
    tp, fp, fn, tn = (np.atleast_1d(result.counts[name]) for name in COUNTS)
    infected, known = int((tp + fn).sum()), int((tp + fp + fn + tn)[0])
    return (
        f"at held-out clicks: sensitivity {_shown(result.test['sens'])} of {infected} pixels, specificity "
        f"{_shown(result.test['spec'])} of {known - infected}, in {result.counts['slices']} slices, of which "
        f"{result.counts['whole']} are known everywhere; nobody drew masks, so no more is known"
    )


def _shown(score: float | None) -> str:
    return "undefined" if score is None or score != score else f"{score:.3f}"
