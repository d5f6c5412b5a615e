"""The run folder: where it lies, what is written into it, and when it counts as finished."""

import hashlib
import json
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
    short = ",".join(re.sub(r"[^\w.=~+-]", "_", part, flags=re.ASCII) for part in last_parts)[:_LONGEST]
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
    here, there = (_flat(OmegaConf.to_container(c, resolve=True)) for c in (config, OmegaConf.load(folder / CONFIG)))
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
    """A W&B run for a run folder: grouped by data, its job type the loss. It never asks for a login.

    Args:
        folder: The run's folder; W&B's files go into ``wandb`` in it.
        data: The data config's name.
        loss: The loss config's name.
        seed: The seed.
        settings: What differs from the defaults.
        config: The whole config.
        mode: ``auto``, which is online if the user is logged in and else offline; ``online``; ``offline``.
            The environment's ``WANDB_MODE`` goes before it.
        project: W&B's project.
        entity: W&B's user or team; the user's default if it is null.

    Raises:
        InputError: If the mode does not exist.
    """
    check_choice("logger.mode", mode, ["auto", "online", "offline"])
    if mode == "auto":
        mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
    experiment = wandb.init(
        mode=os.environ.get("WANDB_MODE", mode),  # type: ignore[arg-type]
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
    experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=experiment, save_dir=folder)
