"""DICOM series: order, orientation and HU, and every kind of bad series."""

import logging
import re
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from cbseg.data import dicom_file, phantom
from cbseg.data.dicom import DicomSeries
from cbseg.data.phantom_files import draw_volume
from cbseg.data.volumes import AIR, grey_window
from cbseg.errors import InputError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A phantom series of 21 slices, and the HU that it was written from."""
    root = tmp_path_factory.mktemp("dicom") / "covidB"
    phantom.generate(root, "covidB", scans=1, seed=4, size=64)
    return root / "OpenSourceDCMs/DCM1", draw_volume(4, 1, slices=21, size=64)[0]


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


@pytest.mark.parametrize("modality", ["ct", "Ct ", " CT"])
def test_a_modality_in_small_letters_or_with_blanks_is_ct(drawn, series, modality):
    for path in series.iterdir():
        edit(path, Modality=modality)
    assert (read(series).slice(3) == drawn[1][3]).all()


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


def edit_all(folder, change):
    """Change every file's tags by ``change(dataset, k)``, and save it."""
    for k, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        change(dataset, k)
        dataset.save_as(path)


OUTSIDE = np.hypot(*(np.mgrid[:64, :64] - 31.5)) > 31


def padded(dataset, value, **tags):
    """Give the pixels outside a circle a stored value."""
    pixels = dataset.pixel_array.astype(np.int32)
    pixels[OUTSIDE] = value
    dataset.BitsStored, dataset.HighBit = 16, 15
    for key, number in tags.items():
        dataset.add_new(key, "US", number)
    dataset.PixelData = (pixels & 0xFFFF).astype("<u2").tobytes()


PADDING = {
    "63536 unsigned": (63536, {}),
    "-2000 signed": (-2000, {"PixelRepresentation": 1}),
    "-32768 unsigned": (32768, {}),
    "PixelPaddingValue, bright": (3000, {"PixelPaddingValue": 3000}),
    "PixelPaddingValue, 0 HU": (1024 + 7000, {"PixelPaddingValue": 8024}),
    "PixelPaddingValue without the pixels' sign": (-2000, {"PixelRepresentation": 1, "PixelPaddingValue": 63536}),
    "a range": (3050, {"PixelPaddingValue": 3000, "PixelPaddingRangeLimit": 3100}),
    "a range, from the other end": (3050, {"PixelPaddingValue": 3100, "PixelPaddingRangeLimit": 3000}),
}


@pytest.mark.parametrize(("value", "tags"), PADDING.values(), ids=PADDING)
def test_padding_is_air_however_it_is_written(drawn, series, value, tags):
    edit_all(series, lambda dataset, k: padded(dataset, value, **tags))
    volume = read(series)
    for k in (0, 10, 20):
        assert (volume.slice(k)[OUTSIDE] == AIR).all()
        assert (volume.slice(k)[~OUTSIDE] == drawn[1][k][~OUTSIDE]).all()


def test_bits_beyond_those_stored_are_left_out(drawn, series):
    def overlay(dataset, k):
        dataset.PixelData = (dataset.pixel_array | 0xF000).astype("<u2").tobytes()
        dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.compress(JPEG2000Lossless)
        dataset.BitsStored, dataset.HighBit = 12, 11

    edit_all(series, overlay)
    assert (read(series).slice(3) == drawn[1][3]).all()


@pytest.mark.parametrize("tags", [("RescaleSlope", "RescaleIntercept"), ("RescaleIntercept",)])
@pytest.mark.parametrize("which", [0, 7, 20])
def test_a_slice_without_rescale_tags_is_refused(series, tags, which):
    path = nth(series, which)
    edit(path, **dict.fromkeys(tags))
    with pytest.raises(InputError, match=rf"{path.name}: its Rescale.* missing|slices .* differ by 10\d\d HU"):
        grey_window(read(series), "window", (-1250, 250))


def test_a_series_whose_values_are_hu_needs_no_rescale_tags(drawn, series):
    def signed(dataset, k):
        dataset.PixelData = (dataset.pixel_array.astype(np.int16) - 1024).astype("<i2").tobytes()
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
        del dataset.RescaleSlope, dataset.RescaleIntercept

    edit_all(series, signed)
    assert (read(series).slice(3) == drawn[1][3]).all()
    assert grey_window(read(series), "window", (-1250, 250)) == (-1250, 250)


