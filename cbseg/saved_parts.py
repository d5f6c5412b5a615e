"""The parts of a run that predict, from its folder: people share those, so only what is trusted is made of them."""

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cbseg.checkpoint import damage_refused, read_checkpoint, require_intact
from cbseg.config import build
from cbseg.data.reading import reading_values
from cbseg.errors import InputError

_PARTS = {"model": "net.", "decision": "decision."}
"""The config's keys that are made, and how the weights of each begin."""

_OWN = {f"cbseg.models.{path.stem}" for path in (Path(__file__).parent / "models").glob("*.py")} | {"cbseg.decision"}
"""The modules whose networks may be made of any config."""

_GETTERS = tuple(f"hydra.utils.get_{what}" for what in ("class", "method", "static_method", "object"))
_REMEDY = "Take the folder as the run left it, or run it again with rerun=true"
_INITIAL_WEIGHTS = {"weights": None, "weights_backbone": None, "encoder_weights": None, "pretrained": False}
"""Arguments by which networks fetch what their training begins with, and their values to fetch nothing."""


def load_parts(config: DictConfig, file: Path, weights: Path, trusted: Collection[str] = ()) -> dict[str, nn.Module]:
    """Make the network and the decision of a run's config, and fill them with weights.

    Args:
        config: See :func:`cbseg.run_config.read_config`; the weights that training began with are not looked for.
        file: Where it was read.
        weights: A checkpoint of the run.
        trusted: What may be made of it beside the project's own networks: names as the config has them, or modules,
            of which the network classes are trusted then.

    Returns:
        ``model`` and ``decision``, ready to predict.

    Raises:
        InputError: If the config names anything else, which is not even imported then; if a part cannot be made, or
            the weights are damaged or those of another.
    """
    checkpoint = read_checkpoint(weights, ["state_dict"])
    require_intact(weights, _REMEDY)
    parts = {}
    for key, prefix in _PARTS.items():
        with damage_refused(weights, _REMEDY):
            state = {
                name.removeprefix(prefix): x for name, x in checkpoint["state_dict"].items() if name.startswith(prefix)
            }
        with reading_values(file):
            names: list[str] = []
            node = OmegaConf.create(_checked(OmegaConf.to_container(config[key], resolve=True), key, trusted, names))
            if all(map(_is_own, names)):
                _require_shapes(node, key, state, weights)
            part = build(node, key)
            if not isinstance(part, nn.Module):
                raise InputError(f"{key}._target_ gives {type(part).__name__}, which has no weights")
        with damage_refused(weights, _REMEDY):
            part.load_state_dict(state)
        parts[key] = part.eval()
    return parts


def _require_shapes(node: DictConfig, key: str, state: dict[str, Any], weights: Path) -> None:
    """Refuse a part that its weights do not fit before anything is allocated for what its config claims."""
    with torch.device("meta"):
        try:
            part: nn.Module = build(node, key)
        except RuntimeError as error:
            if "meta" not in str(error):  # else it computes while it is made, which this device cannot
                raise
            return
    with damage_refused(weights, _REMEDY):
        part.load_state_dict(state, assign=True)


def _checked(node: Any, key: str, trusted: Collection[str], names: list[str]) -> Any:
    """Return a node, of which all names were found trusted and added to ``names``, without weights to begin with."""
    if isinstance(node, list):
        return [_checked(child, f"{key}[{k}]", trusted, names) for k, child in enumerate(node)]
    if isinstance(node, str) and "${" in node:
        raise InputError(f"{key}={node}: refers to something else, which the config of a run does nowhere")
    if not isinstance(node, dict):
        return node
    if "_target_" in node:
        name = node["_target_"]
        if name in _GETTERS and node.keys() == {"_target_", "path"}:  # it gives what its path names
            name = node["path"]
        names.append(name)
        own = _is_own(name)
        if not own and not _is_trusted(name, trusted):
            raise InputError(
                f"{key}._target_={name}: a run's folder is data, and of its config only the networks of "
                f"cbseg.models are made. If you know what {name} does, and who made this folder, add --trust {name}"
            )
        if own and "_args_" in node:
            raise InputError(f"{key}._args_: arguments of {name} are given by their names")
        node = node | {key: "none" if own else off for key, off in _INITIAL_WEIGHTS.items() if key in node}
    return {name: _checked(child, f"{key}.{name}", trusted, names) for name, child in node.items()}


def _is_own(name: Any) -> bool:
    """Return whether a name is that of a network class where the project defines it."""
    module, _, attribute = str(name).rpartition(".")
    return module in _OWN and _is_network(vars(importlib.import_module(module)).get(attribute), module)


def _is_trusted(name: Any, trusted: Collection[str]) -> bool:
    """Return whether a name was trusted as it stands, or is a network class of a module that was."""
    if name in trusted:
        return True
    modules = [module for module in trusted if str(name).startswith(f"{module}.")]
    return any(_is_network(get_object(name), module) for module in modules)


def _is_network(found: Any, module: str) -> bool:
    """Return whether something is a network class that is defined in or below a module."""
    return isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(f"{module}.")
