"""Composing configs: the paper's experiments, nested losses, and which overrides name a run's settings."""

from itertools import permutations

import pytest
import yaml

from cbseg.config import CONF, compose, effective_overrides
from cbseg.tracking import settings_name


@pytest.mark.parametrize("experiment", ["segmentation", "counting"])
def test_the_papers_experiments_sweep_exactly_its_tables(experiment, request):
    tables = yaml.safe_load((request.config.rootpath / "experiments/paper.yaml").read_text())[experiment]
    hydra = compose([f"experiment={experiment}"]).hydra
    assert set(hydra.sweeper.params.data.split(",")) == set(tables)
    for rows in tables.values():
        assert hydra.sweeper.params.loss.split(",") == [loss for loss in rows if loss != "table"]
    assert hydra.mode.name == "MULTIRUN"


def test_an_experiment_that_only_sweeps_is_no_setting_so_tables_share_their_runs():
    assert effective_overrides(["experiment=counting", "loss=pl", "data=covidB_mixed"]) == []


def test_overrides_that_refer_to_others_stay_as_they_are_written():
    for seed in (0, 1):
        overrides = ["data=covidA_cv", f"seed={seed}", "data.split.fold=${seed}"]
        assert effective_overrides(overrides) == ["data.split.fold=${seed}"]


def test_the_order_of_overrides_is_no_setting():
    overrides = ["optim.lr=0.001", "optim=adam_fast", "optim.betas=[0.9,0.9]"]
    assert len({settings_name(effective_overrides(order)) for order in permutations(overrides)}) == 1


def test_any_loss_can_stand_inside_the_consistency_wrapper():
    config = compose(["loss=cb_fliprot", "loss@loss.supervised=full"])
    assert config.loss.supervised._target_.endswith("WeightedBCEIoULoss")
    assert list(config.loss.transforms.rotations) == [0, 90, 180, 270]
    overrides = ["loss=cb_flip", "loss@loss.supervised=lcfcn"]
    assert effective_overrides(overrides) == ["loss@loss.supervised=lcfcn"]
    assert compose(overrides).loss == compose(["loss=cb_lcfcn"]).loss


def test_every_config_composes():
    for group in ("data", "loss", "model", "optim", "protocol", "logger", "trainer", "experiment"):
        for path in (CONF / group).glob("*.yaml"):
            assert compose([f"{group}={path.stem}"])[group if group != "experiment" else "data"] is not None
