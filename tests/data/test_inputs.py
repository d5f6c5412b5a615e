"""What a user's paths hold, and that the labels of each CT have a name of their own."""

import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from cbseg.data import phantom
from cbseg.data.inputs import each_series, list_cts, open_volume
from cbseg.errors import InputError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs") / "covidB"
    phantom.generate(root, "covidB", scans=2, seed=4, size=64)
    return root / "OpenSourceDCMs"


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return paths


def labels(*paths):
    return [str(ct.labels) for ct in list_cts(paths)]


def test_labels_are_named_as_their_cts(tmp_path):
    (tmp_path / "DICOM").mkdir()
    names = ["a.nii", "b.NII.GZ", "c.PNG", "d.dcm", "e.v2.nii.gz"]
    assert labels(*(tmp_path / name for name in [*names, "DICOM", "gone"])) == [
        "a.nii.gz", "b.nii.gz", "c.png", "d.nii.gz", "e.v2.nii.gz", "DICOM.nii.gz", "gone.nii.gz",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["ct.nii.gz", "DICOM/1.dcm", "ct.png"])
def test_cts_with_equal_names_go_into_mirrored_folders(tmp_path, name, monkeypatch):
    paths = touch(*(tmp_path / f"{k}/s/{name}" for k in "abc"))
    given = [path.parent if name.endswith("dcm") else path for path in paths]
    label = {"ct.nii.gz": "ct.nii.gz", "DICOM/1.dcm": "DICOM.nii.gz", "ct.png": "ct.png"}[name]
    assert labels(*given) == [f"{k}/s/{label}" for k in "abc"]
    monkeypatch.chdir(tmp_path / "a")
    relative = [Path(os.path.relpath(path)) for path in given]
    assert labels(*relative) == [f"{k}/s/{label}" for k in "abc"]


def test_names_that_differ_stay_as_they_are(tmp_path):
    assert labels(*touch(tmp_path / "a/1.nii", tmp_path / "b/2.nii")) == ["1.nii.gz", "2.nii.gz"]


def test_a_folder_of_pictures_or_nifti_is_each_of_them(tmp_path):
    touch(*(tmp_path / "slices" / name for name in ("2.png", "1.JPG", "._1.png", "README")))
    assert labels(tmp_path / "slices") == ["slices/1.png", "slices/2.png"]
    touch(tmp_path / "volumes/p1/ct.nii.gz", tmp_path / "volumes/p2/ct.nii.gz")
    assert labels(tmp_path / "volumes") == ["volumes/p1/ct.nii.gz", "volumes/p2/ct.nii.gz"]


def test_a_folder_of_dicom_files_is_one_ct_whatever_lies_beside_them(drawn, tmp_path):
    touch(tmp_path / "p/preview.jpg")
    (tmp_path / "p/IM1").write_bytes(next((drawn / "DCM1").iterdir()).read_bytes())
    assert labels(tmp_path / "p") == ["p.nii.gz"]


def test_a_lone_dicom_file_is_a_ct_with_or_without_a_suffix(drawn, tmp_path):
    content = sorted((drawn / "DCM1").iterdir())[7].read_bytes()
    for name in ("one.dcm", "IM0001", "1.2.840.9"):
        (tmp_path / name).write_bytes(content)
        assert open_volume(tmp_path / name).shape == (1, 64, 64)


def test_a_study_folder_names_its_series_and_one_series_in_a_subfolder_is_read(drawn, tmp_path):
    with pytest.raises(InputError, match=r"holds 2 CT series .*21 slices, such as .*DCM1.*22 slices, such as .*DCM2"):
        open_volume(drawn)
    for k, path in enumerate(sorted((drawn / "DCM1").iterdir())):
        (tmp_path / "study/SER1").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"study/SER1/{k}").write_bytes(path.read_bytes())
    assert open_volume(tmp_path / "study").shape == (21, 64, 64)


def test_what_is_none_is_named(tmp_path, monkeypatch):
    touch(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.nii.gz")  # whose reading never ends
    (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
    for ct in list_cts([tmp_path / "pipe.nii.gz"]):
        with pytest.raises(InputError, match=r"pipe\.nii\.gz: neither a file nor a folder"):
            each_series(ct)
    with pytest.raises(InputError, match=r"loop\.nii\.gz: no such file"):
        open_volume(tmp_path / "loop.nii.gz")
    (tmp_path / "ct.mha").write_bytes(b"ObjectType = Image")
    with pytest.raises(InputError, match=r"ct\.mha: give a NIfTI .*save other formats .*\.mha\) as NIfTI"):
        open_volume(tmp_path / "ct.mha")
    for name, message in (("notes.txt", "give a NIfTI"), ("gone", "no such file"), ("empty", "holds no CT slices")):
        with pytest.raises(InputError, match=rf"{name}: {message}"):
            open_volume(tmp_path / name)

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(InputError, match=r"empty: cannot be read \(Permission denied\); check"):
        open_volume(tmp_path / "empty")
    assert labels(tmp_path / "empty") == ["empty.nii.gz"]


def test_hidden_files_of_macos_are_never_cts(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "ct.nii.gz")
    touch(tmp_path / "._ct.nii.gz", tmp_path / ".DS_Store", tmp_path / "__MACOSX/._ct.nii.gz")
    Image.new("L", (4, 4)).save(tmp_path / "1.png")
    assert labels(tmp_path) == [f"{tmp_path.name}/1.png", f"{tmp_path.name}/ct.nii.gz"]


def test_series_that_are_linked_into_a_folder_are_found_once(drawn, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study/SER1").symlink_to(drawn / "DCM1", target_is_directory=True)
    (tmp_path / "study/back").symlink_to(tmp_path / "study", target_is_directory=True)
    (tmp_path / "study/gone").symlink_to(tmp_path / "nowhere")
    (ct,) = each_series(*list_cts([tmp_path / "study"]))
    assert {path.parent for path in ct.files} == {tmp_path / "study/SER1"}
    assert open_volume(ct.path, ct.files).shape == (21, 64, 64)


@pytest.mark.parametrize(("unit", "side"), [(1, 5.0), (2, 50.0)])
def test_a_volume_in_other_units_than_its_header_says_is_refused_as_millilitres_would_be_of_those(tmp_path, unit, side):
    image = nib.Nifti1Image(np.zeros((64, 64, 3), np.int16), np.diag([side, side, 4.0, 1.0]))
    image.header["xyzt_units"] = unit
    nib.save(image, tmp_path / "ct.nii")
    with pytest.raises(
        InputError, match=r"ct\.nii: its slices are \S+ × \S+ mm, which is no chest's size; correct its Pix"
    ):
        open_volume(tmp_path / "ct.nii")


@pytest.mark.parametrize(("unit", "side"), [(3, 5.0), (2, 0.5)])
def test_a_volume_smaller_than_a_chest_is_read_and_said_to_be(tmp_path, caplog, unit, side):
    image = nib.Nifti1Image(np.zeros((64, 64, 3), np.int16), np.diag([side, side, 4.0, 1.0]))
    image.header["xyzt_units"] = unit
    nib.save(image, tmp_path / "ct.nii")
    assert open_volume(tmp_path / "ct.nii").shape == (3, 64, 64)
    assert re.search(r"ct\.nii: its slices are \S+ × \S+ mm, which is no chest's size; if it is no part", caplog.text)
