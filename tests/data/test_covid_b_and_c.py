"""COVID-19-B and C: both layouts, pairing by number, intensities, labels, and bad folders."""

import logging
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from cbseg.data import covid_a, covid_b, covid_b_authors, covid_c, phantom
from cbseg.data.dicom import dicom_files
from cbseg.data.phantom_files import draw_volume
from cbseg.data.store import SliceStore, prepare
from cbseg.data.volumes import window_to_uint8
from cbseg.errors import InputError

SCANS, SEED, SIZE = 2, 7, 48


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("volumes")
    for layout in ("covidB", "covidB_authors", "covidB_nifti", "covidC"):
        phantom.generate(root / layout, layout, scans=SCANS, seed=SEED, size=SIZE)
    return root


@pytest.fixture
def spoil(drawn, tmp_path):
    """``spoil(layout)`` gives a copy to spoil."""

    def one(layout):
        shutil.copytree(drawn / layout, tmp_path / layout)
        return tmp_path / layout

    return one


def read_all(scans):
    return [item for scan in scans for item in scan.read()]


@pytest.mark.parametrize("layout", ["covidB", "covidB_authors"])
def test_all_layouts_of_b_prepare_to_the_same_store_slice_for_slice(drawn, tmp_path, layout):
    dicom, nifti = (
        SliceStore(prepare(covid_b.find_scans(drawn / name), (32, 32), tmp_path, name))
        for name in (layout, "covidB_nifti")
    )
    assert [item.name for item in dicom.slices] == [item.name for item in nifti.slices]
    assert (dicom.images == nifti.images).all()
    assert (dicom.masks == nifti.masks).all()
    assert all((dicom.native_mask(i) == nifti.native_mask(i)).all() for i in range(len(dicom.slices)))
    assert 0 < dicom.statistics()["slices_with_infections"] < dicom.statistics()["slices"]


@pytest.mark.parametrize(("layout", "second"), [("covidB", 1), ("covidB_authors", 1), ("covidB_nifti", 2)])
def test_slices_of_b_are_what_was_drawn(drawn, layout, second):
    slices = read_all(covid_b.find_scans(drawn / layout, classes={1: 1, 2: second, 3: 0}))
    start = 0
    for scan in range(1, SCANS + 1):
        hu, mask = draw_volume(SEED, scan, slices=20 + scan % 4, size=SIZE)
        for k in range(len(hu)):
            name, image, classes = slices[start + k]
            assert name == f"scan-{scan}-{k:02d}"
            assert (image == window_to_uint8(hu[k].astype(np.float32), (-1250, 250))).all()
            assert (classes == np.minimum(mask[k], second)).all()
        start += len(hu)


def test_cs_scans_pair_by_number_and_grey_volumes_are_taken_as_they_are(drawn, caplog):
    caplog.set_level(logging.INFO)
    scans = covid_c.find_scans(drawn / "covidC")
    assert [scan.name for scan in scans] == ["coronacases-1", "radiopaedia-1-85002-0"]
    grey = read_all(scans[1:])
    hu, mask = draw_volume(SEED, 2, slices=22, size=SIZE)
    assert all(
        (a.image == window_to_uint8(b.astype(np.float32), (-1250, 250))).all() for a, b in zip(grey, hu, strict=True)
    )
    assert all((a.mask == (b > 0)).all() for a, b in zip(grey, mask, strict=True))
    assert "holds grey values 0…255 already" in caplog.text
    caplog.clear()
    read_all(scans[:1])
    assert "grey values" not in caplog.text


@pytest.mark.parametrize("change", [lambda hu: hu + 1024, lambda hu: (hu + 1024) / 4095.0])
def test_a_volume_that_is_neither_hu_nor_grey_is_refused(spoil, change):
    folder = spoil("covidC")
    scan = covid_c.find_scans(folder)[0]
    image = nib.load(scan.files[0])
    nib.save(nib.Nifti1Image(change(image.get_fdata()).astype(np.float32), image.affine), scan.files[0])
    with pytest.raises(InputError, match=rf"{scan.files[0].name}: holds values 0….*neither HU.*intercept"):
        read_all([scan])


