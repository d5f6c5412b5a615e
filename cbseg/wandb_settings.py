"""What is asked of Weights & Biases by config and environment, looked at before anything is trained."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import wandb

from cbseg.errors import InputError, check_choice

log = logging.getLogger(__name__)


def wandb_mode(mode: str) -> str:
    """Return ``online``, ``offline`` or ``disabled`` for a configured mode; nobody is asked, and no network.

    The environment's ``WANDB_MODE`` and ``WANDB_DISABLED`` go before it.

    Raises:
        InputError: If the mode does not exist, or is ``online`` without a login; or if W&B refuses the environment.
    """
    check_choice("logger.mode", mode, ["auto", "online", "offline"])
    key, asked = "logger.mode", mode
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in ("true", "1", "yes"):  # W&B itself heeds it no more
        return "disabled"
    if not os.environ.get("WANDB_MODE", "").strip():
        os.environ.pop("WANDB_MODE", None)  # W&B would refuse an empty one
    else:
        given = os.environ["WANDB_MODE"]
        key, asked = "WANDB_MODE", {"dryrun": "offline", "run": "online"}.get(given, given)
        check_choice(key, asked, ["auto", "online", "offline", "disabled"])
    if asked == "disabled":
        return asked
    with refused_settings():
        wandb.setup(wandb.Settings(silent=True))
    if asked == "offline":
        return asked
    try:
        problem = "" if wandb.login(prompt=False, verify=False) else "you are not logged in to W&B"
    except wandb.errors.AuthenticationError as error:
        problem = str(error).rstrip(".")
    if problem and asked == "online":
        raise InputError(f"{key}=online: {problem}; run `wandb login`, or take logger.mode=offline")
    if "API_KEY" in problem:
        log.warning("%s: logging offline", problem)
    return "offline" if problem else "online"


def default_project() -> str:
    """Return W&B's project where the config names none: that of ``WANDB_PROJECT``, else ``cbseg``."""
    return os.environ.get("WANDB_PROJECT") or "cbseg"


@contextmanager
def refused_settings() -> Iterator[None]:
    """Tell what W&B refuses of its settings, which come from the config, the environment and its own files.

    Raises:
        InputError: With W&B's name of the setting and its reason.
    """
    try:
        yield
    except (wandb.errors.UsageError, ValueError) as error:
        first, *details = [line.strip() for line in str(error).splitlines()]
        raise InputError(
            f"W&B refuses a setting ({': '.join(details[:2]) or first}); correct it in logger, or in the environment, "
            "where its name begins with WANDB_; logger=csv goes without W&B"
        ) from error
