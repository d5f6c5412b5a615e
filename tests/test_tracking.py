"""The run folder's name, and when it counts as finished."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cbseg.config import compose, effective_overrides
from cbseg.errors import InputError
from cbseg.tracking import CONFIG, METRICS, environment, is_finished, run_folder, set_aside, settings_name, write_json

keys = st.sampled_from(["optim.lr", "data.root", "model.weights"])
values = st.text(string.ascii_letters + "/=,. é-", max_size=60)
overrides = st.dictionaries(keys, values).map(lambda pairs: [f"{key}={value}" for key, value in pairs.items()])


def test_default_settings_have_no_suffix():
    assert run_folder("runs", "covidA", "pl", 3, settings_name([])).as_posix() == "runs/covidA/pl/seed3"


@given(one=overrides, other=overrides)
def test_settings_names_are_file_names_equal_for_equal_sets_and_different_for_different_ones(one, other):
    name = settings_name(one)
    assert settings_name(reversed(one)) == name
    assert "/" not in name
    assert len(f"seed123,{name}".encode()) < 255
    assert (settings_name(other) == name) == (sorted(one) == sorted(other))


def test_overrides_that_change_nothing_or_only_where_things_lie_are_not_settings():
    given_ = ["data=covidA", "loss=pl", "seed=3", "optim=adam", "trainer.max_epochs=100", "runs=x", "store=y",
              "logger=csv", "data.num_workers=2", "rerun=true"]  # fmt: skip
    assert effective_overrides(given_) == []
    changing = ["optim.lr=0.001", "protocol=released", "model=fcn8_tiny", "+trainer.limit_train_batches=2"]
    without_plus = [override.lstrip("+") for override in changing]
    assert effective_overrides(given_ + changing) == without_plus


def test_equal_values_written_differently_are_one_setting_even_if_given_twice():
    assert effective_overrides(["optim.lr=1e-3"]) == effective_overrides(["optim.lr=0.001", "optim.lr=1e-3"])
    assert effective_overrides(["data.image_size=[64, 96]"]) == effective_overrides(["data.image_size=[64,96]"])
    assert effective_overrides(["optim=sps", "optim.beta=0.5"]) == ["optim=sps", "optim.beta=0.5"]
    assert effective_overrides(["experiment=demo", "optim=sps"]) == ["experiment=demo", "optim=sps"]
    assert compose(["experiment=demo", "optim=sps"]).optim.lr == 1.0


@pytest.fixture
def finished(tmp_path):
    config = OmegaConf.create({"optim": {"lr": 0.1}, "runs": "here", "seed": 0})
    OmegaConf.save(config, tmp_path / CONFIG)
    write_json(tmp_path / METRICS, {"test": {"dice": 0.5}})
    return tmp_path


def test_a_folder_is_finished_when_its_metrics_are_there(finished):
    config = OmegaConf.create({"optim": {"lr": 0.1}, "runs": "elsewhere", "seed": 0})
    assert is_finished(finished, config)
    (finished / METRICS).unlink()
    assert not is_finished(finished, config)


def test_a_finished_run_of_another_config_is_an_error_that_names_the_keys(finished):
    with pytest.raises(InputError, match=r"optim\.lr was 0\.1, is 0\.2.*rerun=true"):
        is_finished(finished, OmegaConf.create({"optim": {"lr": 0.2}, "runs": "here", "seed": 0}))


def test_setting_aside_loses_nothing(tmp_path):
    for content in ("first", "second"):
        folder = tmp_path / "pl" / "seed0"
        folder.mkdir(parents=True)
        (folder / "best.ckpt").write_text(content)
        set_aside(folder)
        assert not folder.exists()
    assert (tmp_path / "pl/old/seed0-1/best.ckpt").read_text() == "first"
    assert (tmp_path / "pl/old/seed0-2/best.ckpt").read_text() == "second"
    set_aside(tmp_path / "pl" / "seed0")


def test_json_is_whole_and_holds_null_for_what_is_no_number(tmp_path):
    write_json(tmp_path / METRICS, {"test": {"ppv": float("nan"), "dice": 0.5}})
    assert json.loads((tmp_path / METRICS).read_text()) == {"test": {"ppv": None, "dice": 0.5}}
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]
    with pytest.raises(TypeError):
        write_json(tmp_path / METRICS, {"test": object()})
    assert json.loads((tmp_path / METRICS).read_text())["test"]["dice"] == 0.5


def test_the_environment_names_versions_and_commit():
    found = environment()
    assert found["versions"]["torch"]
    assert found["git"]["commit"] is None or len(found["git"]["commit"]) == 40
    assert found["git"]["dirty"] in (True, False, None)


def test_both_protocols_set_every_decision():
    paper, released = (compose([f"protocol={name}"]).protocol for name in ("paper", "released"))
    assert paper.keys() == released.keys()
    assert all(paper[key] != released[key] for key in paper)
