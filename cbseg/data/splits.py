"""Which slices train, validate and test: pure functions of the slices' scans and positions."""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cbseg.data.store import SliceInfo
from cbseg.errors import ArgumentError, InputError, check_choice, check_whole

log = logging.getLogger(__name__)


_ENOUGH_SCANS = 5  # with clicks, to hold out whole ones


class Split(NamedTuple):
    """The places of the slices of each part in the list that was split."""

    train: list[int]
    val: list[int]
    test: list[int]


def published(slices: Sequence[SliceInfo], val: int) -> Split:
    """Keep the publisher's training and test sets; the last ``val`` training slices validate (COVID-19-A: 45, 5, 48).

    The slices keep their order, which for COVID-19-A is that of file names as text.

    Raises:
        InputError: If there are too few training slices, or no test slices, or ``val`` is no count.
    """
    check_whole("val", val, least=1)
    train = [i for i, item in enumerate(slices) if item.subset == "train"]
    test = [i for i, item in enumerate(slices) if item.subset == "test"]
    if len(train) <= val or not test:
        raise InputError(
            f"{len(train)} training and {len(test)} test slices, of which data.split.val={val} validate: "
            "each part needs at least one"
        )
    return Split(train[:-val], train[-val:], test)


def fold(slices: Sequence[SliceInfo], folds: int, fold: int, together: Sequence[Sequence[str]] = ()) -> Split:
    """Cross-validate within the publisher's training set, so that choices are made without its test set.

    The training slices are dealt to the folds in turn. One fold's validate, and test too; the others train. A selected
    epoch's scores are then too good, as it was selected by the same slices: compare the last epoch's.

    Args:
        slices: Those of the publisher's training set are told by their subset; others take no part.
        folds: How many.
        fold: Which one to hold out, from 0.
        together: Names of slices that go into one fold, that of the first of them, as they may be of one patient.

    Raises:
        InputError: If there are not that many folds, or more folds than training slices.
    """
    check_whole("folds", folds, least=2)
    check_whole("fold", fold, least=0)
    train = [i for i, item in enumerate(slices) if item.subset == "train"]
    if fold >= folds or folds > len(train):
        raise ArgumentError(
            f"fold={fold} of folds={folds}, {len(train)} training slices: "
            "folds are numbered from 0, and each needs a slice"
        )
    places = {slices[i].name: i for i in train}
    groups = [[places[name] for name in group if name in places] for group in together]
    if missing := [name for group in together for name in group if name not in places]:
        log.warning("data.split.together: no training slice is named %s", ", ".join(missing))
    followers = {i: group[0] for group in groups for i in group[1:]}
    leaders = [i for i in train if i not in followers]
    fold_of = {i: k % folds for k, i in enumerate(leaders)}
    held_out = [i for i in train if fold_of[followers.get(i, i)] == fold]
    return Split([i for i in train if i not in held_out], held_out, held_out)


def by_scan(slices: Sequence[SliceInfo], train: int, val: int, test: int, order: str = "number") -> Split:
    """Split whole scans: the first train, the next validate, the next test (``sep``).

    Args:
        slices: Any order; scans are told apart by name.
        train: Number of scans.
        val: Number of scans.
        test: Number of scans.
        order: Of the scans: ``number``, by the numbers in their names; or ``text``, by their names as text, in which 10
            comes before 4, as the authors' code does.

    Raises:
        InputError: If there are not exactly as many scans, or the order does not exist.
    """
    check_choice("order", order, list(_ORDERS))
    for name, count in (("train", train), ("val", val), ("test", test)):
        check_whole(name, count, least=1)
    scans = sorted({item.scan for item in slices}, key=_ORDERS[order])
    if len(scans) != train + val + test:
        raise InputError(
            f"found {len(scans)} scans ({', '.join(scans)}), but the split is {train} + {val} + {test} scans "
            "(data.split.train, val, test): complete the dataset or change the split"
        )
    part = dict(zip(scans, [0] * train + [1] * val + [2] * test, strict=True))
    return Split(*([i for i, item in enumerate(slices) if part[item.scan] == k] for k in range(3)))


