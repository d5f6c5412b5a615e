"""How classes are decided: test-time averaging over views, and the correction for how common classes are."""

import math

import pytest
import torch
from torch import nn

from cbseg.config import build, compose
from cbseg.decision import TTA, Decision, estimate_prior
from cbseg.errors import InputError
from cbseg.parts import build_module
from cbseg.prediction.predictor import Predictor
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


def of_odds(odds, shape):
    """Logits of one image of these log-odds."""
    return torch.stack([torch.zeros_like(odds), odds]).view(1, 2, *shape)


def decided(logits, shares):
    decision = Decision(2, rule="prior")
    decision.learn(torch.tensor(shares))
    return decision(nn.Identity(), logits).argmax(1)


@pytest.mark.parametrize("share", [0.05, 0.15, 0.5])
def test_the_prior_of_an_image_is_found_without_its_mask_and_corrects_the_decision(share):
    truth, odds = from_labels(share, 200_000, torch.Generator().manual_seed(0))
    logits = of_odds(odds, (400, 500))
    prior = estimate_prior(logits.softmax(1), torch.tensor([0.5, 0.5]))
    assert prior.sum().item() == pytest.approx(1)
    assert prior[0, 1].item() == pytest.approx(share, abs=0.01)
    right = decided(logits, [0.5, 0.5]).flatten() == truth
    gained = right.float().mean() - (odds > 0).eq(truth).float().mean()
    assert gained > 0.05 if share < 0.5 else gained > -0.001


def test_each_image_has_a_prior_of_its_own():
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([of_odds(from_labels(share, 10_000, generator)[1], (100, 100)) for share in (0.05, 0.5)])
    together = decided(images, [0.5, 0.5])
    assert together.equal(torch.cat([decided(image[None], [0.5, 0.5]) for image in images]))


def test_the_prior_of_three_classes_is_found():
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.8, 0.05, 0.15])
    truth = torch.multinomial(shares, 200_000, replacement=True, generator=generator)
    logits = torch.randn(3, 200_000, generator=generator)
    logits[truth, torch.arange(200_000)] += 2  # of normals with means of 0 and 2, the log-likelihood is twice the score
    probs = (2 * logits).softmax(0).view(1, 3, 400, 500)
    torch.testing.assert_close(estimate_prior(probs, torch.full((3,), 1 / 3))[0], shares, atol=0.005, rtol=0)


def test_labels_as_common_as_the_pixels_need_no_correction():
    _, odds = from_labels(0.2, 100_000, torch.Generator().manual_seed(1))
    logits = of_odds(odds + math.log(0.2 / 0.8), (250, 400))
    prior = estimate_prior(logits.softmax(1), torch.tensor([0.8, 0.2]))
    assert prior[0, 1].item() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("certainty", [5.0, 200.0])
def test_an_image_without_infection_has_none_and_finite_logits(certainty):
    logits = of_odds(torch.full((2500,), -certainty), (50, 50))
    decision = Decision(2, rule="prior")
    given = decision(nn.Identity(), logits)
    assert given.isfinite().all()
    assert not given.argmax(1).any()


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


def test_a_run_decides_by_the_shares_of_its_labels_which_stay_with_all_its_weights(train):
    plain = metrics(train("loss=full", "selection.monitor=last"))
    folder = train("loss=full", "selection.monitor=last", "decision.rule=prior")
    kept = [Predictor(folder, weights, "cpu").decision.learned for weights in ("best", "last")]
    assert kept[0].equal(kept[1])
    assert kept[0][1] < 0.49
    assert metrics(folder)["counts"] != plain["counts"]
    assert metrics(folder)["val"] == plain["val"]


COUNTS = torch.tensor([[1.0, 1.0], [10_000.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("overrides", "infected"),
    [
        (["loss=pl"], 0.25),
        (["loss=pl", "protocol.reduction=batch"], 1 / 10_002),
        (["loss=cb_zoom"], 0.25),
        (["loss=cb_zoom", "protocol.reduction=batch"], 1 / 10_002),
        (["loss=full"], 0.25),
    ],
)
def test_shares_of_labels_are_those_that_minimise_the_loss(overrides, infected):
    shares = build(compose(overrides).loss, "loss").shares(COUNTS)
    torch.testing.assert_close(shares, torch.tensor([1 - infected, infected]))


def test_a_run_tests_the_average_of_views(train):
    plain, averaged = (metrics(train("loss=pl", f"decision.tta={tta}")) for tta in ("none", "dihedral"))
    assert averaged["counts"] != plain["counts"]
    assert averaged["val"] == plain["val"]


def test_flips_and_rotations_are_told_apart():
    assert len(set(TTA["dihedral"])) == 8
    assert set(TTA["none"]) < set(TTA["flips"]) < set(TTA["dihedral"])
    assert FlipRotation(False, 0) in TTA["none"]
