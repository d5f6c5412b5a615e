"""Runs that were interrupted go on, and end as if nothing had happened."""

import contextlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image, ImageOps

from cbseg import provenance, trainer, training
from cbseg.data.covid_a import FOLDERS
from cbseg.errors import InputError
from cbseg.module import SegmentationModule
from cbseg.run_folder import BusyError, RunFolder
from cbseg.run_state import RunState
from cbseg.run_status import state_of

SAME = ("test", "counts", "scans", "val", "best_epoch", "epochs", "undefined")

EMA = "{_target_:cbseg.averaging.EMAWeights,decay:0.5}"
ONE_CYCLE = "{_target_:torch.optim.lr_scheduler.OneCycleLR,interval:step,max_lr:0.01,total_steps:10}"
STOP = "{_target_:pytorch_lightning.callbacks.EarlyStopping,monitor:train/loss,patience:2}"


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


class Killed(BaseException):
    """Stands for a process's sudden end."""


def die_at(monkeypatch, epoch, batch, hook="training_step"):
    """Let the process die at a step of training, or of the test."""
    real = getattr(SegmentationModule, hook)

    def step(self, given, index):
        if hook == "test_step" or (self.current_epoch, index) == (epoch, batch):
            raise Killed
        return real(self, given, index)

    monkeypatch.setattr(SegmentationModule, hook, step)


@pytest.mark.parametrize(
    ("setting", "moment"),
    [
        ("loss=cb_fliprot", (1, 0, "training_step")),
        ("loss=cb_fliprot", (0, 0, "test_step")),
        ("loss=cb_lcfcn", (3, 1, "training_step")),
        ("optim=sps", (3, 1, "training_step")),
        ("selection.patience=2", (2, 0, "training_step")),
        ("selection.patience=2", (0, 0, "test_step")),
        ("+trainer.min_epochs=4 selection.patience=1 selection.monitor=val/spec", (2, 0, "training_step")),
        ("+trainer.min_epochs=4 selection.patience=1 selection.monitor=val/spec", (3, 1, "training_step")),
        ("data.epoch=released", (1, 2, "training_step")),
        ("trainer.precision=bf16-mixed", (2, 1, "training_step")),
        (f"+trainer.callbacks.ema={EMA}", (2, 1, "training_step")),
        (f"+trainer.callbacks.ema={EMA}", (0, 0, "test_step")),
        ("+optim.scheduler={_target_:torch.optim.lr_scheduler.StepLR,step_size:2}", (2, 1, "training_step")),
        ("+optim/scheduler=cosine", (3, 0, "training_step")),
        ("+optim/scheduler=plateau optim.scheduler.patience=0", (3, 0, "training_step")),
        ("+optim/scheduler=warmup", (2, 1, "training_step")),
        (f"+optim.scheduler={ONE_CYCLE}", (3, 1, "training_step")),
        (f"+trainer.callbacks.stop={STOP}", (2, 0, "training_step")),
        ("decision.rule=prior", (0, 0, "test_step")),
        ("decision.rule=prior", (3, 0, "training_step")),
    ],
)
def test_a_killed_run_ends_bit_for_bit_as_an_undisturbed_one(train, tmp_path, monkeypatch, setting, moment):
    settings = ["loss=pl", *setting.split(), "trainer.max_epochs=5", "data.batch_size=3"]
    undisturbed = train(*settings, f"runs={tmp_path / 'undisturbed'}")
    with monkeypatch.context() as patch:
        die_at(patch, *moment)
        with pytest.raises(Killed):
            train(*settings)
    folder = train(*settings)
    assert {key: metrics(folder)[key] for key in SAME} == {key: metrics(undisturbed)[key] for key in SAME}
    pd.testing.assert_frame_equal(pd.read_csv(folder / "metrics.csv"), pd.read_csv(undisturbed / "metrics.csv"))
    assert (folder / "last.ckpt").exists()
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize(("monitor", "kept"), [("last", [1, 6]), ("val/dice", [1, 3, 6])])
def test_where_writing_takes_long_it_is_done_for_the_best_epochs_and_the_last_and_a_killed_run_loses_nothing(
    train, tmp_path, monkeypatch, monitor, kept
):
    written, real_write = [], RunState._write

    def slow(self, trainer, improved):
        real_write(self, trainer, improved)
        written.append(self.epochs)
        self._took = 60.0

    settings = ["loss=pl", "trainer.max_epochs=6", "data.batch_size=3", f"selection.monitor={monitor}"]
    if monitor != "last":
        monkeypatch.setattr(RunState, "_value", lambda self, row: -abs(row["epoch"] - 3) if row["epoch"] != 2 else -9)
    undisturbed = train(*settings, f"runs={tmp_path / 'undisturbed'}")
    monkeypatch.setattr(RunState, "_write", slow)
    with monkeypatch.context() as patch:
        die_at(patch, 5, 0)
        with pytest.raises(Killed):
            train(*settings)
    assert written == kept[:-1]
    folder = train(*settings)
    assert written[-1] == kept[-1]
    assert {key: metrics(folder)[key] for key in SAME} == {key: metrics(undisturbed)[key] for key in SAME}
    pd.testing.assert_frame_equal(pd.read_csv(folder / "metrics.csv"), pd.read_csv(undisturbed / "metrics.csv"))
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] + 1 == metrics(folder)["best_epoch"]


