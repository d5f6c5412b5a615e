"""The config that a run's folder holds: people share run folders, so it is read as data, and nothing in it acts."""

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader

from cbseg.data.reading import reading

_MOST_BYTES, _DEEPEST = 2**18, 50  # a run's own config has about 2^12 bytes, 6 levels and no alias


def read_config(file: Path) -> DictConfig:
    """Read a run's ``config.yaml``; every text in it is as it stands, ``${…}`` too.

    Raises:
        InputError: If it is no config that a run wrote: missing, damaged, too large, or with aliases or tags.
    """
    with reading(file, "is no run's config", "take the folder as the run left it, or run it again with rerun=true"):
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        text, depth = content.decode(), 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
                raise ValueError(f"aliases, or more than {_DEEPEST} levels")
        plain = yaml.load(text, Loader=get_yaml_loader())  # OmegaConf's safe loader, as it wrote the file
        if not isinstance(plain, dict) or not plain:
            raise ValueError("it has no keys")
        return OmegaConf.create(_literal(plain))


def _literal(node: Any) -> Any:
    """Return plain values to make a config of in which each text stays as it is: ``${…}`` refers to nothing.

    >>> OmegaConf.create(_literal({"root": "/data/${b}"})).root
    '/data/${b}'
    """
    if isinstance(node, dict):
        return {key: _literal(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_literal(child) for child in node]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", node) if isinstance(node, str) else node
