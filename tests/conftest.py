"""What several tests share: a small phantom, and one-run configs on it."""

import logging
import os
import sys
from pathlib import Path

import pytest

os.environ["WANDB_MODE"] = "offline"

from cbseg import predict as predict_module
from cbseg.data import phantom
from cbseg.data.phantom_files import draw_volume
from cbseg.job import Job
from cbseg.training import run

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def covid_a(tmp_path_factory):
    """A phantom in COVID-19-A's layout: 8 slices train, of which 2 validate in the tests, and 8 test."""
    root = tmp_path_factory.mktemp("phantom") / "covidA"
    phantom.generate(root, "covidA", scans=16, seed=0, size=120)
    return root


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A phantom of people's own CT: chest1, chest3 (NIfTI), patient2 with clicks, and patient4 (DICOM) without."""
    root = tmp_path_factory.mktemp("drawn") / "own"
    phantom.generate(root, "own", scans=4, size=32)
    return root


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Where the session's prepared slices go."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def job(covid_a, store, tmp_path):
    """Compose a job: ``job("loss=pl", …)``. Two epochs, 64 pixels, no W&B."""

    def one(*overrides):
        overrides = [
            "experiment=phantom", "logger=csv", "trainer.enable_progress_bar=false", "trainer.max_epochs=2",
            "data.image_size=64", "data.split.val=2", "data.generate=null", f"data.root={covid_a}",
            f"runs={tmp_path / 'runs'}", f"store={store}", *overrides,
        ]  # fmt: skip
        return Job.of(overrides)

    return one


@pytest.fixture
def train(job, caplog):
    """Train a job in this process: ``train("loss=pl", …)`` gives the run's folder."""
    caplog.set_level(logging.INFO, "cbseg")
    return lambda *overrides: run(job(*overrides))


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and weights beside the checkout; tests that need it are skipped where it is not."""
    if not (SHARED / "data" / "covidA").is_dir():
        pytest.skip(f"no real data in {SHARED}")
    return SHARED


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


@pytest.fixture(scope="session")
def chest():
    """HU of a phantom, from foot to head."""
    return draw_volume(4, 1, slices=21, size=64)[0]


@pytest.fixture(scope="session")
def on_volumes(tmp_path_factory):
    """A run on volumes whose network is as it began."""
    folder = tmp_path_factory.mktemp("volumes")
    phantom.generate(folder / "covidB", "covidB", scans=3, seed=4, size=32)
    split = ["data.split.train=1", "data.split.val=1", "data.split.test=1"]
    settings = ["experiment=phantom", "logger=csv", "trainer.enable_progress_bar=false", "trainer.max_epochs=1"]
    data = ["data=covidB_sep", "data.generate=null", f"data.root={folder / 'covidB'}", "data.image_size=64", *split]
    return run(Job.of([*settings, *data, "loss=full", f"runs={folder / 'runs'}", f"store={folder / 'store'}"]))
