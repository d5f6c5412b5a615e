"""A job: one run to do, as its overrides compose it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omegaconf import DictConfig

from cbseg.config import compose, without_hydra
from cbseg.run_folder import RunFolder
from cbseg.run_name import changes, name_of, result_keys


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
        """Compose the job of some overrides."""
        config = compose(overrides)
        choices = config.hydra.runtime.choices
        return cls(without_hydra(config), choices["data"], choices["loss"], overrides)

    @cached_property
    def settings(self) -> str:
        """What it changes of the defaults, as a name; see :func:`cbseg.run_name.name_of`."""
        return name_of(changes(self.config, self.overrides))

    @property
    def keys(self) -> dict[str, Any]:
        """What of its config decides the result; see :func:`cbseg.run_name.result_keys`."""
        return result_keys(self.config)

    @property
    def folder(self) -> RunFolder:
        """Where its run lies."""
        return RunFolder.of(self.config.runs, self.data, self.loss, self.config.seed, self.settings)
