"""JSON files that are whole or not there."""

import json
import math
from pathlib import Path
from typing import Any

from cbseg.data.reading import reading
from cbseg.whole_file import whole

_MOST_BYTES = 2**26


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all; what is not a number becomes null."""
    with whole(path) as part:
        part.write_text(json.dumps(_without_nan(content), indent=2) + "\n")


def read_json(path: Path, remedy: str) -> Any:
    """Read a file that is no larger than a run's result is.

    Args:
        path: The file.
        remedy: What to do if it is damaged.

    Raises:
        InputError: If it cannot be read, or is no JSON.
    """
    with reading(path, "cannot be read", remedy):
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        return json.loads(content)


def _without_nan(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _without_nan(value) for key, value in x.items()}
    return None if isinstance(x, float) and not math.isfinite(x) else x
