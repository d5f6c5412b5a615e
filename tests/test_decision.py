"""How classes are decided: test-time averaging over views, and the correction for how common classes are."""

import math

import pytest
import torch
from torch import nn

from cbseg.config import build, compose
from cbseg.decision import TTA, Decision
from cbseg.errors import InputError
from cbseg.parts import build_module
from cbseg.transforms import FlipRotation
from tests.test_training import metrics


def lopsided():
    """A network that is equivariant to nothing."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 2, 3, padding=1)


@pytest.mark.parametrize(("tta", "views"), [("none", 1), ("flips", 4), ("dihedral", 8)])
def test_averaging_is_the_mean_of_the_probabilities_of_all_views_turned_back(tta, views):
    net, image = lopsided(), torch.rand(2, 3, 8, 8)
    assert len({(view.flip, view.quarter_turns) for view in TTA[tta]}) == views
    expected = torch.stack([view.inverse()(net(view(image)).softmax(1)) for view in TTA[tta]]).mean(0)
    torch.testing.assert_close(Decision(2, tta)(net, image).softmax(1), expected)


@pytest.mark.parametrize("tta", ["flips", "dihedral"])
def test_the_average_turns_with_the_image(tta):
    decision, net, image = Decision(2, tta), lopsided(), torch.rand(1, 3, 8, 8)
    for view in TTA[tta]:
        torch.testing.assert_close(decision(net, view(image)), view(decision(net, image)))


def test_an_image_that_is_not_square_is_turned_and_turned_back():
    net, image = lopsided(), torch.rand(1, 3, 6, 10)
    assert Decision(2, "dihedral")(net, image).shape == (1, 2, 6, 10)


def test_certain_views_that_contradict_each_other_give_finite_logits():
    def certain(image):
        left = torch.zeros(1, 2, 4, 4)
        left[:, 0, :, :2], left[:, 1, :, 2:] = 2000, 2000
        return left

    logits = Decision(2, "flips")(certain, torch.rand(1, 3, 4, 4))
    assert logits.isfinite().all()


def from_labels(share, count, generator):
    """Log-odds of a binormal test, rightly calibrated where both classes are as common."""
    truth = torch.rand(count, generator=generator) < share
    score = torch.randn(count, generator=generator) + 1.5 * truth.float()
    return truth, 1.5 * score - 1.5**2 / 2


@pytest.mark.parametrize("share", [0.05, 0.15, 0.5])
def test_the_prior_of_unlabelled_pixels_is_found_and_corrects_the_decision(share):
    truth, odds = from_labels(share, 200_000, torch.Generator().manual_seed(0))
    images = torch.stack([torch.zeros_like(odds), odds]).view(1, 2, 400, 500)
    decision = Decision(2, rule="prior")
    prior = decision.estimate(nn.Identity(), images.split(1), torch.tensor([0.5, 0.5]))
    assert prior.sum().item() == pytest.approx(1)
    assert prior[1].item() == pytest.approx(share, abs=0.01)
    assert decision.correction.diff().item() == pytest.approx(math.log(prior[1] / prior[0]), rel=1e-5)
    right = decision(nn.Identity(), images).argmax(1).flatten() == truth
    uncorrected = images.argmax(1).flatten() == truth
    gained = right.float().mean() - uncorrected.float().mean()
    assert gained > 0.05 if share < 0.5 else gained > -0.001


def test_labels_as_common_as_the_pixels_need_no_correction():
    _, odds = from_labels(0.2, 100_000, torch.Generator().manual_seed(1))
    odds = odds + math.log(0.2 / 0.8)
    decision = Decision(2, rule="prior")
    decision.estimate(
        nn.Identity(), [torch.stack([torch.zeros_like(odds), odds]).view(1, 2, 250, 400)], torch.tensor([0.8, 0.2])
    )
    assert decision.correction.abs().max() < 0.05


def test_an_estimate_that_runs_into_nothing_is_warned_of(caplog):
    images = torch.stack([torch.full((50, 50), 20.0), torch.zeros(50, 50)])[None]
    prior = Decision(2, rule="prior").estimate(nn.Identity(), [images], torch.tensor([0.5, 0.5]))
    assert "class 1 was estimated to be" in caplog.text
    assert prior.min() == pytest.approx(1e-3)


@pytest.mark.parametrize("setting", [{"tta": "all"}, {"rule": "dice"}])
def test_what_does_not_exist_is_refused(setting):
    (key,) = setting
    with pytest.raises(InputError, match=f"{key}="):
        Decision(**setting)


def test_a_loss_whose_probabilities_are_not_those_of_labels_takes_no_prior():
    for loss, given in (("lcfcn", None), ("cb_lcfcn", None), ("full", "mask"), ("cb_fliprot", "points")):
        config = compose([f"loss={loss}", "decision.rule=prior", "model=fcn8_tiny"])
        assert build(config.loss, "loss").labels == given
        if given is None:
            with pytest.raises(InputError, match="decision.rule=prior: this loss"):
                build_module(config)


def test_a_run_keeps_its_correction_with_the_weights_that_it_tested(train, caplog):
    plain = metrics(train("loss=pl", "trainer.max_epochs=3", "trainer.precision=32-true"))
    folder = train("loss=pl", "trainer.max_epochs=3", "trainer.precision=32-true", "decision.rule=prior")
    kept = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]["decision.correction"]
    assert kept.abs().max() > 0
    assert "of all pixels" in caplog.text
    assert metrics(folder)["counts"] != plain["counts"]
    assert metrics(folder)["val"] == plain["val"]


def test_a_run_tests_the_average_of_views(train):
    plain, averaged = (metrics(train("loss=pl", f"decision.tta={tta}")) for tta in ("none", "dihedral"))
    assert averaged["counts"] != plain["counts"]
    assert averaged["val"] == plain["val"]


def test_flips_and_rotations_are_told_apart():
    assert len(set(TTA["dihedral"])) == 8
    assert set(TTA["none"]) < set(TTA["flips"]) < set(TTA["dihedral"])
    assert FlipRotation(False, 0) in TTA["none"]