def test_a_run_that_goes_on_in_another_precision_says_so(train, monkeypatch, caplog):
    settings = ["loss=pl", "trainer.max_epochs=3", "data.batch_size=3"]
    monkeypatch.setattr(trainer, "fast_precision", lambda accelerator: "32-true")
    with monkeypatch.context() as patch:
        die_at(patch, 1, 0)
        with pytest.raises(Killed):
            train(*settings)
    monkeypatch.setattr(trainer, "fast_precision", lambda accelerator: "bf16-mixed")
    caplog.set_level("WARNING", "cbseg")
    assert metrics(train(*settings))["precision"] == "bf16-mixed"
    assert "began in 32-true and goes on in bf16-mixed" in caplog.text


@pytest.mark.parametrize(("name", "epoch"), [("best.ckpt", 1), ("best.ckpt", 2), ("metrics.csv", 5), ("last.ckpt", 3)])
def test_a_kill_between_the_files_of_an_epoch_leaves_none_of_them_behind_the_others(
    train, tmp_path, monkeypatch, name, epoch
):
    settings = ["loss=full", "trainer.max_epochs=5", "data.batch_size=3"]
    undisturbed = train(*settings, f"runs={tmp_path / 'undisturbed'}")
    real_replace = Path.replace

    def replace(part, target):
        curves = target.with_name("metrics.csv")
        done = len(pd.read_csv(curves)) if curves.is_file() else 0
        if target.name == name and done + 1 >= epoch:
            raise Killed
        return real_replace(part, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with contextlib.suppress(Killed):  # the best epoch may lie before
            train(*settings)
    folder = train(*settings)
    assert {key: metrics(folder)[key] for key in SAME} == {key: metrics(undisturbed)[key] for key in SAME}
    pd.testing.assert_frame_equal(pd.read_csv(folder / "metrics.csv"), pd.read_csv(undisturbed / "metrics.csv"))
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] + 1 == metrics(folder)["best_epoch"]


def test_a_run_that_finished_no_epoch_starts_anew_and_leaves_nothing_behind(train, monkeypatch):
    with monkeypatch.context() as patch:
        die_at(patch, 0, 0)
        with pytest.raises(Killed):
            train("loss=pl")
    folder = train("loss=pl")
    assert metrics(folder)["status"] == "finished"
    assert not (folder.parent / "old").exists()


@pytest.mark.parametrize("at", [(1, 0, "training_step"), (2, 0, "test_step")])
def test_an_unfinished_run_does_not_go_on_with_other_clicks(train, monkeypatch, tmp_path, at):
    file = tmp_path / "clicks.csv"
    clicks = ["slice,row,column,class", *(f"train-{k},30,40,1" for k in range(6))]
    file.write_text("\n".join(clicks))
    settings = ["loss=pl", f"data.annotate.file={file}"]
    with monkeypatch.context() as patch:
        die_at(patch, *at)
        with pytest.raises(Killed):
            train(*settings)
    file.write_text("\n".join([*clicks, "train-0,0,0,0"]))
    with pytest.raises(InputError, match=r"no longer those with which this run began"):
        train(*settings)
    file.write_text("\n".join(clicks))
    assert metrics(train(*settings))["epochs"] == 2


