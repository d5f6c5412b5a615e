"""A job: one run to do, as its overrides compose it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from cbseg.config import compose, without_hydra
from cbseg.overrides import require_parts
from cbseg.run_folder import RunFolder
from cbseg.run_name import changes, name_of, result_keys


@dataclass(frozen=True)
class Job:
    """One run to do.

    Attributes:
        config: Its composed config, without Hydra's own part.
        data: The name of its data config.
        loss: The name of its loss config.
        settings: What it changes of the defaults, as a name; see :func:`cbseg.run_name.name_of`.
    """

    config: DictConfig
    data: str
    loss: str
    settings: str

    @classmethod
    def of(cls, overrides: Sequence[str]) -> "Job":
        """Compose the job of some overrides."""
        config = compose(overrides)
        return cls.composed(without_hydra(config), config.hydra.runtime.choices, overrides)

    @classmethod
    def composed(cls, config: DictConfig, choices: Mapping[str, str], overrides: Sequence[str]) -> "Job":
        """Return the job of a config that Hydra composed, with its choices of groups and its overrides as written.

        Raises:
            InputError: If it lacks a part of a run.
        """
        require_parts(config, choices)
        return cls(config, choices["data"], choices["loss"], name_of(changes(config, overrides)))

    @property
    def keys(self) -> dict[str, Any]:
        """What of its config decides the result; see :func:`cbseg.run_name.result_keys`."""
        return result_keys(self.config)

    @property
    def folder(self) -> RunFolder:
        """Where its run lies."""
        return RunFolder.of(self.config.runs, self.data, self.loss, self.config.seed, self.settings)
