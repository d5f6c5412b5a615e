"""The gated CRF against its formula pair by pair, its gradient, its place inside other losses, and its edges."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cbseg.config import build, compose
from cbseg.data.preprocess import grey_values, normalise
from cbseg.errors import InputError
from cbseg.losses.consistency import Consistency
from cbseg.losses.gated_crf import GatedCRF, gated_crf_energy
from cbseg.losses.point import PointLoss
from cbseg.points import IGNORE


def literal(probs, grey, radius, sigma_xy, sigma_grey):
    """Every ordered pair of neighbours, one after the other."""
    total, (_, _, height, width) = 0.0, probs.shape
    for p, image in zip(probs, grey, strict=True):
        for i in range(height):
            for j in range(width):
                for k in range(max(i - radius, 0), min(i + radius + 1, height)):
                    for m in range(max(j - radius, 0), min(j + radius + 1, width)):
                        if (i, j) != (k, m):
                            unlike = (image[i, j] - image[k, m]) ** 2 / (2 * sigma_grey**2)
                            far = ((i - k) ** 2 + (j - m) ** 2) / (2 * sigma_xy**2)
                            total = total + math.exp(-far - unlike) * (1 - (p[:, i, j] * p[:, k, m]).sum())
    return total / grey.numel()


@pytest.mark.parametrize("classes", [2, 3])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), radius=st.integers(1, 3))
def test_energy_and_gradient_equal_the_formula_pair_by_pair(classes, seed, radius):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 6, 5, generator=generator, dtype=torch.float64)
    grey = torch.rand(2, 6, 5, generator=generator, dtype=torch.float64)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    energy = gated_crf_energy(ours.softmax(1), grey, radius, 2.0, 0.3)
    expected = literal(theirs.softmax(1), grey, radius, 2.0, 0.3)
    assert energy.item() == pytest.approx(expected.item(), rel=1e-12)
    energy.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(1, 5, 7, generator=generator, dtype=torch.float64)
    logits = torch.randn(1, 2, 5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gated_crf_energy(x.softmax(1), grey, 2), logits)


def test_an_edge_of_grey_costs_nothing_and_one_inside_a_like_area_does():
    grey = torch.zeros(1, 16, 16)
    grey[:, :, 8:] = 0.5
    at = lambda column: torch.stack([(torch.arange(16) < column).float().expand(16, 16)] * 2)[None]  # noqa: E731
    halves = {column: torch.cat([at(column)[:, :1], 1 - at(column)[:, :1]], 1) for column in (8, 4)}
    assert gated_crf_energy(halves[8], grey) < 1e-6
    assert gated_crf_energy(halves[4], grey) > 1


def test_it_is_consistent_under_flips_and_quarter_turns():
    generator = torch.Generator().manual_seed(1)
    probs, grey = torch.rand(1, 2, 12, 12, generator=generator).softmax(1), torch.rand(1, 12, 12, generator=generator)
    for turn in (lambda x: x.flip(-1), lambda x: x.rot90(1, (-2, -1))):
        turned = gated_crf_energy(turn(probs), turn(grey))
        assert turned.item() == pytest.approx(gated_crf_energy(probs, grey).item(), rel=1e-5)


def test_it_stands_inside_consistency_by_config_alone():
    config = compose(["loss=cb_fliprot", "loss@loss.supervised=pl_crf", "data.image_size=32"])
    assert config.loss == compose(["loss=cb_crf", "data.image_size=32"]).loss
    loss = build(config.loss, "loss")
    assert isinstance(loss, Consistency)
    assert isinstance(loss.supervised, GatedCRF)
    image = normalise(torch.randint(0, 256, (2, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    points = torch.full((2, 32, 32), 255)
    points[:, 4, 4], points[:, 9, 9] = 1, 0
    terms = loss(torch.nn.Conv2d(3, 2, 1), {"image": image, "mask": points, "points": points}, torch.Generator())
    assert set(terms) == {"loss", "point", "crf", "consistency", "inconsistency"}


def test_the_energy_counts_as_much_as_the_clicks_are_fit():
    generator = torch.Generator().manual_seed(2)
    points = torch.full((2, 12, 12), IGNORE)
    points[:, 3, 3], points[0, 8, 8], points[1, 6:, 11] = 1, 0, 0
    batch = {"image": torch.rand(2, 3, 12, 12, generator=generator), "points": points}
    sure = torch.zeros(2, 2, 12, 12)
    sure[:, 0], sure[:, 1, :6] = 4, 8
    one_class = torch.stack([torch.full((2, 12, 12), 9.0), torch.zeros(2, 12, 12)], 1)
    for logits, fit in ((torch.zeros(2, 2, 12, 12), 0.0), (one_class, 0.0), (sure, None)):
        grey = grey_values(batch["image"])
        energy = gated_crf_energy(logits.softmax(1), grey)
        counted = GatedCRF(PointLoss(), weight=0.2).terms(logits, batch)["crf"]
        if fit is None:
            by_class = [F.cross_entropy(logits.movedim(1, -1)[points == c], points[points == c]) for c in (0, 1)]
            fit = 1 - sum(by_class).item() / 2 / math.log(2)
            assert fit > 0.5
        assert counted.item() == pytest.approx(0.2 * fit * energy.item(), rel=1e-5)
    nothing = batch | {"points": torch.full_like(points, IGNORE)}
    assert GatedCRF(PointLoss()).terms(sure, nothing)["crf"] == 0


@pytest.mark.parametrize(
    "setting",
    [{"radius": 0}, {"radius": 1.5}, {"sigma_xy": 0}, {"sigma_grey": 0.0}, {"sigma_grey": -1}, {"weight": -1}],
)
def test_impossible_settings_are_refused(setting):
    (key,) = setting
    with pytest.raises(InputError, match=f"{key}="):
        GatedCRF(PointLoss(), **setting)


def test_a_radius_above_the_image_is_refused():
    with pytest.raises(ValueError, match="radius=8.*8 × 9"):
        gated_crf_energy(torch.rand(1, 2, 8, 9), torch.rand(1, 8, 9), radius=8)