def test_an_unfinished_run_of_another_config_is_kept_aside_and_the_reason_told(train, monkeypatch, tmp_path, caplog):
    with monkeypatch.context() as patch:
        die_at(patch, 1, 0)
        with pytest.raises(Killed):
            train("loss=pl")
    (folder,) = (path for path in (tmp_path / "runs/covidA/pl").iterdir() if path.is_dir())
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 8", "batch_size: 4"))
    train("loss=pl")
    assert "data.batch_size was 4, is 8; begins anew, and the old run is kept in old/" in caplog.text
    (old,) = (folder.parent / "old").iterdir()
    assert (old / "last.ckpt").is_file()


def test_a_locked_run_is_left_to_the_process_that_trains_it(train, monkeypatch):
    monkeypatch.setattr("cbseg.run_folder._PATIENCE", 0)
    folder = train("loss=pl")
    before = (folder / "metrics.json").stat().st_mtime_ns
    with RunFolder(folder).lock(), pytest.raises(BusyError, match="another process"):
        train("loss=pl", "rerun=true")
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    assert train("loss=pl", "rerun=true") == folder


def test_a_failure_leaves_its_traceback_and_config_and_the_next_try_removes_them(train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        die_at(patch, 1, 0)
        with pytest.raises(Killed):
            train("loss=pl")
    (folder,) = (path for path in (tmp_path / "runs/covidA/pl").iterdir() if path.is_dir())
    config = OmegaConf.load(folder / "config.yaml")
    RunFolder(folder).record_failure(config, "Traceback\n  …\nValueError: no memory")
    assert RunFolder(folder).failure() == "ValueError: no memory"
    assert "max_epochs: 2" in (folder / "error.txt").read_text()
    assert RunFolder(train("loss=pl")).failure() == ""


def test_a_failure_never_touches_a_finished_run(train):
    folder = train("loss=pl")
    RunFolder(folder).record_failure(OmegaConf.load(folder / "config.yaml"), "ValueError: x")
    assert not (folder / "error.txt").exists()


def test_a_finished_run_of_another_config_is_refused_and_a_sweep_tells_why(train, job):
    train("loss=pl")
    again = job("loss=pl")
    assert state_of(again.folder, again.config).name == "finished"
    again.config.data.batch_size = 4
    state = state_of(again.folder, again.config)
    assert state.name == "refused"
    assert "data.batch_size was 8, is 4" in state.reason


SEVERAL = ["loss=cb_fliprot", "data.batch_size=3"]


@pytest.mark.parametrize(
    ("settings", "short", "long"),
    [
        (SEVERAL, 2, 4),
        ([*SEVERAL, "+optim.scheduler={_target_:torch.optim.lr_scheduler.StepLR,step_size:1}"], 2, 4),
        ([*SEVERAL, "selection.patience=1", "selection.monitor=val/spec"], 3, 5),  # stopped before
    ],
)
def test_more_epochs_go_on_from_the_finished_run_bit_for_bit_as_from_the_start(
    train, tmp_path, monkeypatch, caplog, settings, short, long
):
    whole = train(*settings, f"trainer.max_epochs={long}", f"runs={tmp_path / 'whole'}")
    before = train(*settings, f"trainer.max_epochs={short}")
    kept = {path.name: path.read_bytes() for path in before.iterdir() if path.is_file()}
    with monkeypatch.context() as patch:
        die_at(patch, metrics(before)["epochs"], 0)  # it can be killed at once
        with contextlib.suppress(Killed):
            train(*settings, f"trainer.max_epochs={long}")
    with monkeypatch.context() as patch:
        for epoch in range(metrics(before)["epochs"]):
            die_at(patch, epoch, 0)  # no epoch is done again
        folder = train(*settings, f"trainer.max_epochs={long}")
    assert f"goes on from {before}" in caplog.text
    assert {key: metrics(folder)[key] for key in SAME} == {key: metrics(whole)[key] for key in SAME}
    pd.testing.assert_frame_equal(pd.read_csv(folder / "metrics.csv"), pd.read_csv(whole / "metrics.csv"))
    assert {path.name: path.read_bytes() for path in before.iterdir() if path.is_file()} == kept


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["keep_last=false"], []),
        ([], ["optim.lr=0.1"]),
        ([], ["rerun=true"]),
        (["+optim/scheduler=cosine"], ["+optim/scheduler=cosine"]),  # whose length is trainer.max_epochs
    ],
)
def test_a_run_goes_on_from_none_that_is_not_its_own_beginning(train, caplog, first, second):
    train("loss=pl", "trainer.max_epochs=1", *first)
    train("loss=pl", "trainer.max_epochs=2", *second)
    assert "goes on from" not in caplog.text


