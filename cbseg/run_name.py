"""What makes two runs the same, and what a run's folder and the tables call what it changes of the defaults."""

import copy
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cbseg.config import CONF, compose, without_hydra
from cbseg.errors import InputError
from cbseg.overrides import explain_override

FREE_KEYS = (
    "runs",
    "data_dir",
    "store",
    "rerun",
    "dry_run",
    "keep_last",
    "overlays",
    "logger",
    "metrics",
    "data.root",
    "data.store",
    "data.num_workers",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.profiler",
)
"""Keys, with all below them, that change no result: where things lie, what is shown and logged on the way, and what is
measured besides."""

_LONGEST = 160


def is_free(key: str) -> bool:
    """Return whether a key changes no result."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def flat(config: DictConfig) -> dict[str, Any]:
    """Return a config's resolved values by their dotted keys.

    Raises:
        InputError: If a value refers to what is not there.

    >>> flat(OmegaConf.create({"seed": 1, "optim": {"lr": 0.1}}))
    {'seed': 1, 'optim.lr': 0.1}
    """
    try:
        leaves = _leaves(OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise InputError(explain_override(error)) from error
    return {key: _same_path(value) for key, value in leaves}


def result_keys(config: DictConfig) -> dict[str, Any]:
    """Return what of a config decides its run's result, seed aside: runs that are equal in it differ by chance alone.

    Values that refer to the seed stay as they are written, so that they are equal for all seeds.

    >>> result_keys(OmegaConf.create({"seed": 1, "runs": "here", "data": {"seed": "${seed}", "batch_size": 8}}))
    {'data.seed': '${seed}', 'data.batch_size': 8}
    """
    config = copy.deepcopy(config)
    OmegaConf.update(config, "seed", r"\${seed}")
    return {key: value for key, value in flat(config).items() if key != "seed" and not is_free(key)}


def changes(config: DictConfig, overrides: Sequence[str]) -> dict[str, str]:
    """Return those of a run's overrides that change its result keys, each with its value as the config holds it.

    The choices of data and loss, which have a folder of their own, are left out.

    Args:
        config: What the overrides compose.
        overrides: As written on the command line.

    Returns:
        Values by key; options by group. A deleted key begins with ``~`` and has no value.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    choices = {str(override.input_line): override for override in parsed if _is_choice(override)}
    places = tuple(line for line, override in choices.items() if _name(override) in ("data", "loss"))
    others = tuple(line for line, override in choices.items() if line not in places and not is_free(_name(override)))
    whole = result_keys(config)
    if whole == _composed_keys(places):
        return {}
    needed = _needed(places, others)
    base = _composed_keys((*places, *needed)) or {}
    found = {_name(choices[line]): str(choices[line].value() or "") for line in needed}
    for override in parsed:
        if not _is_choice(override):
            key = str(override.key_or_group)
            if override.is_delete() and _below(base, key) != _below(whole, key):
                found[f"~{key}"] = ""
            for leaf, _ in _leaves(override.value(), key):
                if leaf in whole and (leaf not in base or base[leaf] != whole[leaf]):
                    found[leaf] = str(whole[leaf])
    return found


def name_of(changed: Mapping[str, str]) -> str:
    """Return a readable name for what a run changes: equal for equal changes, different for different ones.

    Values that are paths appear by their last part. Where a name loses something, six digits of a hash make up for it.

    >>> name_of({"trainer.max_epochs": "3", "experiment": "demo"})
    'experiment=demo,trainer.max_epochs=3'
    >>> name_of({"model.weights": "/mnt/vgg 16.pth"})
    'model.weights=vgg_16.pth-ce98f2'
    """
    ordered = sorted(changed.items())
    pairs = [_pair(key, value) for key, value in ordered]
    short = ",".join(_pair(key, value.rstrip("/").rpartition("/")[2]) for key, value in ordered)[:_LONGEST]
    ambiguous = any(sign in value for value in changed.values() for sign in ",=")
    return file_name(short, whole=repr(ordered) if ambiguous else ",".join(pairs))


def file_name(text: str, whole: str | None = None) -> str:
    """Return a text as the name of a file or folder: it leads to no other place, and is not too long.

    Args:
        text: Any.
        whole: What it stands for. Names of different texts are different.

    >>> file_name("../optim=sps")
    '_._optim=sps-4ad4bb'
    """
    short = re.sub(r"[^\w.=~+@,-]", "_", text, flags=re.ASCII)[: _LONGEST + 40]
    short = re.sub(r"^\.", "_", short)
    whole = text if whole is None else whole
    return short if short == whole else f"{short}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def name_parts(name: str) -> list[str]:
    """Return the pairs in a setting's name, without its hash, and without a last one that was cut as it was too long.

    >>> name_parts("optim.lr=0.1,model.weights=vgg.pth-0123ab")
    ['optim.lr=0.1', 'model.weights=vgg.pth']
    """
    short, hashed = re.subn(r"-[0-9a-f]{6}$", "", name)
    return short.split(",")[: -1 if hashed and len(short) >= _LONGEST else None]


def _pair(key: str, value: str) -> str:
    return key if key.startswith("~") else f"{key}={value}"


def _is_choice(override: Override) -> bool:
    """Return whether an override chooses an option of a group, as Hydra tells it."""
    return (CONF / str(override.key_or_group)).is_dir() and not isinstance(override.value(), dict)


def _name(override: Override) -> str:
    return ("~" if override.is_delete() else "") + override.get_key_element().lstrip("+~")


def _leaves(value: Any, key: str = "") -> Iterable[tuple[str, Any]]:
    """Yield dotted keys and values: ``{"a": {"b": 1}}`` gives ``a.b`` and 1."""
    if not isinstance(value, dict):
        yield key, value
        return
    for name, child in value.items():
        yield from _leaves(child, f"{key}.{name}" if key else str(name))


def _same_path(value: Any) -> Any:
    """Return a value that may be a path as the shortest from here: ``d``, ``./d`` and ``/abs/d/`` are one."""
    if not isinstance(value, str) or "/" not in value or "://" in value:
        return value
    path = Path(os.path.normpath(Path(value).expanduser()))
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _below(keys: Mapping[str, Any], key: str) -> set[str]:
    return {name for name in keys if name == key or name.startswith(f"{key}.")}


@cache  # a sweep asks for each of its seeds, before and after
def _composed_keys(overrides: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the result keys of a config that some overrides compose, None if they compose none."""
    try:
        return result_keys(without_hydra(compose(overrides)))
    except ConfigCompositionException:
        return None


@cache
def _needed(places: tuple[str, ...], choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return those choices without which the result keys would be others."""
    kept = list(choices)
    for choice in sorted(choices):
        without = [other for other in kept if other != choice]
        if (keys := _composed_keys((*places, *without))) is not None and keys == _composed_keys((*places, *kept)):
            kept = without
    return tuple(kept)
