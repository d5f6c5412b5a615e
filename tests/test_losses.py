"""Each loss against a loop over its formula, its gradient against finite differences, and its edges."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from cbseg.config import compose
from cbseg.errors import InputError
from cbseg.losses.consistency import Consistency, consistency_loss
from cbseg.losses.gated_crf import GatedCRF
from cbseg.losses.lcfcn import LCFCNLoss
from cbseg.losses.point import PointLoss, grow_clicks, grown_point_loss, point_loss
from cbseg.losses.supervised import WeightedBCEIoULoss, weighted_bce_iou_loss
from cbseg.points import IGNORE
from cbseg.transforms import FlipRotation, RandomTransform, Transform, Zoom, apply_each


def probabilities(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def point_oracle(logits, points):
    per_image = []
    for p, labels in zip(probabilities(logits), points, strict=True):
        terms = [-math.log(p[labels[i, j], i, j]) for i, j in np.argwhere(labels != IGNORE)]
        per_image.append(sum(terms) / len(terms) if terms else 0.0)
    return sum(per_image) / len(per_image)


def full_oracle(logits, mask):
    per_image = []
    for p_all, labels in zip(probabilities(logits), mask, strict=True):
        for c in range(1, len(p_all)):
            p, y = p_all[c], (labels == c).astype(float)
            height, width = y.shape
            padded = np.pad(y, 15)
            bce = iou_and = iou_or = weights = 0.0
            for i in range(height):
                for j in range(width):
                    w = 1 + 5 * abs(padded[i : i + 31, j : j + 31].sum() / 31**2 - y[i, j])
                    bce -= w * (y[i, j] * math.log(p[i, j]) + (1 - y[i, j]) * math.log(1 - p[i, j]))
                    iou_and += w * p[i, j] * y[i, j]
                    iou_or += w * (p[i, j] + y[i, j] - p[i, j] * y[i, j])
                    weights += w
            per_image.append(bce / weights + 1 - (iou_and + 1) / (iou_or + 1))
    return sum(per_image) / len(per_image)


def random_case(seed, shape=(2, 2, 9, 7), annotated=0.3):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=shape) * 2
    mask = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    points = np.where(rng.random(mask.shape) < annotated, mask, IGNORE)
    return logits, mask, points


@pytest.mark.parametrize("classes", [2, 3])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), annotated=st.sampled_from([0.0, 0.1, 1.0]))
def test_point_loss_equals_its_formula(classes, seed, annotated):
    logits, _, points = random_case(seed, (3, classes, 9, 7), annotated)
    ours = point_loss(torch.tensor(logits), torch.tensor(points)).item()
    assert ours == pytest.approx(point_oracle(logits, points), abs=1e-10)


@pytest.mark.parametrize("classes", [2, 3])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_full_loss_equals_its_formula(classes, seed):
    logits, mask, _ = random_case(seed, (2, classes, 12, 35))
    ours = weighted_bce_iou_loss(torch.tensor(logits), torch.tensor(mask)).item()
    assert ours == pytest.approx(full_oracle(logits, mask), abs=1e-10)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), compare=st.sampled_from(["probs", "logits"]))
def test_consistency_loss_equals_its_formula(seed, compare):
    first, *_ = random_case(seed)
    second, *_ = random_case(seed + 1)
    ours = consistency_loss(torch.tensor(first), torch.tensor(second), compare).item()
    if compare == "probs":
        expected = np.abs(probabilities(first)[:, 1] - probabilities(second)[:, 1]).mean()
    else:
        expected = np.abs(first - second).mean()
    assert ours == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "transforms",
    [RandomTransform(), RandomTransform(rotations=(0, 90, 180, 270)), RandomTransform(rotations=(0, 90), zoom=3)],
    ids=["flip", "fliprot", "zoom"],
)
def test_cb_is_both_views_point_losses_plus_lambda_times_inconsistency(transforms):
    """Alg. 1, view by view and image by image, with a network that commutes with no transform."""
    _, mask, points = random_case(3, (4, 2, 8, 8))
    image = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net = torch.nn.Conv2d(3, 2, 3, padding=1).double()
    batch = {"image": image, "mask": torch.tensor(mask), "points": torch.tensor(points)}
    terms = Consistency(PointLoss(), transforms, weight=0.7)(net, batch, torch.Generator().manual_seed(5))
    expected = 0.0
    for k, t in enumerate(transforms.sample(4, (8, 8), torch.Generator().manual_seed(5))):
        plain, view = net(image[k][None]), net(t(image[k])[None])
        expected += point_oracle(plain.detach().numpy(), points[k][None]) / 4
        expected += point_oracle(view.detach().numpy(), t.points(torch.tensor(points[k])).numpy()[None]) / 4
        difference = t(plain).softmax(1)[:, 1] - view.softmax(1)[:, 1]
        expected += 0.7 * difference.abs().mean().item() / 4
    assert terms["loss"].item() == pytest.approx(expected, abs=1e-10)
    assert terms["consistency"].item() == pytest.approx(0.7 * terms["inconsistency"].item())


def test_gradients_flow_through_both_branches():
    class Net(torch.nn.Module):  # one weight an image of the joined batch tells the branches apart
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))

        def forward(self, x):
            return torch.cat([x[:, :1] * self.scale, x[:, 1:2] * self.scale], 1)

    net = Net()
    image = torch.randn(1, 3, 4, 4)
    nothing = torch.full((1, 4, 4), IGNORE)
    batch = {"image": image, "mask": torch.zeros(1, 4, 4), "points": nothing}
    Consistency(PointLoss(), RandomTransform())(net, batch)["loss"].backward()
    assert (net.scale.grad.abs() > 0).all()


def test_losses_pass_gradcheck_in_float64():
    logits, mask, points = (torch.tensor(x) for x in random_case(7, (2, 3, 5, 6)))
    logits.requires_grad_()
    other = torch.randn_like(logits)
    assert torch.autograd.gradcheck(lambda x: point_loss(x, points), logits)
    assert torch.autograd.gradcheck(lambda x: point_loss(x, points, "batch"), logits)
    assert torch.autograd.gradcheck(lambda x: weighted_bce_iou_loss(x, mask), logits)
    assert torch.autograd.gradcheck(lambda x: consistency_loss(x, other, "probs"), logits)
    assert torch.autograd.gradcheck(lambda x: consistency_loss(x, other, "logits"), logits)


def test_image_reduction_weighs_images_alike_and_batch_reduction_pixels():
    logits = torch.zeros(2, 2, 1, 3)
    logits[1, 1] = 5.0
    points = torch.tensor([[[0, 0, 0]], [[0, IGNORE, IGNORE]]])
    one, other = math.log(2), math.log(1 + math.exp(5))
    assert point_loss(logits, points).item() == pytest.approx((one + other) / 2)
    assert point_loss(logits, points, "batch").item() == pytest.approx((3 * one + other) / 4)


@pytest.mark.parametrize(
    "loss",
    [PointLoss(), PointLoss("batch"), PointLoss(radius=0.2), PointLoss("batch", radius=0.2), WeightedBCEIoULoss()],
    ids=["image", "batch", "grown", "grown batch", "full"],
)
def test_images_without_labels_do_not_change_what_a_loss_is(loss):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 2, 9, 9, generator=generator)
    labels = torch.full((5, 9, 9), IGNORE)
    labels[:2, 2, 3], labels[:2, 6, 5:] = 1, 0
    alone, beside = (
        loss.terms(logits[:n], {"image": logits[:n], "points": labels[:n], "mask": labels[:n]}) for n in (2, 5)
    )
    for name, term in alone.items():
        assert term > 0
        torch.testing.assert_close(beside[name], term)


@pytest.mark.parametrize("reduction", ["image", "batch"])
def test_point_loss_without_annotated_pixels_is_zero_with_zero_gradient(reduction):
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    loss = point_loss(logits, torch.full((2, 4, 4), IGNORE), reduction)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("value", [0, 1])
def test_full_loss_of_no_region_and_of_all_infection_equals_its_formula_and_is_zero_for_the_truth(value):
    logits, *_ = random_case(value, (2, 2, 20, 18))
    mask = np.full((2, 20, 18), value)
    ours = weighted_bce_iou_loss(torch.tensor(logits), torch.tensor(mask)).item()
    assert ours == pytest.approx(full_oracle(logits, mask), abs=1e-10)
    right = torch.zeros(1, 2, 20, 18)
    right[:, value] = 30.0
    assert weighted_bce_iou_loss(right, torch.tensor(mask[:1])).item() == pytest.approx(0, abs=1e-6)


def test_losses_of_one_pixel():
    logits, mask = torch.tensor([[[[0.3]], [[-0.4]]]]), torch.tensor([[[1]]])
    p = 1 / (1 + math.exp(0.7))
    assert point_loss(logits, mask).item() == pytest.approx(-math.log(p), abs=1e-6)
    weight = 1 + 5 * (1 - 1 / 31**2)
    expected = -math.log(p) + 1 - (weight * p + 1) / (weight + 1)
    assert weighted_bce_iou_loss(logits, mask).item() == pytest.approx(expected, abs=1e-6)
    assert consistency_loss(logits, -logits).item() == pytest.approx(abs(1 - 2 * p), abs=1e-6)


@pytest.mark.parametrize("loss", [point_loss, weighted_bce_iou_loss])
def test_shapes_that_differ_are_named(loss):
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\).*\(1, 4, 5\)"):
        loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\).*\(1, 2, 4, 5\)"):
        consistency_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 5))


def test_terms_add_up_to_the_loss():
    _, mask, points = random_case(1, (2, 2, 8, 8))
    batch = {"image": torch.randn(2, 3, 8, 8), "mask": torch.tensor(mask), "points": torch.tensor(points)}
    net = torch.nn.Conv2d(3, 2, 1)
    for loss, names in ((PointLoss(), {"point"}), (WeightedBCEIoULoss(), {"bce", "iou"})):
        terms = loss(net, batch)
        assert terms.keys() == {"loss"} | names
        assert terms["loss"].item() == pytest.approx(sum(terms[name].item() for name in names), abs=1e-6)


def test_every_flip_and_rotation_is_exact_and_undone_by_its_inverse():
    x = torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    for flip in (False, True):
        for turns in range(4):
            t = FlipRotation(flip, turns)
            assert t.inverse()(t(x)).equal(x)
            assert t(x).equal(torch.tensor(np.rot90(x.numpy()[..., ::-1] if flip else x.numpy(), turns, (2, 3)).copy()))


def test_transforms_act_alike_on_images_logits_masks_and_points():
    mask = torch.zeros(4, 6, 6, dtype=torch.uint8)
    mask[:, 1, 2] = 1
    transforms = RandomTransform(rotations=(0, 90, 180, 270)).sample(4, (6, 6), torch.Generator().manual_seed(0))
    image = mask[:, None].float().expand(4, 3, 6, 6)
    assert apply_each(transforms, image).equal(apply_each(transforms, mask)[:, None].float().expand(4, 3, 6, 6))
    assert apply_each([t.points for t in transforms], mask).equal(apply_each(transforms, mask))


def test_a_zoom_shows_a_part_as_scikit_image_would_enlarge_it():
    image = torch.rand(3, 12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zoom = Zoom(top=2, left=5, height=6, width=10)
    part = image[:, 2:8, 5:15].numpy()
    assert zoom(image).numpy() == pytest.approx(np.stack([resize(x, (12, 20), 1, mode="edge") for x in part]))
    mask = (image[0] > 0.5).to(torch.uint8)
    assert zoom(mask).equal(mask[2:8, 5:15].repeat_interleave(2, 0).repeat_interleave(2, 1))
    whole = Zoom(0, 0, 12, 20)
    assert whole(image).equal(image)
    assert whole.points(mask).equal(mask)


def test_zoomed_points_stay_single_and_on_their_regions():
    drawn = RandomTransform(rotations=(0, 90, 180, 270), zoom=3).sample(200, (40, 40), torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    sides = set()
    for t in drawn:
        mask = torch.from_numpy(rng.random((40, 40)) < 0.4).to(torch.uint8)
        points = torch.where(torch.from_numpy(rng.random((40, 40)) < 0.05), mask, IGNORE)
        moved = t.points(points)
        there = moved != IGNORE
        assert moved[there].equal(t(mask)[there])
        seen = t.flip_rotation(points)[t.zoom.top :, t.zoom.left :][: t.zoom.height, : t.zoom.width]
        assert (seen != IGNORE).sum() == there.sum()
        assert t.zoom.top + t.zoom.height <= 40
        assert t.zoom.left + t.zoom.width <= 40
        sides.add(t.zoom.height)
    assert min(sides) == 13
    assert max(sides) >= 39


def test_all_four_rotations_after_a_flip_are_drawn_alike_often():
    drawn = RandomTransform(rotations=(0, 90, 180, 270)).sample(4000, (6, 6), torch.Generator().manual_seed(0))
    counts = [drawn.count(Transform(FlipRotation(True, k))) for k in range(4)]
    assert sum(counts) == 4000
    assert min(counts) > 900


def test_quarter_turns_of_images_that_are_not_square_are_refused_at_once():
    with pytest.raises(InputError, match="not square"):
        RandomTransform(rotations=(0, 90), image_size=(352, 288))
    assert RandomTransform(rotations=(0, 180), image_size=(352, 288)).rotations == (0, 180)


@pytest.mark.parametrize("seed", range(30))
def test_the_released_consistency_is_that_of_one_logit_the_difference_of_ours(seed):
    """The authors' network has one output z, the log-odds; ours for the same network are 0 and z."""
    rng = np.random.default_rng(seed)
    z = [torch.from_numpy(rng.normal(size=(2, 1, 9, 7)) * 3) for _ in range(2)]
    ours = [torch.cat([torch.zeros_like(x), x], 1) for x in z]
    released = compose(["protocol=released", "loss=cb_flip"]).loss
    expected = (z[0] - z[1]).abs().mean().item()
    assert released.weight * consistency_loss(*ours, released.compare).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Consistency(PointLoss(), RandomTransform(), compare="probz"), "probs, logits"),
        (lambda: Consistency(PointLoss(), RandomTransform(), weight=-1), "λ"),
        (lambda: Consistency(LCFCNLoss(), RandomTransform(zoom=2)), "zoom=2: leaves points outside"),
        (lambda: Consistency(GatedCRF(LCFCNLoss()), RandomTransform(zoom=2)), "zoom=2: leaves points outside"),
        (lambda: PointLoss("pixel"), "image, batch"),
        (lambda: RandomTransform(rotations=(0, 45)), "multiples of 90"),
        (lambda: RandomTransform(zoom=0.5), "zoom=0.5: give a number from 1"),
        (lambda: RandomTransform(zoom="much"), "zoom=much: give a number from 1"),
    ],
)
def test_settings_that_do_not_exist_are_refused_with_what_does(make, message):
    with pytest.raises(InputError, match=message):
        make()


