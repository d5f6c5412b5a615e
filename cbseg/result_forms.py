"""What the fields of a result hold, told from what a damaged or foreign ``metrics.json`` may hold in their place."""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, get_origin

from cbseg.metrics import COUNTS, SCORES


def damaged_fields(found: Mapping[str, Any], types: Mapping[str, Any]) -> list[str]:
    """Return the fields that are missing, or hold something else than a result has there.

    Args:
        found: What a file holds.
        types: What is declared, by field.

    >>> damaged_fields({"epochs": "3"}, {"epochs": int, "loss": str})
    ['epochs', 'loss']
    """
    wrong = [name for name, declared in types.items() if not _fits(found.get(name, ...), declared)]
    return wrong or [name for name, is_whole in _FORMS.items() if not is_whole(found[name])]


def _are_numbers(found: Any, *names: str) -> bool:
    """Return whether these, and all else that a dict holds, are numbers or None."""
    return isinstance(found, dict) and found.keys() >= set(names) and all(_fits(x, float) for x in found.values())


def _are_scores(found: Any) -> bool:
    return _are_numbers(found, *SCORES, *_COUNTED)


def _are_counts(found: Any) -> bool:
    """Return whether a dict holds what :meth:`cbseg.metrics.Counts.named` gives."""
    if not isinstance(found, dict):
        return False
    pixels = [found.get(name) for name in COUNTS]
    by_class = [x if isinstance(x, list) else [x] for x in pixels]
    errors, slices = found.get("count_errors"), [found.get(key, 0) for key in ("whole", "sparse")]
    return (
        len({len(x) for x in by_class}) == 1
        and isinstance(errors, list)
        and len(errors) == _LEVELS
        and all(isinstance(x, int) for x in (*chain(*by_class), *errors, found.get("slices"), *slices))
    )


def _are_counts_by_scan(found: Any) -> bool:
    return isinstance(found, dict) and all(map(_are_counts, found.values()))


_COUNTED, _LEVELS = ("mae", "game"), 5
_FORMS: dict[str, Callable[[Any], bool]] = {
    "test": _are_scores,
    "counts": lambda found: not found or _are_counts(found),
    "scans": _are_counts_by_scan,
    "last": lambda found: _are_scores(found.get("test")) and _are_counts_by_scan(found.get("scans", {})),
    "val": _are_numbers,
    "split": _are_numbers,
    "dataset": lambda found: _are_numbers(found, "cases", "slices", "slices_with_infections", "infected_regions"),
    "epochs": lambda found: isinstance(found, int) and found > 0,
}
"""What the fields hold, of which their types alone do not tell."""


def _fits(value: Any, declared: Any) -> bool:
    kind = get_origin(declared) or declared
    return isinstance(value, (int, float) if kind is float else kind) or (value is None and kind in (int, float))
