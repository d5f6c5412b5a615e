"""DICOM series: order, orientation and HU, and every kind of bad series."""

import logging
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from cbseg.data import phantom
from cbseg.data.dicom import DicomSeries
from cbseg.data.volumes import AIR
from cbseg.errors import InputError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A phantom series of 21 slices, and the HU that it was written from."""
    root = tmp_path_factory.mktemp("dicom") / "covidB"
    phantom.generate(root, "covidB", scans=1, seed=4, size=64)
    return root / "OpenSourceDCMs/DCM1", phantom.draw_volume(4, 1, slices=21, size=64)[0]


@pytest.fixture
def series(drawn, tmp_path):
    """A copy of the series to spoil."""
    shutil.copytree(drawn[0], tmp_path / "DCM1")
    return tmp_path / "DCM1"


def read(folder):
    return DicomSeries(list(folder.iterdir()), str(folder))


def edit(path, **tags):
    dataset = pydicom.dcmread(path)
    for key, value in tags.items():
        if value is None:
            del dataset[key]
        else:
            setattr(dataset, key, value)
    dataset.save_as(path)


def nth(folder, k):
    return sorted(folder.iterdir())[k]


def test_slices_come_from_foot_to_head_in_hu_whatever_their_names(drawn, series):
    for k, path in enumerate(sorted(series.iterdir())):
        path.rename(series / f"{(k * 8) % 21:02d}.dcm")
    volume = read(series)
    assert volume.shape == drawn[1].shape
    assert volume.orientation == "LPS"
    assert volume.spacing == pytest.approx((300 / 21, 350 / 64, 350 / 64), rel=1e-3)
    for k in range(21):
        assert (volume.slice(k) == drawn[1][k]).all()


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_series_read_the_same(drawn, series, syntax):
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax)
        dataset.save_as(path)
    assert (read(series).slice(3) == drawn[1][3]).all()


def test_a_series_stored_upside_down_is_turned_upright(drawn, series):
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = np.ascontiguousarray(dataset.pixel_array[::-1, ::-1]).tobytes()
        dataset.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        dataset.save_as(path)
    volume = read(series)
    assert volume.orientation == "RAS"
    assert (volume.slice(5) == drawn[1][5]).all()


def test_padding_outside_the_field_of_view_is_clipped_to_air(series):
    path = nth(series, 0)
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array.astype(np.int16)
    pixels[:5] = -2000
    dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path)
    volume = read(series)
    assert volume.slice(len(volume.files) - 1)[:5].max() == AIR


def test_a_missing_slice(series):
    nth(series, 7).unlink()
    with pytest.raises(
        InputError, match=r"between phantom1s0009\.dcm and phantom1s0007\.dcm.*1 slice\(s\) are missing"
    ):
        read(series)


def test_a_duplicate_position(series):
    edit(nth(series, 3), ImagePositionPatient=pydicom.dcmread(nth(series, 4)).ImagePositionPatient)
    with pytest.raises(InputError, match=r"s000[45]\.dcm: lies at the same position as phantom1s000[45]\.dcm"):
        read(series)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            {"SeriesInstanceUID": "1.2.3"},
            r"mixed series: holds 2 CT series \(20 slices.*; 1 slices, such as .*s0004\.dcm",
        ),
        (
            {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
            r"s0004\.dcm: its ImageOrientationPatient is.*one orientation",
        ),
        ({"Rows": 32}, r"s0004\.dcm: its Rows is 32.*mixed heights"),
        ({"Modality": "MR"}, r"s0004\.dcm: its Modality is MR, not CT"),
        ({"PixelData": None}, r"s0004\.dcm: holds no pixel data"),
        ({"PixelSpacing": [2, 2]}, r"s0004\.dcm: its PixelSpacing is.*one spacing"),
        ({"PixelSpacing": [0, 0]}, r"s0004\.dcm: its PixelSpacing is empty or malformed"),
        ({"ImagePositionPatient": ""}, r"s0004\.dcm: its ImagePositionPatient is empty or malformed"),
        ({"ImageOrientationPatient": [1, 0, 0]}, r"s0004\.dcm: its ImageOrientationPatient is empty or malformed"),
        ({"Rows": ""}, r"s0004\.dcm: its Rows is empty or malformed"),
        ({"ImagePositionPatient": None}, r"s0004\.dcm: has no ImagePositionPatient"),
    ],
)
def test_one_slice_that_does_not_belong_is_named(series, tags, message):
    edit(nth(series, 3), **tags)
    with pytest.raises(InputError, match=message):
        read(series)


def test_an_empty_rescale_slope(series):
    edit(nth(series, 3), RescaleSlope="")
    with pytest.raises(InputError, match=r"s0004\.dcm: its RescaleSlope is empty or malformed"):
        read(series)


def test_a_series_that_is_not_axial(series):
    for path in series.iterdir():
        edit(path, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    with pytest.raises(InputError, match="not an axial slice"):
        read(series)


def test_no_modality_is_read_with_a_warning(drawn, series, caplog):
    for path in series.iterdir():
        edit(path, Modality=None)
    assert (read(series).slice(2) == drawn[1][2]).all()
    assert "21 files have no Modality" in caplog.text


def test_a_localizer_is_left_out_with_a_warning(drawn, series, caplog):
    caplog.set_level(logging.WARNING)
    shutil.copy(nth(series, 0), series / "scout.dcm")
    edit(
        series / "scout.dcm",
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
    )
    assert read(series).shape == drawn[1].shape
    assert "scout.dcm: a localizer, left out" in caplog.text


def test_a_file_that_is_no_dicom_and_one_that_ends_early(series):
    path = nth(series, 3)
    path.write_bytes(path.read_bytes()[:-1000])
    volume = read(series)
    with pytest.raises(InputError, match=r"s0004\.dcm: its pixels cannot be decoded"):
        list(map(volume.slice, range(21)))
    path.write_text("hello")
    with pytest.raises(InputError, match=r"s0004\.dcm: not a DICOM file"):
        read(series)


def test_the_real_series_reads_to_what_pydicom_gives(shared):
    volume = DicomSeries(list((shared / "data/dicom_series").iterdir()), "real")
    assert volume.shape == (20, 512, 512)
    heights = []
    for k, path in enumerate(volume.files):
        dataset = pydicom.dcmread(path)
        heights.append(dataset.ImagePositionPatient[2])
        hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        assert (volume.slice(k) == np.maximum(hu, AIR)).all()
    assert heights == sorted(heights)


def test_the_real_slice_without_modality_reads_with_a_warning(shared, caplog):
    volume = DicomSeries([shared / "data/dicom_missing_tags/0.dcm"], "one")
    assert volume.slice(0).shape == (512, 512)
    assert "no Modality" in caplog.text


@pytest.mark.parametrize("turned", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_labels_lie_where_the_series_lies(series, turned):
    right, down = turned
    for path in series.iterdir():
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        edit(path, ImageOrientationPatient=[right, 0, 0, 0, down, 0], ImagePositionPatient=[x + 7, y - 11, z])
    volume = read(series)
    labels = np.zeros(volume.shape, np.uint8)
    labels[5, 20, 40] = 1
    image = volume.to_nifti(labels)
    voxel = np.argwhere(image.get_fdata() == 1)[0]
    header = pydicom.dcmread(volume.files[5])
    row, column = 20 if down > 0 else 63 - 20, 40 if right > 0 else 63 - 40  # where the file stores that pixel
    rows, columns = (float(side) for side in header.PixelSpacing)
    place = np.add(header.ImagePositionPatient, (right * columns * column, down * rows * row, 0))
    np.testing.assert_allclose((image.affine @ [*voxel, 1])[:3], place * [-1, -1, 1], atol=1e-3)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
