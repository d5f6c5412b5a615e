"""The network of a run: its weights, precision and device, and slices a batch at a time."""

import json
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cbseg import training
from cbseg.class_names import class_names
from cbseg.errors import InputError
from cbseg.prediction import predictor as predictor_module
from cbseg.prediction.predictor import Predictor


@pytest.fixture
def greys():
    return np.random.default_rng(0).integers(0, 256, (11, 40, 50), np.uint8)


def test_slices_come_in_order_and_alike_whatever_the_batch(on_volumes, greys, monkeypatch):
    predictor = Predictor(on_volumes)
    found = []
    for size in (1, 4, 11):
        monkeypatch.setattr(predictor_module, "_BATCH", {"cpu": size, "cuda": size})
        found.append(list(predictor.slices(len(greys), lambda k: greys[k], probabilities=True)))
    for one in found:
        assert [(slice_.image == grey).all() for slice_, grey in zip(one, greys, strict=True)] == [True] * 11
    for one, two in zip(found[0], found[-1], strict=True):
        assert np.abs(one.probabilities.astype(int) - two.probabilities).max() <= 2
    for slice_ in found[1]:
        assert slice_.probabilities.shape == (2, 40, 50)
        assert ((slice_.probabilities[1] > 128) <= (slice_.classes == 1)).all()
        assert ((slice_.probabilities[1] < 127) <= (slice_.classes == 0)).all()


def test_probabilities_are_given_where_they_are_asked_for(on_volumes, greys):
    assert next(Predictor(on_volumes).slices(1, lambda k: greys[k])).probabilities is None


def test_a_slice_that_cannot_be_read_is_raised(on_volumes, greys):
    def grey(k):
        if k == 9:
            raise InputError("slice 9: ends early")
        return greys[k]

    with pytest.raises(InputError, match="slice 9: ends early"):
        list(Predictor(on_volumes).slices(11, grey))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_the_network_runs_in_the_runs_precision(train, precision, dtype, greys):
    run = train("loss=pl", "trainer.max_epochs=1", "trainer.precision=32-true")
    config = OmegaConf.load(run / "config.yaml")
    config.trainer.precision = precision
    OmegaConf.save(config, run / "config.yaml")
    predictor = Predictor(run, device="cpu")
    seen = []
    predictor.net.features[0].register_forward_hook(lambda layer, args, output: seen.append(output.dtype))
    list(predictor.slices(1, lambda k: greys[k]))
    assert seen == [dtype]


def test_a_device_that_is_not_there_and_weights_that_do_not_exist_are_refused(on_volumes):
    with pytest.raises(InputError, match=r"device gpu7: is not to be had .*; give auto, cpu or cuda"):
        Predictor(on_volumes, device="gpu7")
    with pytest.raises(InputError, match="weights=worst does not exist; choose one of: best, last"):
        Predictor(on_volumes, weights="worst")


def test_the_last_epochs_weights_are_those_that_the_run_ended_with(train, monkeypatch):
    ended = {}
    real = training.test

    def test(trainer, module, datamodule, weights, stage):
        ended[stage] = torch.load(weights, weights_only=True)["state_dict"]
        return real(trainer, module, datamodule, weights, stage)

    monkeypatch.setattr(training, "test", test)
    settings = ["loss=full", "trainer.max_epochs=3", "selection.monitor=val/mae"]  # the first epoch's is least
    run = train(*settings, "keep_last=false")
    assert set(ended) == {"last", "test"}
    for weights, stage in (("last", "last"), ("best", "test")):
        state = Predictor(run, weights).net.state_dict()
        assert all(torch.equal(state[key], ended[stage][f"net.{key}"]) for key in state)
    assert not torch.equal(*(ended[stage]["net.score_fc7.weight"] for stage in ("last", "test")))
    (run / "last_weights.ckpt").unlink()
    with pytest.raises(InputError, match="kept no weights of its last epoch; take --weights best"):
        Predictor(run, "last")
    result = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(result | {"best_epoch": result["epochs"]}))
    assert torch.equal(Predictor(run, "last").net.score_fc7.weight, ended["test"]["net.score_fc7.weight"])


def test_classes_are_named_as_the_data_config_names_them(on_volumes, tmp_path):
    assert Predictor(on_volumes).classes == ("infection",)
    kinds = {"background": 0, "ggo": 1, "consolidation": 2, "effusion": 3}
    assert class_names(kinds, 4) == ("ggo", "consolidation", "effusion")
    assert class_names(None, 4) == ("class1", "class2", "class3")


def test_the_runs_decision_is_taken(on_volumes, greys, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(on_volumes, run)
    checkpoint = torch.load(run / "best.ckpt", weights_only=True)
    checkpoint["state_dict"]["decision.learned"] = torch.tensor([1 - 1e-6, 1e-6])
    torch.save(checkpoint, run / "best.ckpt")
    config = OmegaConf.load(run / "config.yaml")
    config.decision.rule = "prior"
    OmegaConf.save(config, run / "config.yaml")
    assert next(Predictor(run).slices(1, lambda k: greys[k])).classes.all()
