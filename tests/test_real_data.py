"""The real COVID-19-A, B and C and the VGG16 weights, where they lie beside the checkout."""

import numpy as np
import pytest
from torchvision.transforms.v2 import InterpolationMode

from cbseg.config import build, compose
from cbseg.data import covid_a, covid_b, covid_c
from cbseg.data.check import check
from cbseg.data.preprocess import resized
from cbseg.data.splits import by_scan, published
from cbseg.data.store import SliceStore, prepare
from cbseg.models.fcn8 import FCN8


@pytest.fixture(scope="module")
def stored(shared, tmp_path_factory):
    """``stored(find_scans, "covidA")`` prepares a dataset once."""
    parent, stores = tmp_path_factory.mktemp("real"), {}

    def one(find_scans, name):
        if name not in stores:
            stores[name] = SliceStore(prepare(find_scans(shared / "data" / name), (224, 224), parent, name))
        return stores[name]

    return one


def test_row_a_of_table_1(stored):
    found = stored(covid_a.find_scans, "covidA").statistics()
    assert (found["slices"], found["slices_with_infections"]) == (98, 98)
    assert found["infected_regions"] == pytest.approx(776, rel=0.01)


def test_the_split_of_a_is_45_5_and_48(stored):
    slices = stored(covid_a.find_scans, "covidA").slices
    assert [len(part) for part in published(slices, val=5)] == [45, 5, 48]


def test_rows_b_and_c_of_table_1_as_far_as_the_copies_go(stored):
    b = stored(covid_b.find_scans, "covidB").statistics()
    assert (b["cases"], b["slices"], b["slices_with_infections"]) == (9, 829, 372)
    c = stored(covid_c.find_scans, "covidC").statistics()
    assert (c["cases"], c["slices"], c["slices_with_infections"]) == (19, 3102, 1696)


def test_the_released_order_of_cs_scans_tests_on_others(stored):
    slices = stored(covid_c.find_scans, "covidC").slices

    def tested(order):
        return {slices[i].scan.removeprefix("radiopaedia-")[:2] for i in by_scan(slices, 14, 1, 4, order).test}

    assert tested("number") == {"29", "36", "40"}
    assert tested("text") == {"36", "40", "4-", "7-"}


def test_the_authors_files_of_b_are_the_same_slices_as_medsegs(shared):
    """Scans 2, 4 and 6, as far as the copy's 352 pixels tell."""
    medseg = {scan.name: scan for scan in covid_b.find_scans(shared / "data/covidB")}
    slices = infected = 0
    for scan in covid_b.find_scans(shared / "data/covidB_authors"):
        for ours, theirs in zip(scan.read(), medseg[scan.name].read(), strict=True):
            assert ours.name == theirs.name
            assert np.abs(resized(ours.image, (352, 352)).astype(int) - theirs.image).max() <= 1
            assert (resized(ours.mask, (352, 352), InterpolationMode.NEAREST_EXACT) == theirs.mask).all()
            slices, infected = slices + 1, infected + bool(ours.mask.any())
    assert (slices, infected) == (120, 40)


def test_the_check_of_the_authors_files_finds_no_problem_and_grey_values_that_are_not_saturated(shared, tmp_path):
    split = [f"data.split.{part}=1" for part in ("train", "val", "test")]
    config = compose(["data=covidB_sep", f"data.root={shared / 'data/covidB_authors'}", *split])
    report = list(check(build(config.data, "data"), tmp_path / "sheet.png"))
    assert not [line for line in report if line.startswith("problem:")]
    assert all("630 × 630" in line and "grey values 0…255, 19% black, 2% white" in line for line in report[:3])
    assert report[3].startswith("in all 3 scans, 120 slices, 40 with infection")


def test_the_weights_fill_all_13_convolutions(shared, caplog):
    caplog.set_level("INFO")
    net = FCN8(weights=str(shared / "weights/vgg16_features_hed.pth"), fc_channels=8)
    assert "features.28; at random: fc6, fc7" in caplog.text
    assert net.features[0].weight.std() > 0.1