@pytest.mark.parametrize(
    "setting", [{"window": (250, -1250)}, {"window": (250,)}, {"window": None}, {"crop": 64}, {"crop": (0, 0)}]
)
def test_a_window_or_crop_that_cannot_be_is_refused(drawn, setting):
    (key,) = setting
    with pytest.raises(InputError, match=rf"data\.find_scans\.{key}="):
        covid_c.find_scans(drawn / "covidC", **setting)


def test_the_released_intensities_are_raw_over_4095_for_b_and_each_volumes_extremes_for_c(drawn):
    hu, _ = draw_volume(SEED, 1, slices=21, size=SIZE)
    b = next(covid_b.find_scans(drawn / "covidB", intensity="released")[0].read())
    c = next(covid_c.find_scans(drawn / "covidC", intensity="released")[0].read())
    assert (b.image == ((hu[0] + 1024.0) / 4095 * 255).astype(np.uint8)).all()  # truncated, as theirs
    assert (c.image == ((hu[0] - float(hu.min())) / np.ptp(hu).astype(float) * 255).astype(np.uint8)).all()
    exported, grey = (
        next(covid_b.find_scans(drawn / "covidB_authors", intensity=intensity)[0].read()).image
        for intensity in ("released", "window")
    )
    assert np.abs(grey.astype(int) - exported).max() <= 1  # grey values stay grey values: 255 · stored / 4095


def test_a_crop_keeps_the_middle_of_image_and_mask_alike(drawn):
    whole, cropped, padded = (
        next(covid_c.find_scans(drawn / "covidC", crop=crop)[0].read()) for crop in (None, (20, 29), (48, 60))
    )
    assert (cropped.image == whole.image[14:34, 10:39]).all()  # half a pixel is rounded to even, as 64 to 448 of 512
    assert (cropped.mask == whole.mask[14:34, 10:39]).all()
    assert (padded.image[:, 6:54] == whole.image).all()
    assert not padded.image[:, :6].any()
    assert not padded.image[:, 54:].any()


def test_scans_that_lie_upside_down_are_turned_by_name_image_and_mask_alike(drawn):
    usual, turned = (covid_c.find_scans(drawn / "covidC", upside_down=pattern) for pattern in (None, "radiopaedia-*"))
    assert usual[0].identity == turned[0].identity
    assert usual[1].identity != turned[1].identity  # the store is prepared anew
    for before, after in zip(usual[1].read(), turned[1].read(), strict=True):
        assert (after.image == before.image[::-1]).all()
        assert (after.mask == before.mask[::-1]).all()
    with pytest.raises(InputError, match=r"upside_down=radio: no scan has such a name; there are coronacases-1, radio"):
        covid_c.find_scans(drawn / "covidC", upside_down="radio")


def test_another_window_prepares_anew(drawn, tmp_path):
    first, second = (
        prepare(covid_c.find_scans(drawn / "covidC", window=window), (32, 32), tmp_path, "covidC")
        for window in ((-1250, 250), (-1000, 400))
    )
    assert first != second


def test_neither_or_both_layouts(tmp_path):
    with pytest.raises(InputError, match="neither layout.*OpenSourceDCMs.*rp_im"):
        covid_b.find_scans(tmp_path)
    (tmp_path / "OpenSourceDCMs").mkdir()
    (tmp_path / "rp_im").mkdir()
    with pytest.raises(InputError, match="both layouts"):
        covid_b.find_scans(tmp_path)


