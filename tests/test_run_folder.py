"""The run folder: where it lies, when it counts as finished, and that nothing in it is lost."""

import json

import pytest
from omegaconf import OmegaConf

from cbseg.errors import InputError
from cbseg.json_file import write_json
from cbseg.provenance import provenance
from cbseg.run_folder import RunFolder
from cbseg.run_status import is_finished


def test_a_run_of_the_defaults_has_no_suffix():
    assert str(RunFolder.of("runs", "covidA", "pl", 3, "")) == "runs/covidA/pl/seed3"


def test_a_folder_tells_its_place():
    folder = RunFolder.of("runs", "covidA", "pl", 3, "optim=sps,optim.lr=1")
    assert folder.place == {"data": "covidA", "loss": "pl", "seed": "3", "settings": "optim=sps,optim.lr=1"}


@pytest.fixture
def finished(tmp_path):
    folder = RunFolder(tmp_path)
    OmegaConf.save(OmegaConf.create({"optim": {"lr": 0.1}, "runs": "here", "seed": 0}), folder.config)
    write_json(folder.metrics, {"test": {"dice": 0.5}})
    return folder


def test_a_folder_is_finished_when_its_metrics_are_there(finished):
    config = OmegaConf.create({"optim": {"lr": 0.1}, "runs": "elsewhere", "seed": 0})
    assert is_finished(finished, config)
    finished.metrics.unlink()
    assert not is_finished(finished, config)


def test_a_finished_run_of_another_config_is_an_error_that_names_the_keys(finished):
    with pytest.raises(InputError, match=r"optim\.lr was 0\.1, is 0\.2.*rerun=true"):
        is_finished(finished, OmegaConf.create({"optim": {"lr": 0.2}, "runs": "here", "seed": 0}))


def test_setting_aside_loses_nothing(tmp_path):
    folder = RunFolder(tmp_path / "pl" / "seed0")
    for content in ("first", "second"):
        folder.path.mkdir(parents=True)
        folder.best.write_text(content)
        folder.set_aside()
        assert not folder.path.exists()
    assert (tmp_path / "pl/old/seed0-1/best.ckpt").read_text() == "first"
    assert (tmp_path / "pl/old/seed0-2/best.ckpt").read_text() == "second"
    folder.set_aside()


def test_json_is_whole_and_holds_null_for_what_is_no_number(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"test": {"ppv": float("nan"), "dice": 0.5}})
    assert json.loads(path.read_text()) == {"test": {"ppv": None, "dice": 0.5}}
    assert [path.name for path in tmp_path.iterdir()] == [path.name]
    with pytest.raises(TypeError):
        write_json(path, {"test": object()})
    assert json.loads(path.read_text())["test"]["dice"] == 0.5


def test_the_provenance_names_versions_and_commit():
    found = provenance()
    assert found["versions"]["torch"]
    assert found["git"]["commit"] is None or len(found["git"]["commit"]) == 40
    assert found["git"]["dirty"] in (True, False, None)
