"""What makes two runs the same, and what they are called: by what they change, however it was written."""

import string
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cbseg.config import compose
from cbseg.job import Job
from cbseg.run_name import changes, file_name, flat, name_of

keys = st.sampled_from(["optim.lr", "data.name", "model.weights"])
values = st.text(string.ascii_letters + "/=,. é-", max_size=60)
changed = st.dictionaries(keys, values)


def change(*overrides):
    return changes(Job.of(overrides).config, overrides)


@given(one=changed, other=changed)
def test_names_are_file_names_equal_for_equal_changes_and_different_for_different_ones(one, other):
    name = name_of(one)
    assert name_of(dict(reversed(one.items()))) == name
    assert "/" not in name
    assert len(f"seed123,{name}".encode()) < 255
    assert (name_of(other) == name) == (one == other)


@given(st.text(max_size=400))
def test_any_text_becomes_a_file_name_that_leads_nowhere_else(text):
    name = file_name(text)
    assert "/" not in name
    assert not name.startswith(".")
    assert len(name.encode()) < 255


def test_overrides_that_change_no_result_name_nothing():
    free = [
        "data=covidA", "loss=pl", "seed=3", "optim=adam", "trainer.max_epochs=100", "runs=x", "store=y", "logger=csv",
        "data.num_workers=2", "rerun=true", "overlays=0", "trainer.enable_model_summary=true", "data.root=/elsewhere",
        "data_dir=/elsewhere", "trainer.log_every_n_steps=7", "experiment=counting",
    ]  # fmt: skip
    assert change(*free) == {}
    assert Job.of(free).keys == Job.of(["data=covidA", "loss=pl"]).keys
    changing = ["optim.lr=0.001", "protocol=released", "model=fcn8_tiny", "+trainer.limit_train_batches=2"]
    assert change(*free, *changing) == {
        "optim.lr": "0.001", "protocol": "released", "model": "fcn8_tiny", "trainer.limit_train_batches": "2",
    }  # fmt: skip


def test_equal_values_written_differently_are_one_change_even_if_given_twice():
    assert change("optim.lr=1e-3") == change("optim.lr=0.001", "optim.lr=1e-3") == {"optim.lr": "0.001"}
    assert change("data.image_size=[64, 96]") == change("data.image_size=[64,96]")
    assert change("optim=sps", "optim.beta=0.5") == {"optim": "sps", "optim.beta": "0.5"}
    assert change("experiment=demo", "optim=sps") == {"experiment": "demo", "optim": "sps"}
    assert compose(["experiment=demo", "optim=sps"]).optim.lr == 1.0


def test_overrides_that_add_up_to_the_defaults_are_the_defaults():
    assert change("optim=adam_fast", "optim.lr=1e-4") == {}


def test_dict_overrides_are_named_by_what_they_change():
    assert change("loss=pl", "loss={reduction:batch}") == {"loss.reduction": "batch"}
    assert change("data={batch_size:1,image_size:96,num_workers:2,drop_last:false}") == {
        "data.batch_size": "1", "data.image_size": "96",
    }  # fmt: skip
    names = [Job.of(["loss=pl", f"loss={{reduction:{way}}}"]).settings for way in ("batch", "image")]
    assert names == ["loss.reduction=batch", ""]


def test_values_with_signs_of_their_own_are_not_cut():
    assert change("model.weights='a=b,c/d.pth'") == {"model.weights": "a=b,c/d.pth"}
    assert change("~optim.fused") == {"~optim.fused": ""}
    assert change("loss=cb_flip", "loss@loss.supervised=lcfcn") == {"loss@loss.supervised": "lcfcn"}


@pytest.mark.parametrize("override", ["data.split.fold=${seed}", "data.annotate.seed=${data.seed}"])
def test_values_that_refer_to_the_seed_are_one_setting_for_all_seeds(override):
    jobs = [Job.of(["data=covidA_cv", f"seed={seed}", override]) for seed in (0, 1)]
    assert jobs[0].settings == jobs[1].settings != ""
    assert jobs[0].keys == jobs[1].keys
    assert jobs[0].keys[override.split("=")[0]] == "${seed}"


def test_the_seed_is_no_result_key_and_neither_is_what_follows_from_it():
    one, other, fixed = (Job.of(overrides).keys for overrides in (["seed=1"], ["seed=2"], ["data.seed=1", "seed=1"]))
    assert one == other != fixed
    assert "seed" not in one
    assert one["data.seed"] == "${seed}"


def test_the_order_of_overrides_is_no_setting():
    overrides = ["optim.lr=0.001", "optim=adam_fast", "optim.betas=[0.9,0.9]"]
    assert len({Job.of(order).settings for order in permutations(overrides)}) == 1


def test_a_path_is_one_setting_however_it_is_written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    keys = [
        flat(OmegaConf.create({"model": {"weights": path}}))["model.weights"]
        for path in ("d/vgg.pth", "./d/vgg.pth", f"{tmp_path}/d/vgg.pth", "d/../d//vgg.pth", f"{tmp_path}/d/vgg.pth/")
    ]
    assert set(keys) == {"d/vgg.pth"}
    others = {"a": "https://a/b", "b": "val/dice", "c": "/elsewhere/d"}
    assert flat(OmegaConf.create(others)) == others
