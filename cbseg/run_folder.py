"""The run folder: where it lies, what is in it, and whose it is. What became of its run: :mod:`cbseg.run_status`."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from cbseg.data.reading import reading, text_of
from cbseg.errors import InputError
from cbseg.whole_file import whole

log = logging.getLogger(__name__)

_PATIENCE = 5  # seconds for a lock
_MOST_CURVES = 2**26  # bytes


class BusyError(RuntimeError):
    """Another process trains this run; the message names its folder."""


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
        with whole(self.refusal) as part:
            part.write_text(reason, encoding="utf-8", errors="backslashreplace")

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

    def open(self, config: DictConfig, goes_on: bool) -> None:
        """Make it ready for its run, which holds the lock.

        Args:
            config: The run's.
            goes_on: Whether the run that lies there goes on. Else one that is finished, or another, is moved to
                ``old/``, and one that finished no epoch is removed.
        """
        if goes_on:
            self._refuse_links()
        else:
            if self.last.is_file() or self.metrics.is_file():
                self.set_aside()
            elif self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
            with whole(self.config) as part:
                OmegaConf.save(config, part, resolve=True)
        for leftover in (self.error, self.refusal, *self.path.glob("*.part")):
            leftover.unlink(missing_ok=True)

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
        for attempt in ("first", "with more room"):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                with whole(self.error) as part:
                    part.write_text(text)
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