def grown_oracle(points, radius, classes):
    """Labels and weights of grown clicks, click by click."""
    height, width = points.shape
    reach = {}
    for r, c in np.argwhere(points != IGNORE):
        reach[r, c] = [(i, j) for i in range(height) for j in range(width) if (i - r) ** 2 + (j - c) ** 2 <= radius**2]
    near = {}
    for click, pixels in reach.items():
        for pixel in pixels:
            near.setdefault(pixel, set()).add(points[click])
    labels = np.full(points.shape, IGNORE)
    for pixel, kinds in near.items():
        if points[pixel] != IGNORE:
            labels[pixel] = points[pixel]
        elif len(kinds) == 1:
            labels[pixel] = kinds.pop()
    weights = np.zeros(points.shape)
    for click, pixels in reach.items():
        own = [pixel for pixel in pixels if labels[pixel] == points[click]]
        for pixel in own:
            weights[pixel] += 1 / len(own)
    return labels, weights


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.integers(1, 4), annotated=st.sampled_from([0.0, 0.02, 0.2, 1.0]))
def test_grown_clicks_are_discs_that_weigh_one_click_each(seed, radius, annotated):
    _, _, points = random_case(seed, (1, 3, 9, 12), annotated)
    labels, weights = grow_clicks(torch.tensor(points), radius, 3)
    expected_labels, expected_weights = grown_oracle(points[0], radius, 3)
    np.testing.assert_array_equal(labels[0], expected_labels)
    np.testing.assert_allclose(weights[0], expected_weights, atol=1e-6)
    assert weights.sum().item() == pytest.approx((points != IGNORE).sum(), abs=1e-3)