def test_an_intercept_without_a_slope_is_applied(drawn, series):
    edit_all(series, lambda dataset, k: delattr(dataset, "RescaleSlope"))
    assert (read(series).slice(3) == drawn[1][3]).all()


def moved(series, place):
    """Move the slices to ``place(k)``: x, y, z of slice k from the foot."""
    by_height = sorted(series.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    for k, path in enumerate(by_height):
        edit(path, ImagePositionPatient=[round(float(x), 4) for x in place(k)])


UNEVEN = {
    "5 mm, then 2.5": lambda k: (0, 0, 5 * min(k, 12) + 2.5 * max(k - 12, 0)),
    "2.5 mm, then 5": lambda k: (0, 0, 2.5 * min(k, 8) + 5 * max(k - 8, 0)),
    "2.5 mm, then 7.5": lambda k: (0, 0, 2.5 * min(k, 12) + 7.5 * max(k - 12, 0)),
    "1.0 mm, then 1.4": lambda k: (0, 0, min(k, 10) + 1.4 * max(k - 10, 0)),
    "ever wider": lambda k: (0, 0, 2 * k + 0.05 * k**2),
    "one slice aside": lambda k: (30 * (k == 9), 0, 2 * k),
    "one slice up": lambda k: (0, 0, 2 * k + 1.2 * (k == 9)),
    "in two columns": lambda k: (0, 20 * (k % 2), 2 * k),
    "around a curve": lambda k: (0.3 * (k - 10) ** 2, 0, 2 * k),
}


@pytest.mark.parametrize("place", UNEVEN.values(), ids=UNEVEN)
def test_slices_beside_the_even_grid_are_warned_of_and_get_no_labels(series, place, caplog):
    moved(series, place)
    volume = read(series)
    assert "its slices do not lie on one even grid" in caplog.text
    with pytest.raises(InputError, match=r"DCM1: its slices do not lie on one even grid \(distances from .*resample"):
        volume.require_grid()


EVEN = {
    "to the last micrometre": lambda k: (0, 0, 2 * k),
    "rounded to 0.1 mm": lambda k: (0, 0, round(1.25 * k, 1)),
    "a third of a voxel off": lambda k: (1.7 * (k % 2), 0, 2 * k + 0.6 * (k % 3 == 1)),
}


@pytest.mark.parametrize("place", EVEN.values(), ids=EVEN)
def test_labels_lie_within_half_a_voxel_of_slices_that_are_about_even(series, place, caplog):
    moved(series, place)
    volume = read(series)
    volume.require_grid()
    assert not caplog.text
    image = volume.to_nifti(np.zeros(volume.shape, np.uint8))
    assert np.prod(volume.spacing) == pytest.approx(abs(np.linalg.det(image.affine[:3, :3])))
    for k, path in enumerate(volume.files):
        there = np.linalg.inv(image.affine) @ [*pydicom.dcmread(path).ImagePositionPatient * np.array([-1, -1, 1]), 1]
        assert np.abs(there[:3] - [0, 0, k]).max() <= 0.5


@pytest.mark.parametrize(
    ("right", "down"),
    [((0, 1, 0), (-1, 0, 0)), ((0, -1, 0), (1, 0, 0)), ((0, 1, 0), (1, 0, 0)), ((-1, 0, 0), (0, -1, 0))],
)
def test_a_patient_on_the_side_is_turned_upright_and_labels_lie_where_itk_reads_the_series(
    drawn, series, right, down, tmp_path
):
    """An independent reader resamples the series onto the labels: the brightest voxel is the one that was labelled."""
    axes = np.array([right, down])[:, :2]  # x to the left, y to the back, as canonical columns and rows
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        upright = dataset.pixel_array
        rows, columns = np.mgrid[:64, :64]
        x, y = (columns * axes[0, k] + rows * axes[1, k] + 63 * (axes[:, k].sum() < 0) for k in range(2))
        stored = upright[y, x]
        spacing, z = float(dataset.PixelSpacing[0]), dataset.ImagePositionPatient[2]
        dataset.PixelData = np.ascontiguousarray(stored).tobytes()
        dataset.ImageOrientationPatient = [*right, *down]
        dataset.ImagePositionPatient = [x[0, 0] * spacing, y[0, 0] * spacing, z]
        dataset.save_as(path)
    volume = read(series)
    assert (volume.slice(5) == drawn[1][5]).all()
    itk = pytest.importorskip("SimpleITK")
    nib.save(volume.to_nifti(drawn[1].clip(-100, 150).astype(np.int16)), tmp_path / "labels.nii.gz")
    labels = itk.ReadImage(str(tmp_path / "labels.nii.gz"))
    image = itk.ReadImage(itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series)))
    laid = itk.GetArrayFromImage(
        itk.Resample(itk.Cast(image, itk.sitkFloat32), labels, itk.Transform(), itk.sitkNearestNeighbor)
    )
    assert (laid.clip(-100, 150) == itk.GetArrayFromImage(labels)).all()


