"""Configs: composed by Hydra into jobs, compared with the defaults, and made into objects."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import filterfalse
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from cbseg.errors import ArgumentError, InputError
from cbseg.explain import own_frames
from cbseg.tracking import is_free, run_folder, settings_name

CONF = Path(__file__).parent.parent / "conf"


@dataclass(frozen=True)
class Job:
    """One run to do.

    Attributes:
        config: Its composed config, without Hydra's own part.
        data: The name of its data config.
        loss: The name of its loss config.
        overrides: What it was composed with.
    """

    config: DictConfig
    data: str
    loss: str
    overrides: Sequence[str]

    @classmethod
    def of(cls, overrides: Sequence[str]) -> "Job":
        """The job that some overrides compose."""
        config = compose(overrides)
        choices = config.hydra.runtime.choices
        return cls(without_hydra(config), choices["data"], choices["loss"], overrides)

    @cached_property
    def settings(self) -> str:
        """What it changes of the defaults, as a name; see :func:`cbseg.tracking.settings_name`."""
        return settings_name(effective_overrides(self.overrides))

    @property
    def folder(self) -> Path:
        """Where its run lies."""
        return run_folder(self.config.runs, self.data, self.loss, self.config.seed, self.settings)


def compose(overrides: Sequence[str]) -> DictConfig:
    """The config of one run, with Hydra's own under ``hydra``."""
    inside_app = GlobalHydra.instance().is_initialized()
    with nullcontext() if inside_app else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides), return_hydra_config=True)


def without_hydra(config: DictConfig) -> DictConfig:
    """A config without Hydra's own part."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def effective_overrides(overrides: Sequence[str]) -> list[str]:
    """Those of a run's overrides that change its config and are not free, each value as the config holds it.

    Those that refer to other keys, which may be free, stay as they are written.
    """
    choices = tuple(o for o in overrides if o.split("=")[0] in ("data", "loss"))
    return list(_effective(choices, tuple(filterfalse(is_free, overrides))))


@cache  # a sweep asks for each of its seeds, before and after
def _effective(choices: tuple[str, ...], overrides: tuple[str, ...]) -> tuple[str, ...]:
    def plain(some: Sequence[str]) -> DictConfig | None:
        try:
            return without_hydra(compose([*choices, *some]))
        except ConfigCompositionException:  # without optim=sps there is no optim.beta
            return None

    whole = plain(overrides)
    assert whole is not None
    kept = list(overrides)
    for override in sorted(overrides):
        without = [other for other in kept if other is not override]
        if "${" not in override and plain(without) == whole:
            kept = without
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}

    def normal(override: str) -> str:
        key = override.split("=")[0].lstrip("+")
        is_value = key.split("@")[0] not in groups and not key.startswith("~") and "${" not in override
        return f"{key}={OmegaConf.select(whole, key)}" if is_value else override

    return tuple(normal(override) for override in kept)


def build(config: DictConfig, key: str, **arguments: Any) -> Any:
    """Make what a config's ``_target_`` names, and below it whatever has a ``_target_`` of its own.

    Args:
        config: Holds a ``_target_``.
        key: Where it stands in the whole config.
        arguments: Added to the config's.

    Raises:
        InputError: If an argument is refused; the message begins with its path in the config. Later too: what is built
            with ``_partial_`` names its path when it is called.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        return instantiate(OmegaConf.create(_with_paths(plain, key)), **arguments)
    except MissingMandatoryValue as error:
        raise InputError(f"{error.full_key or key}: has no value (???); give it one") from error
    except InstantiationException as error:
        raise _innermost(error) from None  # Hydra's digest around it says nothing more


def _with_paths(node: Any, key: str) -> Any:
    """Put :func:`_call` between Hydra and each ``_target_``, so that what is wrong is told by its path."""
    if isinstance(node, list):
        return [_with_paths(child, f"{key}[{k}]") for k, child in enumerate(node)]
    if not isinstance(node, dict):
        return node
    node = {name: _with_paths(child, f"{key}.{name}") for name, child in node.items()}
    if "_target_" in node:
        node |= {"_target_": f"{__name__}._call", "target_": node["_target_"], "key_": key}
    return node


def _call(*positional: Any, target_: str, key_: str, **arguments: Any) -> Any:
    """Call a config's target; what it refuses is an InputError with the path, what breaks inside it stays as it is."""
    try:
        function = instantiate({"_target_": target_, "_partial_": True})
    except InstantiationException as error:
        cause = _innermost(error)
        if own_frames(cause):  # the module was found, and breaks
            raise cause from None
        raise InputError(f"{key_}._target_={target_}: cannot be imported ({cause}); correct the name") from error
    try:
        return function(*positional, **arguments)
    except ArgumentError as error:
        raise InputError(f"{key_}.{error}") from error
    except InputError:
        raise
    except (TypeError, ValueError, MisconfigurationException) as error:
        if own_frames(error)[1:]:  # after this one
            raise
        raise InputError(f"{key_}: {error}") from error


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error
