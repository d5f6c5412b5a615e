"""Configs: composed by Hydra, and made into objects."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from cbseg.errors import ArgumentError, InputError
from cbseg.explain import own_frames

_PLACES = [Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf"]  # of a wheel, of a checkout
CONF = next(filter(Path.is_dir, _PLACES))


def _count_classes(classes: Mapping[Any, Any]) -> int:
    """Count the classes, with background, that a data config's ``classes`` name; two where it names none."""
    return 1 + max((value for value in classes.values() if isinstance(value, int)), default=1)


OmegaConf.register_new_resolver("count_classes", _count_classes, replace=True)


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose the config of one run, with Hydra's own under ``hydra``."""
    inside_app = GlobalHydra.instance().is_initialized()
    with nullcontext() if inside_app else config_files():
        return hydra.compose("config", list(overrides), return_hydra_config=True)


@contextmanager
def config_files(more: str | None = None) -> Iterator[None]:
    """Let :func:`compose` read ``conf/``, and before it a folder with more configs, if one is given."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        if more is not None:
            path = create_config_search_path(str(CONF))
            path.prepend("command line", f"file://{Path(more).absolute()}", SearchPathQuery(provider="schema"))
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2("cbseg", path)
        yield


def without_hydra(config: DictConfig) -> DictConfig:
    """Return a config without Hydra's own part."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def without(config: DictConfig, *keys: str) -> DictConfig:
    """Return a resolved copy of a part of a config, without some of its keys.

    >>> without(OmegaConf.create({"a": {"b": "${c}", "d": 1}, "c": 2}).a, "d")
    {'b': 2}
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return OmegaConf.create({key: value for key, value in plain.items() if key not in keys})


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
        node = {"_convert_": "all"} | node  # lists and dicts as libraries expect them, and checkpoints can keep
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
    except (InputError, OSError):
        raise
    except Exception as error:
        if own_frames(error)[1:]:  # after this one
            raise
        plain = isinstance(error, TypeError | ValueError | MisconfigurationException)
        raise InputError(f"{key_}: {error if plain else repr(error)}") from error


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error
