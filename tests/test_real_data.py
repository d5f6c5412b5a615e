"""The real COVID-19-A slices and VGG16 weights, where they lie beside the checkout."""

import pytest

from cbseg.data.covid_a import find_scans
from cbseg.data.splits import published
from cbseg.data.store import SliceStore, prepare
from cbseg.models.fcn8 import FCN8


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    return SliceStore(
        prepare(find_scans(shared / "data/covidA"), (224, 224), tmp_path_factory.mktemp("real"), "covidA")
    )


def test_row_a_of_table_1(real):
    found = real.statistics()
    assert (found["slices"], found["slices_with_infections"]) == (98, 98)
    assert found["infected_regions"] == pytest.approx(776, rel=0.01)


def test_the_split_is_45_5_and_48(real):
    assert [len(part) for part in published(real.slices, val=5)] == [45, 5, 48]


def test_the_weights_fill_all_13_convolutions(shared, caplog):
    caplog.set_level("INFO")
    net = FCN8(weights=str(shared / "weights/vgg16_features_hed.pth"), fc_channels=8)
    assert "features.28; at random: fc6, fc7" in caplog.text
    assert net.features[0].weight.std() > 0.1
