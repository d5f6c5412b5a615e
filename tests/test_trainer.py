"""Lightning's Trainer as a run gets it: callbacks that the config adds, and arguments that it refuses."""

import json

import pytest
import pytorch_lightning as pl
import torch

from cbseg.errors import InputError
from cbseg.parts import prepare

EMA = "{_target_:pytorch_lightning.callbacks.EMAWeightAveraging,decay:0.5}"


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


class Unreadable(pl.Callback):
    """Keeps what only code can read back."""

    def state_dict(self):
        return {"kept": self}


@pytest.mark.parametrize(
    "given", ["+trainer.callbacks={ema:%s}", "trainer.callbacks={ema:%s}", "+trainer.callbacks=[%s]"]
)
def test_callbacks_of_the_config_come_before_the_runs_own(job, given):
    trainer = prepare(job("loss=pl", given % EMA)).trainer
    names = [type(callback).__name__ for callback in trainer.callbacks]
    assert names[0] == "EMAWeightAveraging"
    assert names[-1] == "RunState"


def test_a_callback_is_added_to_those_of_another_config_and_one_is_left_out_by_null(job):
    overrides = [f"+trainer.callbacks={{ema:{EMA},other:{EMA}}}", "trainer.callbacks.other=null"]
    trainer = prepare(
        job("loss=pl", *overrides, "+trainer.callbacks.freeze._target_=pytorch_lightning.Callback")
    ).trainer
    assert [type(callback).__name__ for callback in trainer.callbacks[:2]] == ["EMAWeightAveraging", "Callback"]


def test_the_tested_weights_are_those_that_a_callback_averaged_and_validation_scored(train, job):
    settings = ["loss=pl", f"+trainer.callbacks.ema={EMA}", "trainer.max_epochs=3"]
    folder = train(*settings)
    assert metrics(folder)["val"] != metrics(train("loss=pl", "trainer.max_epochs=3"))["val"]
    parts = prepare(job(*settings))
    weights = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
    parts.module.load_state_dict(weights)
    (scores,) = parts.trainer.validate(parts.module, datamodule=parts.datamodule, verbose=False)
    assert scores["val/dice"] == pytest.approx(metrics(folder)["val"]["val/dice"], abs=1e-6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[{_target_:no.Such}]", r"trainer.callbacks\[0\]._target_=no.Such: cannot be imported"),
        ("{ema:{decay:0.5}}", r"trainer.callbacks.ema=.*_target_"),
        ("{_target_:pytorch_lightning.Callback}", r"trainer.callbacks._target_=pytorch_lightning.Callback: give"),
        ("3", r"trainer.callbacks=3: give"),
        ("{relu:{_target_:torch.nn.ReLU}}", r"trainer.callbacks.relu: ReLU is no pytorch_lightning.Callback"),
        ("{stop:{_target_:pytorch_lightning.callbacks.EarlyStopping,monitr:x}}", r"trainer.callbacks.stop: .*monitr"),
        ("{swa:{_target_:pytorch_lightning.callbacks.StochasticWeightAveraging,swa_lrs:0.1}}", "WeightAveraging"),
        (
            "{size:{_target_:pytorch_lightning.callbacks.BatchSizeFinder}}",
            "trainer.callbacks.size: BatchSizeFinder changes",
        ),
        (
            "{lr:{_target_:pytorch_lightning.callbacks.LearningRateFinder}}",
            "trainer.callbacks.lr: LearningRateFinder .*optim.lr",
        ),
        ("{clock:{_target_:pytorch_lightning.callbacks.Timer}}", r"trainer.callbacks.clock: the run has a Timer"),
        ("{clock:{_target_:pytorch_lightning.callbacks.Timer,duration:3}}", r"trainer.callbacks.clock: AttributeError"),
    ],
)
def test_what_is_no_callback_of_a_run_is_refused_by_its_path(job, given, expected):
    with pytest.raises(InputError, match=expected):
        prepare(job("loss=pl", f"+trainer.callbacks={given}"))


def test_a_callback_whose_state_cannot_be_read_back_ends_the_run_at_its_first_epoch(train):
    with pytest.raises(InputError, match=r"last.ckpt: is damaged or not a file of plain tensors"):
        train("loss=pl", "+trainer.callbacks.x._target_=tests.test_trainer.Unreadable")