def by_annotation(slices: Sequence[SliceInfo], val: float, held_out: float) -> Split:
    """Train on what people clicked; whole masks validate and test, and where they are too few, clicks held out do.

    The first ``val`` of the scans with a mask validate, and the others test. One alone tests. Of five scans with clicks
    or more, the last ``held_out`` are held out, one at least; of fewer, every ⌊1 / held_out⌋-th slice, with infection
    and without, which is like its neighbours that train, so that its scores are too good. These test where no scan has
    a mask, and validate where fewer than two have.

    Args:
        slices: The subset of those of scans with a mask is ``test``, of those with clicks ``train``.
        val: A share.
        held_out: A share.

    Raises:
        InputError: If a share is none, or there are too few slices with clicks to hold out any.
    """
    for name, share in (("val", val), ("held_out", held_out)):
        if not 0 < share <= 0.5:
            raise ArgumentError(f"{name}={share}: give a share above 0, at most 0.5")
    masked, clicked = (
        sorted({item.scan for item in slices if item.subset == subset}, key=_by_number) for subset in ("test", "train")
    )
    places = {scan: [i for i, item in enumerate(slices) if item.scan == scan] for scan in (*masked, *clicked)}
    train = [i for scan in clicked for i in places[scan]]
    first = max(int(len(masked) * val + 1e-9), 1)
    validate, test = ([i for scan in some for i in places[scan]] for some in (masked[:first], masked[first:]))
    if test:
        return Split(train, validate, test)
    if len(clicked) >= _ENOUGH_SCANS:
        last = max(int(len(clicked) * held_out + 1e-9), 1)
        held = [i for scan in clicked[-last:] for i in places[scan]]
    else:
        infected = [i for i in train if slices[i].regions]
        healthy = [i for i in train if not slices[i].regions]
        held = sorted(infected[1 :: int(1 / held_out)] + healthy[1 :: int(1 / held_out)])
    if not held:
        raise InputError(f"{len(train)} slices with clicks: mark at least two, as one is held out to test")
    return Split([i for i in train if i not in held], held, validate or held)


def within_scan(slices: Sequence[SliceInfo], train: float, val: float) -> Split:
    """Split each scan: its first slices train, the next validate, the rest test (``mixed``: 45, 5 and 50 %).

    Of a scan's n slices, ordered by position, those before ⌊train n⌋ train and those before ⌊(train + val) n⌋
    validate.

    Raises:
        InputError: If a scan is too short to give each part a slice, or a share is no share.
    """
    if not (0 < train < train + val < 1):
        raise ArgumentError(f"train={train}, val={val}: shares above 0 whose sum is below 1")
    split = Split([], [], [])
    for scan in sorted({item.scan for item in slices}, key=_by_number):
        places = sorted((i for i, item in enumerate(slices) if item.scan == scan), key=lambda i: slices[i].position)
        n = len(places)
        first, second = int(n * train + 1e-9), int(n * (train + val) + 1e-9)
        if not 0 < first < second < n:
            raise InputError(
                f"{scan}: its {n} slices cannot be split into {train:.0%}, {val:.0%} and the rest; "
                "remove the scan, or use the split by scans"
            )
        for part, some in zip(split, (places[:first], places[first:second], places[second:]), strict=True):
            part.extend(some)
    return split


def labelled_alone(split: Split, slices: Sequence[SliceInfo], count: int) -> Split:
    """Keep some training slices alone: what somebody labels who has little time.

    Half of them hold infection and half do not, as far as there are both; each half is spread evenly over its kind.

    Args:
        split: What to keep the training slices of; other parts stay.
        slices: Those that were split.
        count: How many to keep; all, where there are fewer.
    """
    infected = [i for i in split.train if slices[i].regions]
    healthy = [i for i in split.train if not slices[i].regions]
    few = min(count // 2, len(healthy))
    chosen = _spread(infected, min(count - few, len(infected)))
    chosen += _spread(healthy, min(count - len(chosen), len(healthy)))
    return split._replace(train=[i for i in split.train if i in chosen])


def _spread(items: list[int], count: int) -> list[int]:
    """Return ``count`` of the items, in the middles of as many equal parts."""
    return [items[(2 * k + 1) * len(items) // (2 * count)] for k in range(count)]


def _by_number(name: str) -> list[tuple[str, int]]:
    """Sort ``scan-10`` after ``scan-9``."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def _by_text(name: str) -> str:
    """Sort ``radiopaedia-40`` before ``radiopaedia-4-85506``, as the files' names do, which have _ for -."""
    return name.replace("-", "_")


_ORDERS: dict[str, Callable[[str], Any]] = {"number": _by_number, "text": _by_text}
