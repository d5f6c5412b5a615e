"""The run folder: where it lies, what is written into it, and when it counts as finished."""

import copy
import hashlib
import json
import logging
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import wandb
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger

from cbseg.errors import InputError, check_choice

log = logging.getLogger(__name__)

METRICS, CONFIG = "metrics.json", "config.yaml"

FREE_KEYS = (
    "data",
    "loss",
    "seed",
    "runs",
    "store",
    "rerun",
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


def is_finished(folder: Path, config: DictConfig) -> bool:
    """Whether a folder holds this config's finished run.

    Raises:
        InputError: If it holds the finished run of another config; the message names the keys that differ.
    """
    if not (folder / METRICS).is_file():
        return False
    finished = OmegaConf.load(folder / CONFIG)
    config = copy.deepcopy(config)
    OmegaConf.set_struct(config, False)
    for key in FREE_KEYS:  # as it would be in the finished run's place: other keys are derived from these
        if key not in ("data", "loss") and OmegaConf.select(finished, key) is not None:
            OmegaConf.update(config, key, OmegaConf.select(finished, key), merge=False)
    here, there = (_flat(OmegaConf.to_container(c, resolve=True)) for c in (config, finished))
    keys = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key) and not is_free(key))
    if keys:
        differences = "; ".join(f"{key} was {there.get(key)}, is {here.get(key)}" for key in keys)
        raise InputError(
            f"{folder}: holds a finished run of another config ({differences}). rerun=true runs it again and keeps "
            "the old folder aside; runs=<another folder> leaves it as it is"
        )
    return True


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


def wandb_mode(mode: str) -> str:
    """``online`` or ``offline`` for a configured mode; the environment's ``WANDB_MODE`` goes before it. Never asks.

    Raises:
        InputError: If the mode does not exist, or is ``online`` without a login.
    """
    check_choice("logger.mode", mode, ["auto", "online", "offline"])
    mode = os.environ.get("WANDB_MODE", mode)
    if mode not in ("auto", "online"):
        return mode
    logged_in = wandb.login(prompt=False, verify=False)
    if mode == "online" and not logged_in:
        raise InputError("logger.mode=online: you are not logged in to W&B; run `wandb login`, or logger.mode=offline")
    return "online" if logged_in else "offline"


def wandb_logger(
    folder: Path,
    data: str,
    loss: str,
    seed: int,
    settings: str,
    config: DictConfig,
    mode: str,
    project: str,
    entity: str | None,
) -> WandbLogger:
    """A W&B run for a run folder: grouped by data, its job type the loss.

    Args:
        folder: The run's folder; W&B's files go into ``wandb`` in it.
        data: The data config's name.
        loss: The loss config's name.
        seed: The seed.
        settings: What differs from the defaults.
        config: The whole config.
        mode: See :func:`wandb_mode`. ``auto`` goes on offline where W&B cannot be reached.
        project: W&B's project.
        entity: W&B's user or team; the user's default if it is null.

    Raises:
        InputError: If the mode does not exist, or W&B was asked for and cannot be reached.
    """

    def start(mode: str) -> Any:
        return wandb.init(
            mode=mode,  # type: ignore[arg-type]
            dir=folder,
            project=project,
            entity=entity,
            name=" ".join(filter(None, [data, loss, f"seed{seed}", settings])),
            group=data,
            job_type=loss,
            tags=[data, loss, *filter(None, [settings[:64]])],
            config=OmegaConf.to_container(config, resolve=True),  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True),
            reinit="finish_previous",
        )

    try:
        experiment = start(wandb_mode(mode))
    except wandb.errors.CommError as error:
        if mode != "auto":
            raise InputError(f"logger.mode={mode}: W&B cannot be reached ({error}); logger.mode=offline") from error
        log.warning("W&B cannot be reached (%s): logging offline", error)
        experiment = start("offline")
    experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=experiment, save_dir=folder)
