"""Composing configs: the paper's experiments, nested losses, and that every config composes."""

import pytest
import yaml

from cbseg.config import CONF, compose


@pytest.mark.parametrize("experiment", ["segmentation", "counting"])
def test_the_papers_experiments_sweep_exactly_its_tables(experiment, request):
    tables = yaml.safe_load((request.config.rootpath / "experiments/paper.yaml").read_text())[experiment]
    hydra = compose([f"experiment={experiment}"]).hydra
    assert set(hydra.sweeper.params.data.split(",")) == set(tables)
    for rows in tables.values():
        assert hydra.sweeper.params.loss.split(",") == [loss for loss in rows if loss != "table"]
    assert hydra.mode.name == "MULTIRUN"


def test_any_loss_can_stand_inside_the_consistency_wrapper():
    config = compose(["loss=cb_fliprot", "loss@loss.supervised=full"])
    assert config.loss.supervised._target_.endswith("WeightedBCEIoULoss")
    assert list(config.loss.transforms.rotations) == [0, 90, 180, 270]
    overrides = ["loss=cb_flip", "loss@loss.supervised=lcfcn"]
    assert compose(overrides).loss == compose(["loss=cb_lcfcn"]).loss


def test_every_config_composes():
    for group in ("data", "loss", "model", "optim", "protocol", "logger", "trainer", "experiment"):
        for path in (CONF / group).glob("*.yaml"):
            assert compose([f"{group}={path.stem}"])[group if group != "experiment" else "data"] is not None


def test_both_protocols_set_every_decision():
    paper, released = (compose([f"protocol={name}"]).protocol for name in ("paper", "released"))
    assert paper.keys() == released.keys()
    assert all(paper[key] != released[key] for key in paper)