@pytest.mark.parametrize("degrees", [15, 18.5, -29])
def test_a_tilted_gantry_reads_with_a_word(drawn, series, degrees, caplog):
    angle = np.radians(degrees)
    edit_all(series, lambda dataset, k: setattr(
        dataset, "ImageOrientationPatient", [1, 0, 0, 0, np.cos(angle), np.sin(angle)]
    ))  # fmt: skip
    volume = read(series)
    assert (volume.slice(3) == drawn[1][3]).all()
    assert "not stacked at right angles" in caplog.text
    volume.require_grid()
    image = volume.to_nifti(np.zeros(volume.shape, np.uint8))
    for k, path in enumerate(volume.files):
        place = pydicom.dcmread(path).ImagePositionPatient * np.array([-1, -1, 1])
        np.testing.assert_allclose((image.affine @ [0, 0, k, 1])[:3], place, atol=1e-3)


def enhanced(series, path, **change):
    """Write a series as one enhanced multi-frame file, its frames in another order."""
    slices = [pydicom.dcmread(one) for one in sorted(series.iterdir())]
    slices = slices[::2] + slices[1::2]
    whole = slices[0]
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID
    whole.NumberOfFrames = len(slices)
    pixels = b"".join(one.PixelData for one in slices)
    measures, rescale, orientation = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, whole.SliceThickness
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, -1024, "HU"
    orientation.ImageOrientationPatient = whole.ImageOrientationPatient
    shared = pydicom.Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence = [rescale]
    frames = []
    for one in slices:
        position, frame = pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = one.ImagePositionPatient
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        del whole[key]
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = [shared], frames
    whole.PixelData = pixels
    for key, value in change.items():
        setattr(whole, key, value)
    whole.save_as(path, enforce_file_format=True)
    return path


