"""A command's overrides: what is wrong with them, told in one message that says what to do."""

from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from cbseg.config import CONF
from cbseg.errors import InputError, check_choice

OVERRIDE_ERRORS = (HydraException, OmegaConfBaseException)
"""What Hydra and OmegaConf raise where they cannot read or compose overrides."""

_GROUPS = ("protocol", "data", "loss", "model", "optim", "trainer")
_PARTS = (*_GROUPS, "selection", "decision", "metrics")


def explain_override(error: Exception) -> str:
    """Return the message of one of ``OVERRIDE_ERRORS``, and below it what exists, or what to write instead."""
    text = str(error)
    if isinstance(error, OmegaConfBaseException):
        text = ": ".join(filter(None, [str(error.full_key or ""), text.splitlines()[0]]))
    if isinstance(error, OverrideParseException):
        text = f"{error.override}: cannot be read ({text.splitlines()[0]})"
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        exist = ", ".join(str(key) for key in cause.parent_node)
        where = str(cause.full_key).rpartition(".")[0] or "the config"
        return f"{text}\n{cause.full_key} does not exist; {where} has: {exist}"
    if isinstance(error, OverrideParseException) or "Ambiguous value" in text:
        example = """'data.root="/data/CT (1)"'"""
        return f"{text}\nA value with brackets, commas, =, ~ or letters beyond a-z is quoted twice: {example}"
    if isinstance(error, GrammarParseError | InterpolationResolutionError):
        return (
            f"{text}\nWhat stands in ${{…}} is taken for another key: rename a folder with such a name, or link to it"
        )
    return text


def check_overrides(overrides: Sequence[Override]) -> None:
    """Refuse what Hydra composes into no config, without saying which override it was.

    Raises:
        InputError: Naming the override, and what to write instead.
    """
    for override in overrides:
        key, value = override.get_key_element().lstrip("+"), override.value()
        if key == "hydra.sweeper.params":
            raise InputError(f"{key}: give each key that is searched by itself, such as 'optim.lr=interval(1e-5,1e-3)'")
        if (CONF / key).is_dir() and not override.is_delete() and None in getattr(value, "list", [value]):
            check_choice(key, "null", sorted(path.stem for path in (CONF / key).glob("*.yaml")))


def check_discrete(overrides: Sequence[Override]) -> None:
    """Refuse intervals in a sweep over given values.

    Raises:
        InputError: Naming the override, and what to write instead.
    """
    for override in overrides:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            key = override.get_key_element()
            raise InputError(
                f"{override.input_line}: a sweep takes values, not all between two; list them ({key}=0.1,0.2), or "
                "choose a hydra/sweeper that looks for the best"
            )


def require_parts(config: DictConfig, choices: Mapping[str, str]) -> None:
    """Refuse a composed config that lacks what each run is made of; a run without ``logger`` logs to CSV alone.

    Raises:
        InputError: Naming the part.
    """
    for part in _PARTS:
        if not isinstance(config.get(part), DictConfig) or (part in _GROUPS and part not in choices):
            raise InputError(f"{part}: a run needs it, and it was taken out or replaced; leave ~{part} or {part}=… out")
