"""Which slices train, validate and test: pure functions of the slices' scans and positions."""

from collections.abc import Sequence
from typing import NamedTuple

from cbseg.data.store import SliceInfo
from cbseg.errors import InputError, check_whole


class Split(NamedTuple):
    """The places of the slices of each part in the list that was split."""

    train: list[int]
    val: list[int]
    test: list[int]


def published(slices: Sequence[SliceInfo], val: int) -> Split:
    """The publisher's training and test sets; the last ``val`` training slices validate (COVID-19-A: 45, 5, 48).

    The slices keep their order, which for COVID-19-A is that of file names as text.

    Raises:
        InputError: If there are too few training slices, or no test slices, or ``val`` is no count.
    """
    check_whole("data.split.val", val, least=1)
    train = [i for i, item in enumerate(slices) if item.subset == "train"]
    test = [i for i, item in enumerate(slices) if item.subset == "test"]
    if len(train) <= val or not test:
        raise InputError(
            f"{len(train)} training and {len(test)} test slices, of which data.split.val={val} validate: "
            "each part needs at least one"
        )
    return Split(train[:-val], train[-val:], test)