def test_an_enhanced_multi_frame_file_reads_as_its_slices_and_as_highdicom_reads_it(drawn, series, tmp_path):
    volume = DicomSeries([enhanced(series, tmp_path / "enhanced.dcm")], "enhanced")
    assert volume.shape == drawn[1].shape
    for k in range(21):
        assert (volume.slice(k) == drawn[1][k]).all()
    assert volume.spacing == pytest.approx((300 / 21, 350 / 64, 350 / 64), rel=1e-3)
    highdicom = pytest.importorskip("highdicom")
    other = highdicom.imread(tmp_path / "enhanced.dcm").get_volume().to_patient_orientation("HPL")
    assert (other.array == np.stack([volume.slice(k) for k in range(21)])).all()
    ours = (volume.to_nifti(np.zeros(volume.shape, np.uint8)).affine @ [3, 5, 7, 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(other.map_indices_to_reference(np.array([[7, 5, 3]]))[0], ours, atol=1e-3)


def test_a_frame_without_rescale_tags_is_refused(series, tmp_path):
    path = enhanced(series, tmp_path / "x.dcm")
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame in dataset.PerFrameFunctionalGroupsSequence[1:]:
        frame.PixelValueTransformationSequence = shared.PixelValueTransformationSequence
    del shared.PixelValueTransformationSequence
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"x\.dcm: its RescaleSlope and .* is missing, that of 20 others"):
        DicomSeries([path], "x")


def test_a_multi_frame_file_without_places_and_frames_too_few_say_the_way_out(series, tmp_path):
    path = enhanced(series, tmp_path / "x.dcm", NumberOfFrames=20)
    with pytest.raises(InputError, match=r"x\.dcm: has 20 frames, but places for 21"):
        DicomSeries([path], "x")
    edit(path, NumberOfFrames=21, PerFrameFunctionalGroupsSequence=None)
    with pytest.raises(InputError, match=r"x\.dcm: is a multi-frame file \(21 .*export it as a file for each slice"):
        DicomSeries([path], "x")


def beside(series, name, **tags):
    """A copy of a slice with other tags, beside the series."""
    shutil.copy(nth(series, 0), series / name)
    edit(series / name, SOPInstanceUID=generate_uid(), **tags)


NO_PLACE = {"ImagePositionPatient": None, "ImageOrientationPatient": None}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("LICENSE", lambda folder: (folder / "LICENSE").write_text("CC BY 4.0\n" * 99)),
        ("README.md", lambda folder: (folder / "README.md").write_text("über diese Daten\n")),
        ("LIESMICH", lambda folder: (folder / "LIESMICH").write_bytes("für alle\n".encode("latin-1") * 99)),
        ("preview.jpg", lambda folder: (folder / "preview.jpg").write_bytes(b"\xff\xd8\xff\xe0\0")),
        ("report.pdf", lambda folder: (folder / "report.pdf").write_bytes(b"%PDF-1.4 \0\xff")),
        ("Thumbs.db", lambda folder: (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\0")),
        ("dose", lambda folder: beside(folder, "dose", SOPClassUID=SecondaryCaptureImageStorage, **NO_PLACE)),
        ("page", lambda folder: beside(folder, "page", SeriesInstanceUID=generate_uid(), **NO_PLACE)),
        ("scout", lambda folder: beside(folder, "scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        (
            "coronal",
            lambda folder: beside(
                folder, "coronal", SeriesInstanceUID=generate_uid(), ImageOrientationPatient=[1, 0, 0, 0, 0, -1]
            ),
        ),
        ("pet", lambda folder: beside(folder, "pet", SeriesInstanceUID=generate_uid(), Modality="PT")),
        ("copy", lambda folder: shutil.copy(nth(folder, 4), folder / "copy")),
    ],
)
def test_what_lies_beside_the_slices_is_left_out_with_a_word(drawn, series, name, write, caplog):
    write(series)
    assert read(series).shape == drawn[1].shape
    assert re.search(rf"{name}.*left out", caplog.text)


def test_a_dicomdir_and_a_structured_report_are_left_out(drawn, series, caplog):
    for name, kind, key in (
        ("DICOMDIR", MediaStorageDirectoryStorage, "DirectoryRecordSequence"),
        ("SR", EnhancedSRStorage, "ContentSequence"),
    ):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = kind, generate_uid()
        setattr(dataset, key, [])
        dataset.save_as(series / name, enforce_file_format=True)
    assert read(series).shape == drawn[1].shape
    assert "DICOMDIR: a DICOMDIR, left out" in caplog.text
    assert "SR: no image (Enhanced SR Storage), left out" in caplog.text


def test_a_damaged_slice_is_never_taken_for_what_lies_beside(series):
    whole = nth(series, 5).read_bytes()
    for name, content in (
        ("IM5", b""),
        ("IM5", b"\0" * 500),
        ("IM5", whole[200:900]),
        ("slice.1", whole[200:900]),
        ("5.dcm", b"text"),
        ("5.IMA", b""),
    ):
        (series / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: "):
            read(series)
        (series / name).unlink()


def test_files_without_preamble_and_with_a_uid_each_are_read(drawn, series, caplog):
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = generate_uid()
        del dataset.file_meta
        dataset.preamble = None
        pydicom.dcmwrite(path, dataset, enforce_file_format=False, little_endian=True, implicit_vr=True)
    volume = read(series)
    assert all((volume.slice(k) == drawn[1][k]).all() for k in range(21))
    assert "each of 21 files has a series UID of its own; read as one" in caplog.text


def test_phases_and_copies_under_one_uid_are_said(series):
    for path in list(series.iterdir()):
        beside_ = series / f"phase2-{path.name}"
        shutil.copy(path, beside_)
        edit(beside_, SOPInstanceUID=generate_uid(), AcquisitionNumber=2)
    with pytest.raises(InputError, match=r"DCM1: holds 2 images at each of 21 places.*phases.*folder of its own"):
        read(series)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "holds colours"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "holds colours"),
        ({"NumberOfFrames": 2}, "is a multi-frame file"),
        ({"HighBit": 15}, "its HighBit is 15"),
        ({"Rows": 60000, "Columns": 60000}, "claims 60000 × 60000 pixels, more than a CT slice"),
        ({"RescaleSlope": "0"}, "its RescaleSlope is 0"),
    ],
)
def test_what_is_no_slice_of_numbers_is_refused_by_its_header(series, tags, message):
    edit(nth(series, 3), **tags)
    with pytest.raises(InputError, match=rf"s0004\.dcm: {message}"):
        read(series)


