"""The splits: disjoint, complete, independent of order; whole scans in sep, shares of each scan in mixed."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbseg.data.splits import Split, by_scan, fold, labelled_alone, within_scan
from cbseg.data.store import SliceInfo
from cbseg.errors import InputError


def dataset(lengths):
    return [
        SliceInfo(f"scan-{scan}-{k}", f"scan-{scan}", "", k, (4, 4), 0, 0)
        for scan, n in enumerate(lengths, start=1)
        for k in range(n)
    ]


def names(slices, split):
    return [{slices[i].name for i in part} for part in split]


@given(lengths=st.lists(st.integers(1, 60), min_size=9, max_size=9), seed=st.integers(0, 99))
def test_sep_is_disjoint_complete_by_scan_and_independent_of_order(lengths, seed):
    slices = dataset(lengths)
    split = by_scan(slices, train=5, val=1, test=3)
    assert sorted([*split.train, *split.val, *split.test]) == list(range(len(slices)))
    scans = [{slices[i].scan for i in part} for part in split]
    assert [len(part) for part in scans] == [5, 1, 3]
    assert scans[1] == {"scan-6"}
    assert len(scans[0] | scans[1] | scans[2]) == 9
    shuffled = random.Random(seed).sample(slices, len(slices))
    assert names(shuffled, by_scan(shuffled, 5, 1, 3)) == names(slices, split)


@given(lengths=st.lists(st.integers(20, 120), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_mixed_takes_45_5_and_50_percent_of_each_scan_by_position(lengths, seed):
    slices = dataset(lengths)
    split = within_scan(slices, train=0.45, val=0.05)
    assert sorted([*split.train, *split.val, *split.test]) == list(range(len(slices)))
    for scan, n in enumerate(lengths, start=1):
        positions = [sorted(slices[i].position for i in part if slices[i].scan == f"scan-{scan}") for part in split]
        assert positions[0] == list(range(45 * n // 100))
        assert positions[1] == list(range(45 * n // 100, n // 2))
        assert positions[2] == list(range(n // 2, n))
    shuffled = random.Random(seed).sample(slices, len(slices))
    assert names(shuffled, within_scan(shuffled, 0.45, 0.05)) == names(slices, split)


def test_scans_are_ordered_by_number_and_not_as_text():
    slices = dataset([1] * 10)
    assert [slices[i].scan for i in by_scan(slices, 8, 1, 1).test] == ["scan-10"]


def test_the_released_order_is_that_of_names_as_text():
    names = ["radiopaedia-4-85506-1", "radiopaedia-40-86625-0", "radiopaedia-10-85902-1", "coronacases-9"]
    slices = [SliceInfo(name, name, "", 0, (4, 4), 1, 0) for name in names]
    order = [slices[part[0]].scan for part in by_scan(slices[:3], 1, 1, 1, "text")]
    assert order == ["radiopaedia-10-85902-1", "radiopaedia-40-86625-0", "radiopaedia-4-85506-1"]  # 4_ comes after 40
    with pytest.raises(InputError, match=r"^order=size.*number, text"):
        by_scan(slices, 2, 1, 1, "size")


def test_fewer_scans_than_the_split_needs():
    with pytest.raises(InputError, match=r"found 8 scans.*5 \+ 1 \+ 3"):
        by_scan(dataset([3] * 8), 5, 1, 3)


def test_a_scan_of_three_slices_in_the_mixed_split():
    with pytest.raises(InputError, match="scan-2: its 3 slices cannot be split"):
        within_scan(dataset([40, 3]), 0.45, 0.05)


@pytest.mark.parametrize(("train", "val"), [(0.9, 0.2), (0, 0.5), (0.5, 0)])
def test_shares_that_are_none(train, val):
    with pytest.raises(InputError, match="shares above 0"):
        within_scan(dataset([40]), train, val)


@given(n=st.integers(5, 60), folds=st.integers(2, 5))
def test_folds_hold_out_each_training_slice_once_and_never_see_the_test_set(n, folds):
    slices = [SliceInfo(f"s{k}", f"s{k}", "train" if k < n else "test", 0, (4, 4), 1, 0) for k in range(n + 7)]
    splits = [fold(slices, folds, k) for k in range(folds)]
    assert sorted(i for split in splits for i in split.val) == list(range(n))
    for split in splits:
        assert split.val == split.test
        assert sorted(split.train + split.val) == list(range(n))
    assert max(len(split.val) for split in splits) - min(len(split.val) for split in splits) <= 1


def test_slices_that_belong_together_are_held_out_together(caplog):
    slices = [SliceInfo(f"s{k}", f"s{k}", "train", 0, (4, 4), 1, 0) for k in range(12)]
    together = [["s2", "s3", "s7"], ["s9", "s0"], ["s5", "elsewhere"]]
    splits = [fold(slices, 5, k, together) for k in range(5)]
    assert sorted(i for split in splits for i in split.val) == list(range(12))
    assert [{2, 3, 7} <= set(split.val) for split in splits].count(True) == 1
    assert [{0, 9} <= set(split.val) for split in splits].count(True) == 1
    assert "elsewhere" in caplog.text
    assert all(sorted(split.train + split.val) == list(range(12)) for split in splits)


@pytest.mark.parametrize(("folds", "k"), [(2, 2), (9, 0)])
def test_folds_that_do_not_exist(folds, k):
    slices = [SliceInfo(f"s{i}", f"s{i}", "train", 0, (4, 4), 1, 0) for i in range(8)]
    with pytest.raises(InputError, match=f"^fold={k} of folds={folds}, 8 training slices"):
        fold(slices, folds, k)


@given(regions=st.lists(st.integers(0, 2), min_size=1, max_size=40), count=st.integers(1, 45))
def test_labelled_slices_are_half_infected_and_half_not_and_spread(regions, count):
    slices = [SliceInfo(f"s{k}", "scan", "", k, (4, 4), n, 0) for k, n in enumerate([*regions, 1, 0])]
    everything = Split(list(range(len(regions))), [len(regions)], [len(regions) + 1])
    split = labelled_alone(everything, slices, count)
    assert (split.val, split.test) == (everything.val, everything.test)
    assert split.train == sorted(set(split.train))
    assert len(split.train) == min(count, len(regions))
    kinds = [[i for i in everything.train if (regions[i] > 0) == infected] for infected in (True, False)]
    taken = [[kind.index(i) for i in split.train if i in kind] for kind in kinds]
    if count <= 2 * min(map(len, kinds)):
        assert (len(taken[0]), len(taken[1])) == (count - count // 2, count // 2)
    for kind, places in zip(kinds, taken, strict=True):
        gaps = [b - a for a, b in pairwise(places)]
        assert not gaps or max(gaps) - min(gaps) <= 1
        assert not places or abs(places[0] - (len(kind) - 1 - places[-1])) <= 1