@pytest.mark.parametrize(
    ("layout", "find", "remove", "message"),
    [
        ("covidB_nifti", covid_b.find_scans, "rp_msk/2.nii.gz", r"rp_im/2\.nii\.gz: has no mask"),
        ("covidB_nifti", covid_b.find_scans, "rp_im/2.nii.gz", r"rp_msk/2\.nii\.gz: has no image"),
        ("covidC", covid_c.find_scans, "Infection_Mask/coronacases_001.nii.gz", "coronacases_org_001.*has no mask"),
        ("covidC", covid_c.find_scans, "COVID-19-CT-Seg_20cases/coronacases_org_001.nii.gz", "has no image"),
    ],
)
def test_a_scan_without_a_mask_and_a_mask_without_a_scan(spoil, layout, find, remove, message):
    root = spoil(layout)
    (root / remove).unlink()
    with pytest.raises(InputError, match=message):
        find(root)


def test_a_dicom_scan_without_masks_and_a_mask_without_its_slice(spoil):
    root = spoil("covidB")
    for path in (root / "InfectionMasks").glob("2_z*.png"):
        path.unlink()
    with pytest.raises(InputError, match="DCM2: has no mask"):
        covid_b.find_scans(root)
    Image.new("L", (SIZE, SIZE)).save(root / "InfectionMasks/2_z99.png")
    with pytest.raises(InputError, match=r"2_z99\.png.*has no slice 99"):
        read_all(covid_b.find_scans(root))


def test_a_mask_of_another_shape(spoil):
    root = spoil("covidC")
    path = root / "Infection_Mask/coronacases_001.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :, :-1], image.affine), path)
    with pytest.raises(InputError, match=r"coronacases_001\.nii\.gz: has 20 × 48 × 48.*Are they a pair"):
        read_all(covid_c.find_scans(root))


def test_png_masks_are_not_asked_for_two_classes(drawn):
    for layout in ("covidB", "covidB_authors"):
        with pytest.raises(InputError, match=r"find_scans\.classes=.*InfectionMasks do not tell ground glass"):
            covid_b.find_scans(drawn / layout, classes={1: 1, 2: 2, 3: 2})
    assert read_all(covid_b.find_scans(drawn / "covidB_authors", classes={1: 0, 2: 0, 3: 1}))[0].mask.max() == 0


def test_slices_without_a_mask_file_are_healthy_and_counted(spoil, caplog):
    root = spoil("covidB_authors")
    for path in sorted((root / "InfectionMasks").glob("1_z*.png"))[1::2]:
        path.unlink()
    slices = read_all(covid_b.find_scans(root)[:1])
    assert "DCM1: 10 of 21 slices have no mask file" in caplog.text
    assert not any(item.mask.any() for item in slices[1::2])
    assert any(item.mask.any() for item in slices[::2])


def changed(path, **tags):
    dataset = pydicom.dcmread(path)
    for key, value in tags.items():
        setattr(dataset, key, value)
    dataset.save_as(path)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "CT"}, "its Modality is CT, in the authors' files NM"),
        ({"RescaleIntercept": -1024}, "its RescaleIntercept is -1024"),
        ({"NumberOfFrames": 2}, "its NumberOfFrames is 2"),
        ({"Rows": 24}, "has 24 × 48 pixels, m001-s0001-1.dcm 48 × 48"),
        ({"PixelData": b"\xff\xff" * 48 * 48, "BitsStored": 16, "HighBit": 15}, "holds values 65535…65535"),
        (
            {"PixelData": b"\0" * 48 * 48 * 6, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
            "SamplesPerPixel",
        ),
    ],
)
def test_a_file_that_is_not_like_the_authors_is_named(spoil, tags, message):
    root = spoil("covidB_authors")
    changed(root / "OpenSourceDCMs/DCM1/m001-s0003-1.dcm", **tags)
    with pytest.raises(InputError, match=rf"m001-s0003-1\.dcm: .*{re.escape(message)}"):
        read_all(covid_b.find_scans(root))