def in_bytes(path, key, text):
    """Overwrite a short number's text in the file, which pydicom would not write."""
    content = path.read_bytes()
    at = content.index(key) + 8
    size = int.from_bytes(content[at - 2 : at], "little")
    path.write_bytes(content[:at] + text.encode().ljust(size)[:size] + content[at + size :])


@pytest.mark.parametrize(
    ("text", "thickness"), [("4,0", 4.0), ("nan", 1.0), ("", 1.0), ("inf", 1.0), ("x", 1.0), ("-3", 1.0)]
)
def test_a_lone_slice_s_thickness_is_read_or_said(series, text, thickness, caplog):
    in_bytes(nth(series, 3), b"\x18\x00\x50\x00DS", text)
    volume = DicomSeries([nth(series, 3)], "one")
    assert volume.spacing[0] == pytest.approx(thickness)
    assert ("SliceThickness is missing or malformed" in caplog.text) == (thickness == 1)
    volume.to_nifti(np.zeros(volume.shape, np.uint8))


@pytest.mark.parametrize("text", ["nan", "1,5\\2,5", "x"])
def test_numbers_that_are_none_are_that_files_error(series, text):
    in_bytes(nth(series, 3), b"\x28\x00\x30\x00DS", text)
    with pytest.raises(InputError, match=r"s0004\.dcm: its PixelSpacing is empty or malformed"):
        read(series)


def test_a_deflated_file_is_read_and_one_that_grows_without_end_is_not(drawn, series, monkeypatch):
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path)
    assert (read(series).slice(3) == drawn[1][3]).all()
    monkeypatch.setattr(dicom_file, "_MOST_INFLATED", 4000)
    with pytest.raises(InputError, match=r"s0001\.dcm: is deflated and grows beyond 4000 bytes"):
        read(series)


def test_the_real_series_of_labels_lies_where_itk_reads_it(shared, tmp_path):
    itk = pytest.importorskip("SimpleITK")
    files = sorted((shared / "data/dicom_series").iterdir())
    volume = DicomSeries(files, "real")
    bone = np.stack([volume.slice(k) > 300 for k in range(20)]).astype(np.uint8)
    nib.save(volume.to_nifti(bone), tmp_path / "labels.nii.gz")
    labels = itk.ReadImage(str(tmp_path / "labels.nii.gz"))
    image = itk.ReadImage([str(path) for path in volume.files])
    np.testing.assert_allclose(labels.GetOrigin(), image.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(labels.GetSpacing(), image.GetSpacing(), atol=1e-4)
    np.testing.assert_allclose(labels.GetDirection(), image.GetDirection(), atol=1e-6)
    assert ((itk.GetArrayFromImage(image) > 300) == itk.GetArrayFromImage(labels)).all()


def test_random_bytes_in_a_header_never_end_in_another_error(series):
    """Whatever a damaged header leads to is one error that names the file, or a volume that can be read."""
    random = np.random.default_rng(0)
    path = nth(series, 3)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    messages = []
    for _ in range(150):
        content = whole.copy()
        content[random.integers(0, len(whole) - 2 * 64 * 64, 3)] = random.integers(0, 256, 3)
        path.write_bytes(content.tobytes())
        try:
            volume = DicomSeries([path], "one")
            grey_window(volume, "window", (-1250, 250))
            volume.to_nifti(np.zeros(volume.shape, np.uint8))
        except InputError as error:
            messages.append(str(error))
    assert 20 < len(messages) < 150
    assert all(path.name in message or message.startswith("one: ") for message in messages)
