"""Whole runs on the phantom: what they leave behind, that they repeat, and how they end when something is wrong."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from skimage.measure import label

from cbseg import parts
from cbseg.data.covid_a import FOLDERS
from cbseg.data.datamodule import SliceDataModule
from cbseg.errors import InputError
from cbseg.finite import NonFiniteLossError
from cbseg.losses.point import PointLoss
from cbseg.metrics import COUNTING_SCORES, SCORES, Counts
from cbseg.module import SegmentationModule
from cbseg.run_state import RunState


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def log_of(folder):
    """The columns of the CSV log, without their empty cells."""
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    return {key: [float(row[key]) for row in rows if row[key]] for key in rows[0]}


@pytest.mark.parametrize(
    "loss", ["full", "pl", "cb_flip", "cb_fliprot", "cb_crf", "cb_zoom", "lcfcn", "cb_lcfcn", "cb_lcfcn_crf"]
)
def test_a_run_leaves_a_whole_folder_behind(train, loss, caplog):
    folder = train(f"loss={loss}")
    assert folder.parts[-3:-1] == ("covidA", loss)
    assert folder.name.startswith("seed0,")
    found = metrics(folder)
    assert (found["data"], found["loss"], found["seed"], found["status"]) == ("covidA", loss, 0, "finished")
    assert found["split"] == {"train": 6, "val": 2, "test": 8}
    assert set(found["test"]) == {*SCORES, *COUNTING_SCORES, "dice_mean"}
    assert 1 <= found["best_epoch"] <= found["epochs"] == 2
    assert found["images_per_second"] > 0
    assert found["val"]["val/dice"] == pytest.approx(max(log_of(folder)["val/dice"]), abs=1e-6)
    assert len(list((folder / "slices").glob("*.png"))) == len(list((folder / "slices").glob("*.npz"))) == 6
    assert OmegaConf.load(folder / "config.yaml").trainer.max_epochs == 2
    assert f"{folder}: test dice" in caplog.text


def test_scores_follow_from_the_counts_by_scan(train):
    found = metrics(train("loss=full"))
    assert len(found["scans"]) == 8
    total = {name: sum(scan[name] for scan in found["scans"].values()) for name in ("tp", "fp", "fn", "tn")}
    assert total == {name: found["counts"][name] for name in total}
    errors = np.sum([scan["count_errors"] for scan in found["scans"].values()], 0)
    assert errors.tolist() == found["counts"]["count_errors"]
    assert found["counts"]["slices"] == 8
    assert [found["test"][name] for name in COUNTING_SCORES] == (errors / 8).tolist()
    assert found["test"]["iou"] == total["tp"] / (total["tp"] + total["fp"] + total["fn"])


def test_recorded_slices_hold_what_was_scored(train):
    folder = train("loss=full", "overlays=8")
    for path in (folder / "slices").glob("*.npz"):
        arrays = np.load(path)
        assert set(arrays) == {"image", "points", "truth", "prediction"}
        assert {arrays[name].shape for name in arrays} == {arrays["truth"].shape}
        assert (arrays["points"] == 1).sum() == label(arrays["truth"], connectivity=2).max()
        scores = Counts.of(torch.from_numpy(arrays["prediction"]), torch.from_numpy(arrays["truth"])).named()
        assert metrics(folder)["scans"][path.stem] == scores


def test_the_terms_of_cb_lcfcn_are_logged_apart(train):
    log = log_of(train("loss=cb_lcfcn"))
    terms = [log[f"train/{name}"][0] for name in ("image", "point", "split", "false_positive", "consistency")]
    assert log["train/loss"][0] == pytest.approx(sum(terms), rel=1e-4)


def test_the_loss_terms_are_logged_apart(train):
    log = log_of(train("loss=cb_flip", "loss.weight=2.0"))
    assert log["train/loss"][0] == pytest.approx(log["train/point"][0] + log["train/consistency"][0], rel=1e-5)
    assert log["train/consistency"][0] == pytest.approx(2 * log["train/inconsistency"][0], rel=1e-5)


def test_training_lowers_the_loss_and_learns_something(train):
    folder = train("loss=full", "trainer.max_epochs=25")
    losses = log_of(folder)["train/loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert metrics(folder)["test"]["dice"] > 0.3


@pytest.mark.parametrize("loss", ["pl", "cb_fliprot"])
def test_two_runs_with_one_seed_are_equal_bit_for_bit_and_another_seed_differs(train, tmp_path, loss):
    first, again, other = (
        metrics(train(f"loss={loss}", f"seed={seed}", f"runs={tmp_path / name}"))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for key in ("test", "counts", "scans", "val", "best_epoch"):
        assert first[key] == again[key]
    assert first["counts"] != other["counts"]


def test_the_test_set_is_read_with_the_last_weights_and_then_with_the_selected(train, monkeypatch):
    read = []
    real = SegmentationModule.test_step

    def test_step(self, batch, batch_idx):
        read.extend(batch["index"])
        weights.append({name: p.clone() for name, p in self.state_dict().items()})
        return real(self, batch, batch_idx)

    weights = []
    monkeypatch.setattr(SegmentationModule, "test_step", test_step)
    monkeypatch.setattr(RunState, "_value", lambda self, row: -abs(row["epoch"] - 2))
    folder = train("loss=full", "trainer.max_epochs=4")
    found = metrics(folder)
    assert found["best_epoch"] == 2
    assert read == 2 * list(range(8, 16))
    best = torch.load(folder / "best.ckpt", weights_only=True)
    assert best["epoch"] + 1 == found["best_epoch"]
    same = [all(torch.equal(read[name], p) for name, p in best["state_dict"].items()) for read in weights]
    assert same == [False] * (len(same) // 2) + [True] * (len(same) // 2)
    assert set(found["last"]) == {"test", "undefined", "counts", "scans"}
    assert found["last"]["counts"]["slices"] == 8


def test_the_epoch_of_the_best_validation_dice_is_selected(train):
    folder = train("loss=full", "trainer.max_epochs=6", "trainer.precision=32-true")
    scores = log_of(folder)["val/dice"]
    assert metrics(folder)["best_epoch"] == 1 + scores.index(max(scores))


def test_the_epoch_of_the_lowest_validation_mae_is_selected(train):
    folder = train("loss=pl", "trainer.max_epochs=8", "selection.monitor=val/mae", "trainer.precision=32-true")
    errors = log_of(folder)["val/mae"]
    assert min(errors) < max(errors)
    assert metrics(folder)["best_epoch"] == 1 + errors.index(min(errors))


def test_the_last_epoch_is_selected_where_no_score_shall(train):
    folder = train("loss=full", "trainer.max_epochs=3", "selection.monitor=last")
    found = metrics(folder)
    assert found["best_epoch"] == 3
    assert found["last"]["test"] == found["test"]
    assert found["val"] == {"val/dice": pytest.approx(log_of(folder)["val/dice"][-1])}
    seldom = train("loss=full", "trainer.max_epochs=4", "selection.monitor=last", "+trainer.check_val_every_n_epoch=2")
    assert [len(log_of(seldom)[score]) for score in ("train/loss", "val/dice")] == [4, 2]
    assert metrics(seldom)["images_per_second"] > 0
    with pytest.raises(InputError, match="selection.patience=3.*selection.monitor=last"):
        train("loss=full", "selection.monitor=last", "selection.patience=3")


def test_consistency_alone_learns_from_slices_without_labels(train):
    few = ("data.labelled=2", "data.batch_size=4", "trainer.precision=32-true")
    without = metrics(train("loss=cb_fliprot", *few))
    assert metrics(train("loss=cb_fliprot", *few, "data.unlabelled=2"))["counts"] != without["counts"]
    for loss in ("pl", "full", "cb_lcfcn"):
        with pytest.raises(InputError, match="data.unlabelled=2: this loss"):
            train(f"loss={loss}", *few, "data.unlabelled=2")


def test_where_the_last_epoch_was_selected_the_test_set_is_read_once(train, monkeypatch):
    read = []
    real = SegmentationModule.test_step
    monkeypatch.setattr(
        SegmentationModule,
        "test_step",
        lambda self, batch, k: read.extend(batch["index"]) or real(self, batch, k),
    )
    found = metrics(train("loss=full", "trainer.max_epochs=1"))
    assert read == list(range(8, 16))
    assert found["last"]["test"] == found["test"]


def test_a_run_that_does_not_count_each_slice_of_its_test_split_never_finishes(train, monkeypatch, tmp_path):
    monkeypatch.setattr(SliceDataModule, "test_dataloader", SliceDataModule.val_dataloader)
    with pytest.raises(RuntimeError, match=r"10 slices of the test split were not counted"):
        train("loss=pl", "data.batch_size=2")
    assert not list(tmp_path.glob("runs/*/*/*/metrics.json"))


def test_patience_stops_early(train):
    found = metrics(train("loss=pl", "trainer.max_epochs=30", "selection.patience=1", "optim.lr=0"))
    assert found["epochs"] == 2


def test_sps_trains_without_a_learning_rate(train):
    log = log_of(train("loss=pl", "optim=sps", "trainer.max_epochs=25"))
    assert min(log["train/loss"][-10:]) < 0.7 * log["train/loss"][0]  # single steps swing, by processor too


@pytest.mark.parametrize(
    "setting",
    ["+trainer.accumulate_grad_batches=2", "trainer.devices=2", "optim.beta=0.9"],
    ids=["sums", "devices", "beta"],
)
def test_sps_is_refused_where_its_loss_is_not_that_of_its_gradient(train, setting):
    key, _, value = setting.lstrip("+").partition("=")
    with pytest.raises(InputError, match=rf"{key}={value}: SPS takes its step from the loss of one batch"):
        train("loss=pl", "optim=sps", setting)


def test_a_run_that_ends_before_it_is_validated_has_a_result(train):
    stop = (
        "+trainer.callbacks.stop={_target_:pytorch_lightning.callbacks.EarlyStopping,monitor:train/loss,patience:1,"
        "min_delta:1000,check_on_train_epoch_end:true}"
    )
    folder = train(
        "loss=pl", "selection.monitor=last", "trainer.max_epochs=8", "+trainer.check_val_every_n_epoch=4", stop
    )
    assert metrics(folder)["epochs"] == 2
    assert metrics(folder)["val"] == {"val/dice": None}


def test_a_network_is_tried_at_each_size_that_its_views_have_before_training(train, monkeypatch):
    tried, real = [], parts.check_network
    monkeypatch.setattr(
        parts, "check_network", lambda net, size, classes: (tried.append(size), real(net, size, classes))
    )
    train("loss=pl", "data.image_size=[64,96]", "decision.tta=dihedral", "trainer.max_epochs=1")
    assert set(tried) == {(64, 96), (96, 64)}


def test_bf16_scores_are_close_to_float32(train):
    a, b = (
        metrics(train("loss=full", "trainer.max_epochs=10", f"trainer.precision={p}"))
        for p in ("32-true", "bf16-mixed")
    )
    assert a["val"]["val/dice"] == pytest.approx(b["val"]["val/dice"], abs=0.05)


def test_a_finished_run_is_skipped_and_rerun_keeps_the_old_one(train, caplog):
    folder = train("loss=pl")
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert train("loss=pl") == folder
    assert "finished before, skipped" in caplog.text
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    assert train("loss=pl", "rerun=true") == folder
    assert (folder / "metrics.json").stat().st_mtime_ns > before
    (old,) = (folder.parent / "old").iterdir()
    assert (old / "metrics.json").stat().st_mtime_ns == before


def test_a_loss_that_is_not_finite_stops_with_its_slices_named_and_keeps_the_best_weights(train, tmp_path, monkeypatch):
    real, steps = PointLoss.terms, []

    def terms(self, logits, batch):
        steps.append(batch["name"])
        return {"point": real(self, logits, batch)["point"] * (float("nan") if len(steps) == 5 else 1)}

    monkeypatch.setattr(PointLoss, "terms", terms)
    with pytest.raises(NonFiniteLossError, match="epoch 3.*point nan") as error:
        train("loss=pl", "trainer.max_epochs=4", "data.batch_size=3")
    assert all(name in str(error.value) for name in steps[-1])
    (folder,) = (tmp_path / "runs/covidA/pl").iterdir()
    best = torch.load(folder / "best.ckpt", weights_only=True)
    assert all(p.isfinite().all() for p in best["state_dict"].values())
    assert not (folder / "metrics.json").exists()


def test_a_network_that_predicts_nothing_has_no_ppv_and_the_reason_is_given(train):
    found = metrics(train("loss=pl", "optim.lr=0", "trainer.max_epochs=1"))
    assert found["test"]["ppv"] is None
    assert "TP + FP = 0" in found["undefined"]["ppv"]
    assert found["test"]["dice"] == 0


def test_a_test_set_without_infection_has_no_sensitivity_and_the_reason_is_given(train, covid_a, tmp_path):
    root = tmp_path / "healthy"
    shutil.copytree(covid_a, root)
    for path in (root / "Dataset" / FOLDERS["test"] / "GT").iterdir():
        with Image.open(path) as mask:
            Image.new("L", mask.size).save(path)
    found = metrics(train("loss=pl", f"data.root={root}"))
    assert found["test"]["sens"] is None
    assert "TP + FN = 0" in found["undefined"]["sens"]
    assert found["dataset"]["slices_with_infections"] == 8


def test_peoples_clicks_train_a_whole_run(train, tmp_path):
    file = tmp_path / "clicks.csv"
    file.write_text("slice,row,column,class\n" + "".join(f"train-{k},30,40,1\ntrain-{k},0,0,0\n" for k in range(6)))
    folder = train("loss=cb_fliprot", f"data.annotate.file={file}")
    assert metrics(folder)["status"] == "finished"
    assert all((np.load(path)["points"] == 255).all() for path in (folder / "slices").glob("*.npz"))


def test_the_released_protocol_trains(train):
    found = metrics(train("loss=cb_fliprot", "protocol=released"))
    assert found["status"] == "finished"


def test_another_store_is_no_other_run(train, tmp_path):
    folder = train("loss=pl")
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert train("loss=pl", f"store={tmp_path / 'other'}") == folder
    assert (folder / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("override", ["data.root=/nowhere", "optim.lr=-1", "logger=wandb logger.mode=foo"])
def test_a_rerun_with_a_mistake_leaves_the_finished_run_where_it_is(train, override):
    folder = train("loss=pl")
    mistake = override.split() if "optim" not in override and "root" not in override else [override]
    with pytest.raises(InputError):
        train("loss=pl", "rerun=true", *mistake)
    assert (folder / "metrics.json").is_file()
    assert not (folder.parent / "old").exists()
    assert len(list(folder.parent.iterdir())) == 1


def test_images_that_are_not_square_train(train):
    folder = train("loss=cb_flip", "data.image_size=[64,96]")
    assert metrics(folder)["test"]["dice"] is not None


def test_quarter_turns_of_sizes_that_are_not_square_are_refused_before_anything_is_written(train, tmp_path):
    with pytest.raises(Exception, match="not square"):
        train("loss=cb_fliprot", "data.image_size=[64,96]")
    assert not (tmp_path / "runs").exists()


def test_bad_data_leaves_no_folder(train, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        train("loss=pl", "data.root=/nowhere")
    assert not (tmp_path / "runs").exists()


def blank_validation(covid_a, root):
    """Copy the phantom with nothing drawn on its two validation slices, as those have who have no masks."""
    shutil.copytree(covid_a, root)
    masks = sorted((root / "Dataset" / FOLDERS["train"] / "GT").iterdir())
    for path in masks[-2:]:
        Image.new("L", Image.open(path).size).save(path)
    return root


def test_where_no_mask_shows_infection_in_validation_the_last_epoch_is_taken_and_said(train, covid_a, tmp_path, caplog):
    root = blank_validation(covid_a, tmp_path / "blank")
    folder = train("loss=pl", f"data.root={root}", "trainer.max_epochs=3", "optim.lr=0")
    assert "no score tells epochs apart: the last one's weights are taken (selection.monitor=last)" in caplog.text
    assert "(last epoch 3 of 3" in caplog.text
    found = metrics(folder)
    assert (found["best_epoch"], found["last"]["test"] == found["test"]) == (3, True)


@pytest.mark.parametrize(
    ("waits", "what"),
    [
        ("selection.patience=2", r"selection\.patience: .* no score tells when to stop"),
        ("+optim/scheduler=plateau", r"optim\.scheduler: .* no score tells when to lower the rate"),
    ],
)
def test_what_waits_for_a_score_is_refused_where_validation_tells_none(train, covid_a, tmp_path, waits, what):
    root = blank_validation(covid_a, tmp_path / "blank")
    with pytest.raises(InputError, match=what):
        train("loss=pl", f"data.root={root}", waits)


def test_a_network_of_other_classes_than_the_data_is_refused(train):
    with pytest.raises(InputError, match=r"model\.num_classes=3: the data has 2 classes, background included"):
        train("loss=pl", "model.num_classes=3")


@pytest.mark.parametrize(("loss", "reason"), [("full", "no mask shows infection"), ("pl", "no pixel is annotated")])
def test_a_loss_that_finds_nothing_to_learn_is_refused(train, covid_a, tmp_path, loss, reason):
    root = tmp_path / "empty"
    shutil.copytree(covid_a, root)
    for path in (root / "Dataset" / FOLDERS["train"] / "GT").iterdir():
        Image.fromarray(np.zeros_like(Image.open(path).convert("L"))).save(path)
    with pytest.raises(InputError, match=reason):
        train(f"loss={loss}", f"data.root={root}", "data.annotate.empty=ignore")


def test_a_profile_goes_into_the_runs_folder_and_makes_no_other_run(train):
    folder = train("loss=pl", "trainer.max_epochs=1", "+trainer.profiler=simple")
    assert "run_training_epoch" in (folder / "fit-profile.txt").read_text()
    assert "profiler" not in folder.name
