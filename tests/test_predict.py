"""Predictions for new CT: those of the run's test, whatever a CT is stored as; and one clear error for what is none."""

import csv
import sys

import nibabel as nib
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from cbseg import predict as predict_module
from cbseg.data import phantom
from cbseg.data.volumes import window_to_uint8

TRAINED = ("loss=full", "trainer.max_epochs=25", "trainer.precision=32-true")


@pytest.fixture
def run(train):
    return train("loss=pl", "trainer.max_epochs=1")


@pytest.fixture
def segment(monkeypatch, capsys, tmp_path):
    """``python -m cbseg.predict <arguments> --out <tmp_path>/out`` in this process; what it printed and ended with."""

    def one(*arguments):
        monkeypatch.setattr(sys, "argv", ["cbseg.predict", *map(str, arguments), "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as end:
            predict_module.main()
        printed = capsys.readouterr()
        return printed.out + printed.err, end.value.code

    return one


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
    hu = phantom.draw_volume(4, 1, slices=21, size=64)[0]
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
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{good.stem}.png", "predictions.csv"}
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
    names = {f"{picture.stem}.png", "patient7.png", "predictions.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


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
