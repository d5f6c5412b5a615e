"""What a run was made with: versions, machine, and the code's commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "numpy",
    "scipy",
    "scikit-image",
    "hydra-core",
)


def provenance() -> dict[str, Any]:
    """Return library versions, machine, and the code's git commit and whether the tree was dirty (null outside git)."""
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "git": {
            "commit": _git("rev-parse", "HEAD"),
            "dirty": None if (s := _git("status", "--porcelain")) is None else bool(s),
        },
    }


def code_of(sittings: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the code with which a run ended, whether that of any sitting was changed, and each sitting.

    >>> code_of([{"epoch": 1, "commit": "a", "dirty": True}, {"epoch": 5, "commit": "b", "dirty": False}])["dirty"]
    True
    """
    dirty = [sitting["dirty"] for sitting in sittings]
    known = any(dirty) if any(dirty) or None not in dirty else None
    return {"commit": sittings[-1]["commit"], "dirty": known, "sittings": sittings}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
