"""The run folder: where it lies, whose it is, what is written into it, and when it counts as finished."""

import copy
import hashlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from cbseg.errors import InputError

METRICS, CONFIG, LAST, BEST, ERROR = "metrics.json", "config.yaml", "last.ckpt", "best.ckpt", "error.txt"

FREE_KEYS = (
    "data",
    "loss",
    "seed",
    "runs",
    "data_dir",
    "store",
    "rerun",
    "dry_run",
    "logger",
    "data.num_workers",
    "trainer.enable_progress_bar",
)
"""Keys that do not tell settings apart: they have a folder of their own, or change no result."""

_LIBRARIES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "numpy",
    "scipy",
    "scikit-image",
    "hydra-core",
)
_LONGEST = 160
_PATIENCE = 5  # seconds for a lock


def is_free(override: str) -> bool:
    """Whether an override, as written on the command line, changes a free key."""
    key = override.split("=")[0].lstrip("+~")
    return any(key == free or (key.startswith(f"{free}.") and free in ("logger",)) for free in FREE_KEYS)


def settings_name(overrides: Iterable[str]) -> str:
    """A readable name for a set of overrides: equal for equal sets, different for different ones.

    Values that are paths appear by their last part. Where a name loses something, six digits of a hash make up for it.

    >>> settings_name(["trainer.max_epochs=3", "experiment=demo"])
    'experiment=demo,trainer.max_epochs=3'
    >>> settings_name(["data.root=/mnt/covid a"])
    'data.root=covid_a-dd11fe'
    """
    plain = sorted(override.lstrip("+") for override in overrides)
    last_parts = (re.sub(r"=.*/", "=", override.rstrip("/")) for override in plain)
    short = ",".join(re.sub(r"[^\w.=~+@-]", "_", part, flags=re.ASCII) for part in last_parts)[:_LONGEST]
    whole = ",".join(plain)
    return short if short == whole else f"{short}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def run_folder(runs: str | Path, data: str, loss: str, seed: int, settings: str) -> Path:
    """Where a run lies: ``runs/<data>/<loss>/seed<k>``, with its settings behind where they are not the defaults.

    >>> run_folder("runs", "covidA", "pl", 0, "optim=sps").as_posix()
    'runs/covidA/pl/seed0,optim=sps'
    """
    return Path(runs, data, loss, f"seed{seed}" + (f",{settings}" if settings else ""))


def config_differences(folder: Path, config: DictConfig) -> str:
    """The keys in which a folder's config differs from this one, and how; empty where none does, free keys aside."""
    there: Any = OmegaConf.load(folder / CONFIG)
    config = copy.deepcopy(config)
    OmegaConf.set_struct(config, False)
    for key in FREE_KEYS:  # as it would be in the folder's place: other keys are derived from these
        if key not in ("data", "loss") and OmegaConf.select(there, key) is not None:
            OmegaConf.update(config, key, OmegaConf.select(there, key), merge=False)
    ours, theirs = flat_settings(config), flat_settings(there)
    keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    return "; ".join(f"{key} was {theirs.get(key)}, is {ours.get(key)}" for key in keys)


def flat_settings(config: DictConfig) -> dict[str, Any]:
    """A config's resolved values by their dotted keys, free keys aside.

    >>> flat_settings(OmegaConf.create({"seed": 1, "optim": {"lr": 0.1}}))
    {'optim.lr': 0.1}
    """
    flat = _flat(OmegaConf.to_container(config, resolve=True))
    return {key: value for key, value in flat.items() if not is_free(key)}


def is_finished(folder: Path, config: DictConfig) -> bool:
    """Whether a folder holds this config's finished run.

    Raises:
        InputError: If it holds the finished run of another config; the message names the keys that differ.
    """
    if not (folder / METRICS).is_file():
        return False
    if differences := config_differences(folder, config):
        raise InputError(
            f"{folder}: holds a finished run of another config ({differences}). rerun=true runs it again and keeps "
            "the old folder aside; runs=<another folder> leaves it as it is"
        )
    return True


def is_resumable(folder: Path, config: DictConfig) -> bool:
    """Whether a folder holds an unfinished run of this config that finished an epoch at least."""
    begun = (folder / LAST).is_file() and not (folder / METRICS).is_file()
    try:
        return begun and not config_differences(folder, config)
    except FileNotFoundError:  # another process of this run just moved it aside
        return False


class BusyError(RuntimeError):
    """Another process trains this run; the message names its folder."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run against other processes. The system frees the lock of a process that died.

    Raises:
        BusyError: If another process holds it for longer than a dying one needs to end.
    """
    data, loss, name = folder.parts[-3:]
    locks = folder.parents[2] / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    file = FileLock(locks / f"{data},{loss},{name}.lock")
    try:
        file.acquire(timeout=_PATIENCE)
    except Timeout as error:
        raise BusyError(f"{folder}: another process trains this run") from error
    try:
        yield
    finally:
        file.release()


def open_folder(folder: Path, config: DictConfig) -> bool:
    """Make a folder ready for its run, which holds the lock, and say whether the run goes on from its last epoch.

    A finished or different run that lies there is moved to ``old/``; one that finished no epoch is removed.
    """
    resumes = is_resumable(folder, config)
    if not resumes:
        if (folder / LAST).is_file() or (folder / METRICS).is_file():
            set_aside(folder)
        elif folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        save_config(folder, config)
    for leftover in (folder / ERROR, *folder.glob("*.part")):
        leftover.unlink(missing_ok=True)
    return resumes


def save_config(folder: Path, config: DictConfig) -> None:
    """Write ``config.yaml``, whole or not at all."""
    OmegaConf.save(config, folder / f"{CONFIG}.part", resolve=True)
    (folder / f"{CONFIG}.part").replace(folder / CONFIG)


def record_failure(folder: Path, config: DictConfig, reason: str) -> None:
    """Leave ``error.txt``: why a run failed, with its whole traceback if there is one, and its config.

    A finished run's folder is left as it is, and the first reason stays: what else fails follows from it.
    """
    if (folder / METRICS).is_file() or (folder / ERROR).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).write_text(f"{reason.rstrip()}\n\n# config\n{OmegaConf.to_yaml(config)}")


def failure(folder: Path) -> str:
    """The last line of the reason in ``error.txt``, or nothing if the run did not fail."""
    if not (folder / ERROR).is_file():
        return ""
    reason = (folder / ERROR).read_text().partition("\n\n# config\n")[0]
    return ([*reason.strip().splitlines()] or ["no reason was written"])[-1]


def set_aside(folder: Path) -> None:
    """Move a run's folder, if there is one, to the first free ``old/<its name>-<n>`` beside it."""
    if folder.exists():
        old = folder.parent / "old"
        old.mkdir(exist_ok=True)
        taken = {path.name for path in old.iterdir()}
        free = next(n for n in range(1, len(taken) + 2) if f"{folder.name}-{n}" not in taken)
        folder.rename(old / f"{folder.name}-{free}")


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in _flat(child, f"{prefix}.{name}".lstrip(".")).items()
    }


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all; what is not a number becomes null."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(_without_nan(content), indent=2) + "\n")
    part.replace(path)


def _without_nan(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _without_nan(value) for key, value in x.items()}
    return None if isinstance(x, float) and not math.isfinite(x) else x


def environment() -> dict[str, Any]:
    """Library versions, machine, and the code's git commit and whether the tree was dirty (null outside git)."""
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "git": {
            "commit": _git("rev-parse", "HEAD"),
            "dirty": None if (s := _git("status", "--porcelain")) is None else bool(s),
        },
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
