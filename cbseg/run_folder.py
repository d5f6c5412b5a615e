"""The run folder: where it lies, what is in it, whose it is, and what became of its run."""

import copy
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from cbseg.data.reading import reading, text_of
from cbseg.errors import InputError
from cbseg.json_file import read_json
from cbseg.run_config import read_config
from cbseg.run_name import FREE_KEYS, flat, is_free

log = logging.getLogger(__name__)

_PATIENCE = 5  # seconds for a lock
_MOST_CURVES = 2**26  # bytes


class BusyError(RuntimeError):
    """Another process trains this run; the message names its folder."""


class State(NamedTuple):
    """What a run's folder tells.

    Attributes:
        name: ``finished``; ``refused``, as the finished run of another config or other data lies there; ``failed``;
            ``resumable``, if it finished an epoch and can go on; or ``new``.
        epochs: How many are done.
        reason: Why it failed or is refused.
    """

    name: str
    epochs: int = 0
    reason: str = ""


class RunFolder:
    """One run's folder, ``<runs>/<data>/<loss>/seed<k>``, with a name behind where the run is not of the defaults.

    Args:
        path: Where it lies; it need not be there.

    Attributes:
        config: The composed config, resolved.
        metrics: The run's result, written last: a folder with it is finished. See :mod:`cbseg.results`.
        thresholds: Pixel counts at other thresholds, of the selected weights; ``last_thresholds`` of the last epoch's,
            where they are not the best. See :mod:`cbseg.threshold_curves`.
        curves: A row of logged averages for each epoch.
        best: The selected epoch's weights.
        last: All that the run needs to go on, with more epochs too once it is finished; see ``keep_last``.
        last_weights: Of a finished run, the last epoch's weights, where they are not the best.
        error: Why the run failed, with its config.
        refusal: Why a finished run was not taken for that of the last command.
        slices: Pictures and arrays of a few test slices.
        wandb: W&B's files.

    >>> RunFolder.of("runs", "covidA", "pl", 0, "optim=sps").path.as_posix()
    'runs/covidA/pl/seed0,optim=sps'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.json"
        self.thresholds = self.path / "thresholds.csv"
        self.last_thresholds = self.path / "last_thresholds.csv"
        self.curves = self.path / "metrics.csv"
        self.best = self.path / "best.ckpt"
        self.last = self.path / "last.ckpt"
        self.last_weights = self.path / "last_weights.ckpt"
        self.error = self.path / "error.txt"
        self.refusal = self.path / "refused.txt"
        self.slices = self.path / "slices"
        self.wandb = self.path / "wandb"

    @classmethod
    def of(cls, runs: str | Path, data: str, loss: str, seed: int, settings: str) -> "RunFolder":
        """Return the folder of a run of these."""
        return cls(Path(runs, data, loss, f"seed{seed}" + (f",{settings}" if settings else "")))

    @classmethod
    def find(cls, runs: str | Path) -> list["RunFolder"]:
        """Return all run folders below a folder, in order; those set aside are none."""
        return [cls(path) for path in sorted(Path(runs).glob("*/*/seed*")) if path.is_dir()]

    @property
    def place(self) -> dict[str, str]:
        """What the path tells: ``data``, ``loss``, ``seed`` and ``settings``."""
        seed, _, settings = self.path.name.removeprefix("seed").partition(",")
        return {"data": self.path.parts[-3], "loss": self.path.parts[-2], "seed": seed, "settings": settings}

    def __str__(self) -> str:
        return str(self.path)

    @property
    def epochs(self) -> int:
        """How many epochs its curves have."""
        return len(self.read_curves())

    @property
    def has_result(self) -> bool:
        """Whether a result is there; one of 0 bytes, as a full disk or a cut of power leaves it, is none."""
        return self.metrics.is_file() and self.metrics.stat().st_size > 0

    def read_curves(self) -> pd.DataFrame:
        """Read ``metrics.csv``, a row for each epoch: no row if it is not there, or damaged, which is warned of."""
        if not self.curves.is_file():
            return pd.DataFrame()
        try:
            with reading(self.curves, "holds no learning curves", "its run alone is shown without"):
                if self.curves.stat().st_size > _MOST_CURVES:
                    raise ValueError(f"more than {_MOST_CURVES} bytes")
                curves = pd.read_csv(self.curves)
                if "epoch" not in curves or not curves["epoch"].between(1, len(curves)).all():
                    raise ValueError("its column epoch does not count from 1")
                return curves
        except InputError as error:
            log.warning("%s", error)
            return pd.DataFrame()

    def refuse(self, reason: str) -> None:
        """Leave ``refused.txt``: why the finished run was not taken for that of a command."""
        self._write(self.refusal, reason)

    def _write(self, file: Path, text: str) -> None:
        """Write a file whole or not at all, and never where a link leads."""
        part = file.with_name(f"{file.name}.part")
        part.unlink(missing_ok=True)
        with part.open("x", encoding="utf-8", errors="backslashreplace") as opened:
            opened.write(text)
        part.replace(file)

    def is_finished(self, config: DictConfig) -> bool:
        """Return whether it holds this config's finished run.

        Raises:
            InputError: If it holds the finished run of another config; the message names the keys that differ. Or if
                its config or its result is damaged.
        """
        if not self.has_result:
            return False
        read_json(self.metrics, "run it again with rerun=true")
        if differences := self.differences(config):
            raise InputError(
                f"{self}: holds a finished run of another config ({differences}). rerun=true runs it again and keeps "
                "the old folder aside; runs=<another folder> leaves it as it is"
            )
        return True

    def is_resumable(self, config: DictConfig) -> bool:
        """Return whether it holds an unfinished run of this config that finished an epoch at least."""
        begun = self.last.is_file() and not self.has_result
        try:
            return begun and not self.differences(config)
        except InputError as error:
            if self.config.exists():  # else another process of this run just moved it aside
                log.warning("%s; its unfinished run does not go on", error)
            return False

    def state(self, config: DictConfig) -> State:
        """Return what became of this config's run so far."""
        try:
            finished = self.is_finished(config)
            refusal = text_of(self.refusal)
        except InputError as error:
            finished, refusal = True, str(error)
        if refusal and not config.rerun:
            return State("refused", reason=refusal)
        if finished:
            return State("finished", config.trainer.max_epochs)
        if reason := self.failure():
            return State("failed", self.epochs, reason)
        return State("resumable", self.epochs) if self.is_resumable(config) else State("new")

    def differences(self, config: DictConfig) -> str:
        """Return the keys in which its config differs from this one, and how; nothing where none does but free keys."""
        return "; ".join(f"{key} was {was}, is {now}" for key, (was, now) in self._differing(config).items())

    def predecessor(self, config: DictConfig) -> "RunFolder | None":
        """Return the folder of this config's longest finished run with fewer epochs, from which it can go on.

        The run is as it would be from the start: nothing but ``trainer.max_epochs`` differs.
        """
        found: tuple[int, RunFolder | None] = (0, None)
        for path in self.path.parent.glob(f"seed{config.seed}*"):
            other = RunFolder(path)
            if path != self.path and all(file.is_file() for file in (other.metrics, other.last, other.config)):
                try:
                    differing = other._differing(config)
                except InputError:  # whatever is wrong with that one, this run can begin
                    continue
                was, now = differing.pop("trainer.max_epochs", (0, 0))
                if not differing and found[0] < was < now:
                    found = was, other
        return found[1]

    def _differing(self, config: DictConfig) -> dict[str, tuple[Any, Any]]:
        """Return its value and this config's of the keys in which they differ, free ones aside."""
        there = read_config(self.config)
        here = copy.deepcopy(config)
        OmegaConf.set_struct(here, False)
        for key in FREE_KEYS:  # as it would be in the folder's place: other keys may be derived from these
            if (value := OmegaConf.select(there, key)) is not None:
                OmegaConf.update(here, key, value, merge=False)
        ours, theirs = flat(here), flat(there)
        keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        return {key: (theirs.get(key), ours.get(key)) for key in keys if not is_free(key)}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a run against other processes. The system frees the lock of a process that died.

        Raises:
            BusyError: If another process holds it for longer than a dying one needs to end.
        """
        locks = self.path.parents[2] / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        file = FileLock(locks / f"{','.join(self.path.parts[-3:])}.lock")
        try:
            file.acquire(timeout=_PATIENCE)
        except Timeout as error:
            raise BusyError(f"{self}: another process trains this run") from error
        try:
            yield
        finally:
            file.release()

    def open(self, config: DictConfig) -> bool:
        """Make it ready for its run, which holds the lock, and return whether the run goes on from its last epoch.

        A finished or different run that lies there is moved to ``old/``; one that finished no epoch is removed.
        """
        resumes = self.is_resumable(config)
        if resumes:
            self._refuse_links()
        else:
            if self.last.is_file() or self.metrics.is_file():
                if not self.metrics.is_file():
                    log.warning("%s: %s; begins anew, and the old run is kept in old/", self, self.differences(config))
                self.set_aside()
            elif self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
            part = self.config.with_suffix(".part")
            OmegaConf.save(config, part, resolve=True)
            part.replace(self.config)
        for leftover in (self.error, self.refusal, *self.path.glob("*.part")):
            leftover.unlink(missing_ok=True)
        return resumes

    def _refuse_links(self) -> None:
        """Refuse to write where links in a folder lead that somebody may have shared.

        Raises:
            InputError: If one is there, W&B's own aside.
        """
        for path in sorted((self.path, *self.path.iterdir(), *self.slices.glob("*"))):
            if path.is_symlink():
                raise InputError(
                    f"{path}: is a link, and this run would write where it leads; put the file itself there"
                )

    def take_over(self, other: "RunFolder") -> None:
        """Begin where a finished run of fewer epochs ended; that run is left as it is."""
        for name in (self.best.name, self.last.name):  # in this order: with last.ckpt it can go on
            part = self.path / f"{name}.part"
            try:
                part.hardlink_to(other.path / name)  # never written to, only replaced
            except OSError:
                shutil.copyfile(other.path / name, part)
            part.replace(self.path / name)

    def close(self, keep_last: bool) -> None:
        """Remove what a finished run needs no more; ``last.ckpt`` if more epochs need not go on from it."""
        for leftover in (self.error, *([] if keep_last else [self.last])):
            leftover.unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Move it, if it is there, to the first free ``old/<its name>-<n>`` beside it."""
        if self.path.exists():
            old = self.path.parent / "old"
            old.mkdir(exist_ok=True)
            taken = {path.name for path in old.iterdir()}
            free = next(n for n in range(1, len(taken) + 2) if f"{self.path.name}-{n}" not in taken)
            self.path.rename(old / f"{self.path.name}-{free}")

    def record_failure(self, config: DictConfig, reason: str) -> None:
        """Leave ``error.txt``: why a run failed, with its whole traceback if there is one, and its config.

        A finished run's folder is left as it is, and the first reason stays: what else fails follows from it.
        """
        if self.has_result or self.error.is_file():
            return
        text = f"{reason.rstrip()}\n\n# config\n{OmegaConf.to_yaml(config, resolve=True)}"
        part = self.error.with_suffix(".part")
        for attempt in ("first", "with more room"):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                part.write_text(text)
                part.replace(self.error)
                return
            except OSError as error:
                if attempt != "first":
                    log.error("%s: cannot be written (%s)", self.error, error)
                for half_written in self.path.glob("*.part"):  # what fills the disk, maybe
                    half_written.unlink(missing_ok=True)

    def failure(self) -> str:
        """Return the last line of the reason in ``error.txt``, or nothing if the run did not fail."""
        if not self.error.is_file():
            return ""
        reason = text_of(self.error).partition("\n\n# config\n")[0]
        return ([*reason.strip().splitlines()] or ["no reason was written"])[-1]
