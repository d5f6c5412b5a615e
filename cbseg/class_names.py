"""What a run's classes are called: in pictures, tables, W&B and the labels that it predicts."""

from collections.abc import Mapping
from typing import Any

INFECTION = "infection"


def class_names(classes: Mapping[Any, Any] | None, num_classes: int) -> tuple[str, ...]:
    """Return the names of the classes but background, class 1 first.

    Args:
        classes: A data config's ``find_scans.classes``, where its keys are names; of several the first counts.
        num_classes: With background.

    >>> class_names({"infection": 1, "ggo": 1, "background": 0, "healthy": "all"}, 2)
    ('infection',)
    >>> class_names({1: 1, 2: 2}, 3)
    ('class1', 'class2')
    """
    names = {k: f"class{k}" if num_classes > 2 else INFECTION for k in range(1, num_classes)}
    for name, value in reversed(list((classes or {}).items())):
        if value in names and not str(name).isdigit():
            names[value] = str(name)
    return tuple(names.values())