def test_a_damaged_last_ckpt_is_named_and_where_another_run_would_go_on_from_it_that_begins_from_the_start(
    train, monkeypatch, caplog
):
    before = train("loss=pl", "trainer.max_epochs=1")
    (before / "last.ckpt").write_bytes((before / "last.ckpt").read_bytes()[:1000])
    with monkeypatch.context() as patch:
        die_at(patch, 1, 0)
        with pytest.raises(Killed):
            train("loss=pl", "trainer.max_epochs=2")
    assert f"{before / 'last.ckpt'}: is damaged" in caplog.text
    assert "begins from the start" in caplog.text
    (cut,) = (path for path in before.parent.glob("*epochs=2/last.ckpt"))
    cut.write_bytes(b"")
    with pytest.raises(InputError, match="last.ckpt: is damaged"):
        train("loss=pl", "trainer.max_epochs=2")


def test_more_epochs_on_other_data_begin_from_the_start(train, tmp_path, covid_a, caplog):
    root = tmp_path / "copy"
    shutil.copytree(covid_a, root)
    train("loss=pl", "trainer.max_epochs=1", f"data.root={root}")
    mask = next((root / "Dataset" / FOLDERS["test"] / "GT").iterdir())
    ImageOps.mirror(Image.open(mask)).save(mask)
    train("loss=pl", "trainer.max_epochs=2", f"data.root={root}")
    assert "goes on from" not in caplog.text


def test_a_run_keeps_the_code_of_each_of_its_sittings(train, monkeypatch):
    def code(commit, dirty):
        real = provenance.provenance()
        monkeypatch.setattr(training, "provenance", lambda: real | {"git": {"commit": commit, "dirty": dirty}})

    code("a", True)
    with monkeypatch.context() as patch:
        die_at(patch, 1, 0)
        with pytest.raises(Killed):
            train("loss=pl")
    code("b", False)
    sittings = [{"epoch": 1, "commit": "a", "dirty": True}, {"epoch": 2, "commit": "b", "dirty": False}]
    assert metrics(train("loss=pl"))["git"] == {"commit": "b", "dirty": True, "sittings": sittings}


def test_a_full_disk_leaves_a_reason_and_not_what_filled_it(train, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        die_at(patch, 1, 0)
        with pytest.raises(Killed):
            train("loss=pl")
    (path,) = (path for path in (tmp_path / "runs/covidA/pl").iterdir() if path.is_dir())
    filling = path / "last.ckpt.part"
    filling.write_text("half a checkpoint")
    real = Path.write_text

    def write_text(file, text, *rest, **named):
        if filling.is_file():
            raise OSError("No space left on device")
        return real(file, text, *rest, **named)

    monkeypatch.setattr(Path, "write_text", write_text)
    RunFolder(path).record_failure(OmegaConf.load(path / "config.yaml"), "OSError: No space left on device")
    assert RunFolder(path).failure() == "OSError: No space left on device"
    assert not list(path.glob("*.part"))
    assert (path / "last.ckpt").is_file()
