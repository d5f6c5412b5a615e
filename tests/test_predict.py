"""Predictions for new CT: those of the run's test, whatever a CT is stored as; and one clear error for what is none."""

import csv
import gzip
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from omegaconf import OmegaConf
from PIL import Image

from cbseg import predict as predict_module
from cbseg.data import phantom
from cbseg.data.inputs import CT
from cbseg.data.phantom_files import draw_volume
from cbseg.data.volumes import window_to_uint8

TRAINED = ("loss=full", "trainer.max_epochs=25", "trainer.precision=32-true")


@pytest.fixture
def run(train):
    return train("loss=pl", "trainer.max_epochs=1")


def test_test_slices_are_segmented_as_in_the_runs_test(train, covid_a, segment, tmp_path):
    run = train(*TRAINED)
    recorded = {path.stem.removeprefix("test-"): np.load(path) for path in (run / "slices").glob("*.npz")}
    images = [next(covid_a.rglob(f"LungInfection-Test/Imgs/{stem}.*")) for stem in recorded]
    assert segment(run, *images)[1] == 0
    for stem, arrays in recorded.items():
        labels = np.asarray(Image.open(tmp_path / f"out/{stem}.png"))
        assert arrays["prediction"].any()
        assert (labels == 255 * arrays["prediction"]).all()
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    assert [int(row["infected_pixels"]) for row in rows] == [a["prediction"].sum() for a in recorded.values()]


def test_volumes_are_segmented_alike_as_nifti_of_any_orientation_dicom_and_pictures(train, segment, tmp_path):
    root = tmp_path / "covidB"
    phantom.generate(root, "covidB", scans=4, seed=4, size=64)
    split = ["data.split.train=2", "data.split.val=1", "data.split.test=1"]
    run = train(*TRAINED, "trainer.max_epochs=12", "data=covidB_sep", f"data.root={root}", *split)
    hu = draw_volume(4, 1, slices=21, size=64)[0]
    canonical = nib.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-2.0, -3.0, 4.0, 1.0]))
    turned = canonical.as_reoriented([[1, -1], [2, 1], [0, -1]])
    nib.save(canonical, tmp_path / "upright.nii")
    nib.save(turned, tmp_path / "turned.nii.gz")
    Image.fromarray(window_to_uint8(hu[10].astype(float), (-1250, 250))).save(tmp_path / "slice.png")
    inputs = [
        tmp_path / "upright.nii",
        tmp_path / "turned.nii.gz",
        root / "OpenSourceDCMs/DCM1",
        tmp_path / "slice.png",
    ]
    printed, code = segment(run, *inputs)
    assert code == 0
    upright, back, series = (nib.load(tmp_path / f"out/{name}.nii.gz") for name in ("upright", "turned", "DCM1"))
    labels = upright.get_fdata()
    assert 0 < labels.mean() < 0.5
    assert back.shape == turned.shape
    assert (back.affine == turned.affine).all()
    assert (nib.as_closest_canonical(back).get_fdata() == nib.as_closest_canonical(upright).get_fdata()).all()
    assert (series.get_fdata() == labels).all()
    assert (np.asarray(Image.open(tmp_path / "out/slice.png")) == 255 * labels[:, :, 10].T).all()
    row = next(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    assert float(row["volume_ml"]) == pytest.approx(labels.sum() * 2 * 3 * 4 / 1000, abs=1e-3)
    assert int(row["infected_slices"]) == labels.any((0, 1)).sum()
    assert f"infection in {row['infected_slices']} of 21 slices" in printed


def test_a_run_on_pictures_takes_no_volumes(run, segment, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((64, 64, 2), np.int16), np.eye(4)), tmp_path / "ct.nii")
    printed, code = segment(run, tmp_path / "ct.nii")
    assert code == "1 of 1 could not be segmented"
    assert f"{tmp_path}/ct.nii: is a volume, but {run} has no data.find_scans.window" in printed


