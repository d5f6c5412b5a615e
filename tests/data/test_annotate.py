"""People's clicks against the slices and the masks that are there."""

import numpy as np
import pytest

from cbseg.data import annotate
from cbseg.data.annotate import PointAnnotator, prepare_points
from cbseg.data.covid_a import find_scans
from cbseg.data.scans import SliceData
from cbseg.data.slice_sets import TrainingSet
from cbseg.data.store import SliceStore, prepare
from cbseg.errors import InputError
from cbseg.points import IGNORE, sample_points


@pytest.fixture(scope="module")
def prepared(covid_a, tmp_path_factory):
    return SliceStore(prepare(find_scans(covid_a), (48, 64), tmp_path_factory.mktemp("store"), "covidA"))


@pytest.fixture
def annotator(tmp_path):
    """An annotator by a file of these clicks: (slice, row, column, class)."""

    def one(clicks):
        lines = ["slice,row,column,class", *(",".join(map(str, click)) for click in clicks)]
        (tmp_path / "clicks.csv").write_text("\n".join(lines))
        return PointAnnotator("distance_transform", 0, True, "background", 2, str(tmp_path / "clicks.csv"))

    return one


def true_clicks(store):
    """A right click on each region, and as many on the background."""
    for i, item in enumerate(store.slices):
        points = sample_points(store.native_mask(i))
        for row, column in np.argwhere(points < 2):
            yield item.name, int(row), int(column), int(points[row, column])


def test_right_clicks_are_taken_without_a_word(prepared, annotator, caplog):
    annotator(true_clicks(prepared)).review(prepared)
    assert not caplog.text


def test_rows_and_columns_swapped_are_refused(prepared, annotator):
    swapped = [(name, column, row, value) for name, row, column, value in true_clicks(prepared)]
    with pytest.raises(InputError, match=r"clicks\.csv: \d+ of \d+ clicks contradict.*row and column swapped"):
        annotator(swapped).review(prepared)
    annotate = annotator([next(click for click in swapped if click[3] and not fits(prepared, click))])
    with pytest.raises(InputError, match="1 of 1 clicks contradict"):
        annotate(prepared, 0)


def fits(store, click):
    name, row, column, value = click
    i = next(i for i, item in enumerate(store.slices) if item.name == name)
    mask = store.native_mask(i)
    return row < mask.shape[0] and column < mask.shape[1] and mask[row, column] == value


@pytest.fixture
def drawn_in_part(tmp_path):
    """A store of 64 × 64 pixels of what somebody marked: clicks, a stroke, a whole mask of classes 2 and 3, nothing."""
    masks = np.full((4, 64, 64), IGNORE, np.uint8)
    masks[0, 5, 5], masks[0, 40, 40], masks[0, 41, 40] = 1, 0, 1
    masks[1, 10, 10:60] = 1
    masks[2:] = 0
    masks[2, 10:20, 10:20], masks[2, 30:40, 10:20] = 2, 3

    class Scan:
        name, subset, files, identity = "one", "", (), ""

        def read(self):
            for k, mask in enumerate(masks):
                yield SliceData(f"one-{k}", np.zeros((64, 64), np.uint8), mask)

    return SliceStore(prepare([Scan()], (64, 64), tmp_path, "own"))


def test_a_class_that_does_not_exist_is_refused_in_a_whole_mask_that_is_the_annotation(drawn_in_part):
    with pytest.raises(InputError, match="its mask: slice one-2 has a point of class 3, but .*num_classes=2"):
        PointAnnotator("known", 0, True, "background", 2)(drawn_in_part, 2)
    whole = PointAnnotator("known", 0, True, "background", 4)(drawn_in_part, 2)
    assert (whole == drawn_in_part.native_mask(2)).all()


def test_peoples_annotation_that_is_no_clicks_is_not_counted_as_clicks(drawn_in_part):
    annotate = PointAnnotator("known", 0, True, "background", 4)
    assert [annotate.is_clicked(drawn_in_part, i) for i in range(4)] == [True, False, False, True]
    counted = [TrainingSet(drawn_in_part, indices, annotate) for indices in ([0, 3], [0, 1], [2, 3])]
    assert [one.count_labels("points") for one in counted] == [{"clicks": 3 + 1}, {}, {}]
    assert [one.count_labels("mask") for one in counted] == [{}, {}, {"regions": 2}]


def test_clicks_that_contradict_the_drawn_masks_are_counted(prepared, annotator, caplog):
    clicks = list(true_clicks(prepared))
    wrong = [(name, row, column, 1 - value) for name, row, column, value in clicks[:3]]
    annotator(wrong + clicks[3:]).review(prepared)
    assert f"clicks.csv: 3 of {len(clicks)} clicks contradict the masks that are drawn" in caplog.text


def test_a_slice_that_does_not_exist_is_refused_with_one_that_does(prepared, annotator):
    with pytest.raises(InputError, match=r"names 1 slice\(s\) that do not exist, such as train-03; .*as train-\d"):
        annotator([*true_clicks(prepared), ("train-03", 1, 1, 1)]).review(prepared)


def test_a_click_outside_its_slice_says_whether_it_fits_swapped(prepared, annotator):
    height, width = prepared.slices[0].shape
    assert height != width
    row, column = (height, 1) if height < width else (1, width)
    with pytest.raises(InputError, match=r"lies outside .* rows × .* columns; are row and column swapped\?"):
        annotator([(prepared.slices[0].name, row, column, 0)])(prepared, 0)


def test_points_that_are_there_are_read_without_a_lock_as_a_store_may_be_read_only(prepared, annotator, monkeypatch):
    clicks = annotator(true_clicks(prepared))
    made = np.array(prepare_points(prepared, [0, 1], clicks))
    monkeypatch.setattr(annotate, "FileLock", lambda path: pytest.fail("takes a lock"))
    np.testing.assert_array_equal(prepare_points(prepared, [0, 1], clicks), made)
