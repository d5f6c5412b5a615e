"""JSON files that are whole or not there."""

import json
import math
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all; what is not a number becomes null."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(_without_nan(content), indent=2) + "\n")
    part.replace(path)


def _without_nan(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _without_nan(value) for key, value in x.items()}
    return None if isinstance(x, float) and not math.isfinite(x) else x
