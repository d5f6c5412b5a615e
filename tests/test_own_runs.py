"""Whole runs on people's own CT: without masks, with more clicks by the same command, with several classes."""

import json
import shutil

import pytest
import torch

from cbseg.data import phantom
from cbseg.data.phantom_own import write_clicks
from cbseg.job import Job
from cbseg.training import run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("own") / "own"
    phantom.generate(root, "own", scans=3, size=32)
    return root


@pytest.fixture
def own(drawn, tmp_path, caplog):
    """``own("loss=pl", …)`` trains on a copy of the phantom, ``own.root``, and gives the run's folder."""
    caplog.set_level("INFO", "cbseg")
    root = shutil.copytree(drawn, tmp_path / "my_ct")

    def one(*overrides):
        overrides = [
            "data=own", "experiment=phantom", "logger=csv", "trainer.enable_progress_bar=false", "trainer.max_epochs=2",
            "data.image_size=32", "data.generate=null", f"data.root={root}", "overlays=2", "loss=pl",
            f"runs={tmp_path / 'runs'}", f"store={tmp_path / 'store'}", *overrides,
        ]  # fmt: skip
        return run(Job.of(overrides))

    one.root = root
    return one


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_without_masks_a_run_takes_the_last_epoch_and_says_what_held_out_clicks_tell(own, caplog):
    found = metrics(own())
    assert "the last one's weights are taken (selection.monitor=last)" in caplog.text
    assert "test at held-out clicks: sensitivity" in caplog.text
    assert "dice 0" not in caplog.text
    assert found["best_epoch"] == found["epochs"] == 2
    counts = found["counts"]
    assert counts["tp"] + counts["fn"] == counts["fp"] + counts["tn"] - 32 * 32 * counts["whole"]
    assert all(found["test"][name] is None for name in ("dice", "iou", "ppv"))
    assert "known at a few pixels only" in found["undefined"]["dice"]


def test_more_clicks_train_anew_by_the_same_command_and_the_former_run_is_kept(own, caplog):
    first = metrics(folder := own())
    assert metrics(own()) == first
    assert "finished before, skipped" in caplog.text
    write_clicks(own.root, every=1)
    second = metrics(own())
    assert "its clicks, or its scans, are others now: trains anew, and the former run is kept in old/" in caplog.text
    assert second["split"]["train"] > 1.8 * first["split"]["train"]
    assert metrics(folder.parent / "old" / f"{folder.name}-1") == first


def test_an_unfinished_run_on_other_clicks_begins_anew(own, caplog, monkeypatch):
    monkeypatch.setattr("cbseg.training.record", lambda *_: None)  # as if it had been stopped before
    folder = own()
    assert torch.load(folder / "last.ckpt", weights_only=True)["SliceDataModule"]
    write_clicks(own.root, every=1)
    monkeypatch.undo()
    caplog.set_level("INFO", "cbseg")
    assert metrics(own())["epochs"] == 2
    assert (folder.parent / "old" / f"{folder.name}-1" / "last.ckpt").is_file()