def test_a_bad_ct_is_named_and_the_others_are_segmented(run, covid_a, segment, tmp_path):
    good = next(covid_a.rglob("LungInfection-Test/Imgs/*.jpg"))
    (tmp_path / "torn.nii.gz").write_bytes(b"no volume")
    (tmp_path / "notes.txt").write_text("no CT")
    printed, code = segment(run, tmp_path / "torn.nii.gz", tmp_path / "notes.txt", tmp_path / "gone.nii", good)
    assert code == "3 of 4 could not be segmented"
    assert f"error: {tmp_path}/torn.nii.gz: not a readable NIfTI file" in printed
    assert f"error: {tmp_path}/notes.txt: give a NIfTI file" in printed
    assert f"error: {tmp_path}/gone.nii: no such file" in printed
    names = {f"{good.stem}.png", f"{good.stem}.overlay.png", "predictions.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    before = (tmp_path / f"out/{good.stem}.png").read_bytes()
    printed, code = segment(run, good)
    assert "is there already; move it" in printed
    assert (tmp_path / f"out/{good.stem}.png").read_bytes() == before


def test_labels_that_cannot_be_recorded_are_not_left_behind(run, covid_a, segment, tmp_path):
    picture = next(covid_a.rglob("LungInfection-Test/Imgs/*.jpg"))
    (tmp_path / "out/predictions.csv").mkdir(parents=True)
    printed, code = segment(run, picture)
    assert code == "1 of 1 could not be segmented"
    assert f"error: {tmp_path}/out: {picture.stem}.png or predictions.csv cannot be written" in printed
    (tmp_path / "out/predictions.csv").rmdir()
    linked = tmp_path / f"patient7{picture.suffix}"
    linked.symlink_to(picture)
    assert segment(run, picture, linked)[1] == 0
    names = {f"{name}{suffix}" for name in (picture.stem, "patient7") for suffix in (".png", ".overlay.png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"predictions.csv"}


def test_weights_of_an_unfinished_run_are_warned_of_and_damaged_ones_refused(run, covid_a, segment, caplog):
    picture = next(covid_a.rglob("LungInfection-Test/Imgs/*.jpg"))
    (run / "metrics.json").unlink()
    assert segment(run, picture)[1] == 0
    assert f"{run}: is not finished" in caplog.text
    (run / "best.ckpt").write_bytes((run / "best.ckpt").read_bytes()[:1000])
    assert f"{run}/best.ckpt: is damaged" in segment(run, picture)[1]


def test_a_folder_that_is_no_run_and_a_run_on_slices_read_in_another_way_are_refused(run, segment, tmp_path):
    _, code = segment(tmp_path, "ct.nii.gz")
    assert f"error: {tmp_path}: holds no best.ckpt or no config.yaml" in code
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, "data.find_scans.intensity", "released")
    OmegaConf.save(config, run / "config.yaml")
    _, code = segment(run, "ct.nii.gz")
    assert "data.find_scans.intensity=released" in code
    assert not (tmp_path / "out").exists()


def save(path, hu, **header):
    image = nib.Nifti1Image(np.ascontiguousarray(hu.transpose(2, 1, 0)), np.diag([-2.0, -3.0, 4.0, 1.0]))
    for key, value in header.items():
        image.header[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def test_nothing_of_the_patient_goes_along_with_the_labels(on_volumes, chest, segment, tmp_path):
    secret = {key: "DOE^JANE" for key in ("descrip", "aux_file", "intent_name", "db_name")}
    image = nib.Nifti1Image(chest.transpose(2, 1, 0), np.diag([-2.0, -3.0, 4.0, 1.0]))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE 1970"))
    for key, value in secret.items():
        image.header[key] = value
    image.set_qform(image.affine, 1)
    nib.save(image, tmp_path / "ct.nii")
    assert b"DOE" in (tmp_path / "ct.nii").read_bytes()
    assert segment(on_volumes, tmp_path / "ct.nii")[1] == 0
    assert b"DOE" not in gzip.decompress((tmp_path / "out/ct.nii.gz").read_bytes())
    labels = nib.load(tmp_path / "out/ct.nii.gz")
    assert (labels.affine == image.affine).all()
    assert labels.header["qform_code"] == 1


@pytest.mark.parametrize("flat", [False, True])
def test_each_ct_series_of_a_study_is_segmented(on_volumes, segment, tmp_path, flat):
    phantom.generate(tmp_path / "covidB", "covidB", scans=2, seed=4, size=64)
    for scan in (1, 2):
        folder = tmp_path / ("study" if flat else f"study/CT{scan}")
        folder.mkdir(parents=True, exist_ok=True)
        for k, path in enumerate(sorted((tmp_path / f"covidB/OpenSourceDCMs/DCM{scan}").iterdir())):
            dataset = pydicom.dcmread(path)
            dataset.SeriesNumber = 10 + scan
            dataset.save_as(folder / f"IM{scan}{k:03d}")
    (tmp_path / "study/README").write_text("a study\n")
    assert segment(on_volumes, tmp_path / "study")[1] == 0
    names = ("series11", "series12") if flat else ("CT1", "CT2")
    assert [nib.load(tmp_path / f"out/study/{name}.nii.gz").shape[2] for name in names] == [21, 22]


def test_values_that_are_no_hu_are_that_cts_error_and_the_others_go_on(on_volumes, chest, segment, tmp_path):
    raw, good = save(tmp_path / "raw.nii.gz", chest - 0.5 + 1024), save(tmp_path / "good.nii.gz", chest)
    broken = save(tmp_path / "broken.nii", chest)
    content = bytearray(broken.read_bytes())
    content[112:120] = struct.pack("<2f", 1, float("nan"))
    broken.write_bytes(content)
    printed, code = segment(on_volumes, raw, broken, good)
    assert code == "2 of 3 could not be segmented"
    assert f"error: {raw}: holds values" in printed or f"error: {raw}: its values" in printed
    assert f"error: {broken}: not a readable NIfTI file" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good.nii.gz", "good.png", "predictions.csv"}


def test_any_error_is_that_cts_and_leaves_nothing(on_volumes, chest, segment, tmp_path, monkeypatch):
    bad, good = save(tmp_path / "bad.nii.gz", chest), save(tmp_path / "good.nii.gz", chest)
    real = predict_module.append

    def failing(table, row):
        if "bad" in row["ct"]:
            raise RuntimeError("out of memory")
        real(table, row)

    monkeypatch.setattr(predict_module, "append", failing)
    printed, code = segment(on_volumes, bad, good)
    assert code == "1 of 2 could not be segmented"
    assert f"error: {bad}: RuntimeError: out of memory" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good.nii.gz", "good.png", "predictions.csv"}


def test_equal_names_are_mirrored_and_names_that_are_no_utf_8_are_written(on_volumes, chest, segment, tmp_path):
    first, second = (save(tmp_path / f"s{k}/ct.nii.gz", chest[k:]) for k in range(2))
    assert segment(on_volumes, first, second)[1] == 0
    assert [nib.load(tmp_path / f"out/s{k}/ct.nii.gz").shape[2] for k in range(2)] == [21, 20]
    strange = first.rename(tmp_path / os.fsdecode(b"M\xfcller.nii.gz"))
    printed, code = segment(on_volumes, strange)
    assert code == 0
    assert "M\\udcfcller.nii.gz: infection in" in printed
    assert (tmp_path / "out" / strange.name).is_file()
    assert not list((tmp_path / "out").rglob(".part*"))
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").open(encoding="utf-8")))
    assert [row["labels"].split("/")[-1] for row in rows] == ["ct.nii.gz", "ct.nii.gz", "M\\udcfcller.nii.gz"]


@pytest.mark.parametrize("name", ["=cmd|' C calc'!A0", "@SUM(1+1)*cmd", "+1", "-2+3", "a;=1+1", "\t=1"])
def test_no_cell_of_the_table_is_one_that_a_spreadsheet_executes(on_volumes, chest, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    ct = save(tmp_path / "x.nii.gz", chest).rename(tmp_path / f"{name}.nii.gz")
    predict_module.predict(predict_module.Predictor(on_volumes), CT(Path(ct.name), Path("labels.nii.gz")), Path())
    for separator in ",;":
        with Path("predictions.csv").open(encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter=separator))
        for row in rows:
            assert not any(cell.lstrip()[:1] in tuple("=+-@") for cell in row)


def test_distances_that_are_uneven_are_refused_and_even_ones_give_the_files_own_millilitres(
    on_volumes, chest, segment, tmp_path
):
    root = tmp_path / "covidB"
    phantom.generate(root, "covidB", scans=1, seed=4, size=64)
    series = root / "OpenSourceDCMs/DCM1"
    assert segment(on_volumes, series)[1] == 0
    labels = nib.load(tmp_path / "out/DCM1.nii.gz")
    row = next(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    voxel = abs(np.linalg.det(labels.affine[:3, :3]))
    assert float(row["volume_ml"]) == pytest.approx(labels.get_fdata().sum() * voxel / 1000, abs=1e-3)
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, round(z + max(z - 150, 0) * 0.4, 3)]
        dataset.save_as(path)
    printed, code = segment(on_volumes, series.rename(root / "uneven"))
    assert code == "1 of 1 could not be segmented"
    assert "uneven: its slices do not lie on one even grid" in printed


@pytest.fixture
def infected(monkeypatch):
    """Have every network see infection in a box of each slice, and be 80 % sure."""

    def logits(self, batch, size, probabilities):
        classes = np.zeros((len(batch), *size), np.uint8)
        classes[:, 20:30, 10:20] = 1
        likely = np.stack([255 - 204 * classes, 204 * classes], 1).astype(np.uint8)
        return classes, likely if probabilities else [None] * len(batch)

    monkeypatch.setattr(predict_module.Predictor, "_predict", logits)


def test_what_is_asked_for_is_written_beside_the_labels(on_volumes, chest, segment, tmp_path, infected, caplog):
    phantom.generate(tmp_path / "covidB", "covidB", scans=1, seed=4, size=64)
    ct = save(tmp_path / "ct.nii.gz", chest)
    wishes = ("--dicom-seg", "--seg-nrrd", "--probabilities", "--weights", "last", "--device", "cpu")
    printed, code = segment(on_volumes, tmp_path / "covidB/OpenSourceDCMs/DCM1", ct, *wishes)
    assert code == 0
    names = [f"{name}{end}" for name in ("DCM1", "ct") for end in (".nii.gz", ".png", ".seg.nrrd", ".infection.nii.gz")]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "DCM1.seg.dcm", "predictions.csv"}
    assert (
        f"{ct}: is no DICOM series, so there is no DICOM Segmentation of it; its other results are written"
        in caplog.text
    )
    labels, shares = (nib.load(tmp_path / f"out/ct{end}.nii.gz") for end in ("", ".infection"))
    assert (labels.affine == shares.affine).all()
    np.testing.assert_allclose(shares.get_fdata(), 0.8 * labels.get_fdata(), atol=1e-6)
    assert shares.get_data_dtype() == np.uint8
    assert pydicom.dcmread(tmp_path / "out/DCM1.seg.dcm").pixel_array.sum() == 21 * 100
    assert Image.open(tmp_path / "out/ct.png").size[0] > 500
    row = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))[1]
    assert (row["weights"], float(row["seconds"]) > 0) == ("last", True)
    assert "21 regions, 50.4 ml, " in printed