def test_slice_numbers_are_needed_whole_and_once(spoil):
    root = spoil("covidB_authors") / "OpenSourceDCMs/DCM1"
    read = lambda: read_all(covid_b.find_scans(root.parents[1])[:1])  # noqa: E731
    (root / "m001-s0002-1.dcm").rename(root / "slice2.dcm")
    with pytest.raises(InputError, match=r"slice2\.dcm: its name has no slice number"):
        read()
    (root / "slice2.dcm").rename(root / "s0003.dcm")
    with pytest.raises(InputError, match=r"s0003\.dcm: has the slice number of m001-s0003-1\.dcm"):
        read()
    (root / "s0003.dcm").unlink()
    with pytest.raises(InputError, match="DCM1: has slices 1 and 3, and none between"):
        read()


def test_an_mr_series_in_the_authors_layout_is_refused(spoil):
    root = spoil("covidB")
    for path in (root / "OpenSourceDCMs/DCM1").iterdir():
        changed(path, Modality="MR")
    with pytest.raises(InputError, match=r"phantom1s0001\.dcm: its Modality is MR, not CT"):
        read_all(covid_b.find_scans(root))


def test_a_slice_that_is_not_two_dimensional_is_refused(spoil):
    root = spoil("covidB")
    path = root / "OpenSourceDCMs/DCM1/phantom1s0003.dcm"
    changed(path, NumberOfFrames=2, PixelData=pydicom.dcmread(path).PixelData * 2)
    with pytest.raises(InputError, match=r"phantom1s0003\.dcm: is a multi-frame file \(2 .*a slice has rows × columns"):
        read_all(covid_b.find_scans(root))


def test_mask_values_outside_the_known_set(spoil):
    root = spoil("covidC")
    path = root / "Infection_Mask/coronacases_001.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * 9, image.affine), path)
    with pytest.raises(InputError, match=r"coronacases_001\.nii\.gz, slice \d+: holds \[9"):
        read_all(covid_c.find_scans(root))


def test_a_png_mask_of_another_size_than_its_slice(spoil):
    root = spoil("covidB")
    Image.new("L", (30, 20)).save(root / "InfectionMasks/1_z003.png")
    with pytest.raises(
        InputError, match=r"1_z003\.png: is 20 × 30 pixels once turned, its slice phantom1s0003\.dcm 48 × 48"
    ):
        read_all(covid_b.find_scans(root))


def test_folders_without_permission_are_named(drawn, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    for name, find in (("covidB", covid_b.find_scans), ("covidC", covid_c.find_scans), ("covidA", covid_a.find_scans)):
        monkeypatch.setattr(Path, "is_dir", forbidden if name != "covidA" else lambda path: True)
        monkeypatch.setattr(Path, "iterdir", forbidden)
        with pytest.raises(InputError, match=rf"{name}.*: cannot be read \(Permission denied\); check its permissions"):
            find(drawn / name)


def test_hidden_files_and_capitals_in_suffixes_are_as_others(spoil):
    for layout, find in (("covidB", covid_b.find_scans), ("covidC", covid_c.find_scans)):
        root = spoil(layout)
        usual = [item.name for item in read_all(find(root))]
        for path in [path for path in root.rglob("*") if path.name.endswith((".png", ".nii.gz"))]:
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
            path.rename(path.with_name(path.name.replace(".png", ".PNG").replace(".nii.gz", ".NII.GZ")))
        assert [item.name for item in read_all(find(root))] == usual


def test_an_enhanced_file_in_the_authors_layout_has_no_slice_numbers(spoil):
    root = spoil("covidB")
    masks = covid_b_authors.PngMasks
    series = covid_b_authors.open_series(dicom_files(root / "OpenSourceDCMs/DCM1"), "DCM1")
    series.files = series.files[:1] * len(series.files)
    with pytest.raises(InputError, match="DCM1: its slices have no number of their own"):
        masks({3: root / "InfectionMasks/1_z003.png"}, series)


def test_a_licence_beside_the_authors_slices_is_left_out(spoil):
    root = spoil("covidB")
    (root / "OpenSourceDCMs/DCM1/LICENSE").write_text("CC BY\n" * 9)
    assert len(read_all(covid_b.find_scans(root)[:1])) == 21