@pytest.mark.parametrize("reduction", ["image", "batch"])
def test_grown_clicks_of_like_pixels_lose_what_the_clicks_lose(reduction):
    points = torch.full((2, 12, 12), IGNORE)
    points[0, 3, 3], points[0, 9, 9], points[1, 5, 5] = 1, 0, 1
    logits = torch.tensor([0.3, -0.4]).view(1, 2, 1, 1).expand(2, 2, 12, 12)
    grown = grown_point_loss(logits, points, 2, reduction)
    assert grown.item() == pytest.approx(point_loss(logits, points, reduction).item(), rel=1e-6)


def test_a_share_below_half_a_pixel_labels_the_click_alone():
    logits, _, points = (torch.tensor(x) for x in random_case(3, (2, 2, 9, 7), 0.2))
    batch = {"points": points}
    assert PointLoss(radius=0.05).terms(logits, batch)["point"] == point_loss(logits, points)
    assert PointLoss(radius=0.1).terms(logits, batch)["point"] != point_loss(logits, points)


@pytest.mark.parametrize("radius", [-0.1, 0.5, float("nan")])
def test_a_radius_that_is_no_share_is_refused(radius):
    with pytest.raises(InputError, match="radius="):
        PointLoss(radius=radius)


def test_full_supervision_leaves_out_pixels_that_nobody_looked_at():
    logits, mask = torch.randn(2, 3, 8, 8, generator=torch.manual_seed(0)), torch.zeros(2, 8, 8).long()
    mask[:, 2:5, 2:5] = 1
    mask[1, 6:] = IGNORE
    logits.requires_grad_()
    WeightedBCEIoULoss().terms(logits, {"mask": mask})["bce"].backward()
    assert (logits.grad[1, :, 6:] == 0).all()
    assert (logits.grad[0, :, 6:] != 0).any()
    unknown = torch.full_like(mask, IGNORE)
    assert weighted_bce_iou_loss(logits, unknown).item() == 0