def test_a_share_of_the_lungs_is_said_of_each_ct_whose_lungs_are_in_a_folder(
    on_volumes, chest, segment, tmp_path, infected
):
    ct, other = save(tmp_path / "ct.nii.gz", chest), save(tmp_path / "other.nii.gz", chest)
    lungs = np.zeros(chest.shape, np.uint8)
    lungs[:, 10:40, 5:25], lungs[:, 10:40, 35:55] = 1, 2  # 600 pixels each
    save(tmp_path / "lungs/ct.nii.gz", lungs)
    printed, code = segment(on_volumes, ct, other, "--lungs", tmp_path / "lungs")
    assert code == "1 of 2 could not be segmented"
    assert "8.3 % of the lungs (right 16.7, left 0.0)" in printed
    assert f"error: {tmp_path}/lungs/other.nii.gz: no such file" in printed
    row = next(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    assert float(row["right_lung_ml"]) == pytest.approx(600 * 21 * 0.024, abs=0.05)


def test_a_table_with_other_columns_is_not_added_to(on_volumes, chest, segment, tmp_path, infected):
    ct = save(tmp_path / "ct.nii.gz", chest)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.csv").write_text("ct,labels\na,b\n")
    printed, code = segment(on_volumes, ct)
    assert code == "1 of 1 could not be segmented"
    assert "predictions.csv: has other columns (ct, labels)" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]
    assert (tmp_path / "out/predictions.csv").read_text() == "ct,labels\na,b\n"


@pytest.mark.parametrize("there", ["ct.png", "ct.seg.nrrd", "ct.nii.gz"])
def test_nothing_that_lies_there_is_overwritten(on_volumes, chest, segment, tmp_path, infected, there):
    ct = save(tmp_path / "ct.nii.gz", chest)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / there).write_text("mine")
    printed, _ = segment(on_volumes, ct, "--seg-nrrd")
    assert f"{there}: is there already; move it" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == [there]


def test_an_option_whose_package_is_missing_says_how_to_install_it(on_volumes, segment, monkeypatch):
    monkeypatch.setattr(predict_module.importlib.util, "find_spec", lambda name: None)
    assert (
        segment(on_volumes, "ct.nii", "--dicom-seg")[1]
        == "error: --dicom-seg: needs highdicom; pip install -e '.[viewer]'"
    )
    _, code = segment(on_volumes, "ct.nii", "--device", "gpu7")
    assert "error: device gpu7: is not to be had" in code
