"""What became of a run: finished, to go on, failed, or refused as its folder holds another."""

import copy
import logging
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from cbseg.data.reading import text_of
from cbseg.errors import InputError
from cbseg.json_file import read_json
from cbseg.run_config import read_config
from cbseg.run_folder import RunFolder
from cbseg.run_name import FREE_KEYS, flat, is_free

log = logging.getLogger(__name__)


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


def is_finished(folder: RunFolder, config: DictConfig) -> bool:
    """Return whether it holds this config's finished run.

    Raises:
        InputError: If it holds the finished run of another config; the message names the keys that differ. Or if
            its config or its result is damaged.
    """
    if not folder.has_result:
        return False
    read_json(folder.metrics, "run it again with rerun=true")
    if differing := differences(folder, config):
        raise InputError(
            f"{folder}: holds a finished run of another config ({differing}). rerun=true runs it again and keeps "
            "the old folder aside; runs=<another folder> leaves it as it is"
        )
    return True


def is_resumable(folder: RunFolder, config: DictConfig) -> bool:
    """Return whether it holds an unfinished run of this config that finished an epoch at least."""
    begun = folder.last.is_file() and not folder.has_result
    try:
        return begun and not differences(folder, config)
    except InputError as error:
        if folder.config.exists():  # else another process of this run just moved it aside
            log.warning("%s; its unfinished run does not go on", error)
        return False


def state_of(folder: RunFolder, config: DictConfig) -> State:
    """Return what became of this config's run so far."""
    try:
        finished = is_finished(folder, config)
        refusal = text_of(folder.refusal)
    except InputError as error:
        finished, refusal = True, str(error)
    if refusal and not config.rerun:
        return State("refused", reason=refusal)
    if finished:
        return State("finished", config.trainer.max_epochs)
    if reason := folder.failure():
        return State("failed", folder.epochs, reason)
    return State("resumable", folder.epochs) if is_resumable(folder, config) else State("new")


def differences(folder: RunFolder, config: DictConfig) -> str:
    """Return the keys in which its config differs from this one, and how; nothing where none does but free keys."""
    return "; ".join(f"{key} was {was}, is {now}" for key, (was, now) in _differing(folder, config).items())


def predecessor(folder: RunFolder, config: DictConfig) -> RunFolder | None:
    """Return the folder of this config's longest finished run with fewer epochs, from which it can go on.

    The run is as it would be from the start: nothing but ``trainer.max_epochs`` differs.
    """
    found: tuple[int, RunFolder | None] = (0, None)
    for path in folder.path.parent.glob(f"seed{config.seed}*"):
        other = RunFolder(path)
        if path != folder.path and all(file.is_file() for file in (other.metrics, other.last, other.config)):
            try:
                differing = _differing(other, config)
            except InputError:  # whatever is wrong with that one, this run can begin
                continue
            was, now = differing.pop("trainer.max_epochs", (0, 0))
            if not differing and found[0] < was < now:
                found = was, other
    return found[1]


def _differing(folder: RunFolder, config: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Return its value and this config's of the keys in which they differ, free ones aside."""
    there = read_config(folder.config)
    here = copy.deepcopy(config)
    OmegaConf.set_struct(here, False)
    for key in FREE_KEYS:  # as it would be in the folder's place: other keys may be derived from these
        if (value := OmegaConf.select(there, key)) is not None:
            OmegaConf.update(here, key, value, merge=False)
    ours, theirs = flat(here), flat(there)
    keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    return {key: (theirs.get(key), ours.get(key)) for key in keys if not is_free(key)}
