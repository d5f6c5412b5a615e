"""Whole runs on people's own CT: without masks, with more clicks by the same command, with several classes."""

import json
import shutil

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.morphology import skeletonize
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from cbseg.config import config_files
from cbseg.data.phantom_files import draw_volume, write_nifti
from cbseg.data.phantom_own import write_clicks
from cbseg.job import Job
from cbseg.points import IGNORE, resize_points
from cbseg.training import run
from experiments import tables


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


def strokes(mask):
    """Scribble as ACDC's annotators did: a line of three pixels within each class, and 4 where nobody looked."""
    scribbled = np.full(mask.shape, 4, np.uint8)
    for k, plane in enumerate(mask):
        for value in np.unique(plane):
            skeleton = skeletonize(binary_erosion(plane == value, iterations=2))
            scribbled[k][binary_dilation(skeleton) & (plane == value)] = value
    return scribbled


def test_a_dataset_that_brings_scribbles_and_more_classes_is_one_file_and_one_yaml(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "cbseg")
    (tmp_path / "scribbled.py").write_text(
        "from pathlib import Path\n"
        "from cbseg.data.volume_scan import nifti_scan\n\n\n"
        "def find_scans(root, classes=None, window=(-1250, 250)):\n"
        "    labels = {1: 1, 2: 2, 4: 255}\n"
        "    return [nifti_scan(f.name[:3], f, f.with_name(f.name.replace('ct', 'scribbles')), labels)\n"
        "            for f in sorted(Path(root).glob('*ct.nii.gz'))]\n"
    )
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "scribbled.yaml").write_text(
        "name: scribbled\n"
        "find_scans: {_target_: scribbled.find_scans, _partial_: true, classes: {ggo: 1, consolidation: 2}}\n"
        "split: {_target_: cbseg.data.splits.by_scan, _partial_: true, train: 2, val: 1, test: 1}\n"
        "annotate: {sampler: known}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "data").mkdir()
    disagree = known = 0
    for k in range(1, 5):
        hu, mask = draw_volume(0, k, slices=20, size=64)
        annotation = strokes(mask) if k < 3 else mask
        for name, volume in (("ct", hu), ("scribbles", annotation)):
            write_nifti(tmp_path / "data" / f"s_{k}{name}.nii.gz", volume, mirrored=False)
        for scribbled, plane in zip(annotation, mask, strict=True):
            points = resize_points(np.where(scribbled == 4, IGNORE, scribbled).astype(np.uint8), (48, 48))
            truth = resize(torch.from_numpy(plane)[None], [48, 48], InterpolationMode.NEAREST_EXACT)[0].numpy()
            disagree += int((points != truth)[points != IGNORE].sum())
            known += int((points != IGNORE).sum())
    assert disagree < 0.05 * known
    places = [f"data.root={tmp_path / 'data'}", f"runs={tmp_path / 'runs'}", f"store={tmp_path / 'store'}"]
    small = ["trainer.max_epochs=1", "data.image_size=48", "data.generate=null", "overlays=1", "logger=csv"]
    with config_files(str(tmp_path / "conf")):
        folder = run(Job.of(["data=scribbled", "experiment=phantom", "loss=pl", *small, *places]))
    found = metrics(folder)
    assert found["keys"]["model.num_classes"] == 3
    assert len(found["counts"]["tp"]) == 2
    assert "segmentation by class" in tables.write(tmp_path / "runs")
    assert "consolidation" in (tmp_path / "runs/tables/tables.md").read_text()


@pytest.mark.parametrize("loss", ["lcfcn", "cb_lcfcn", "cb_fliprot"])
def test_a_loss_that_takes_what_is_not_clicked_for_background_says_so(own, caplog, loss):
    own(f"loss={loss}", "trainer.max_epochs=1")
    assert caplog.text.count("takes what nobody clicked on for background") == ("lcfcn" in loss)
