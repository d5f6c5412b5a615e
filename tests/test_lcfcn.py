"""LCFCN against its formulas taken word for word, at its edges, and in what its gradient asks of the network."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from cbseg.losses.consistency import Consistency
from cbseg.losses.lcfcn import TERMS, LCFCNLoss, lcfcn_loss, lcfcn_terms
from cbseg.transforms import RandomTransform
from experiments.benchmarks.lcfcn_oracle import lcfcn_oracle

IGNORE = 255


def logits_of(probs):
    """Logits (B, 2, H, W) whose probability of infection is exactly 0, 0.5 or 1 where it should be."""
    log_odds = torch.as_tensor(probs).logit().clamp(-1000, 1000)
    return torch.stack([torch.zeros_like(log_odds), log_odds], 1)


def points_at(shape, *pixels):
    points = torch.full(shape, IGNORE, dtype=torch.uint8)
    for row, column in pixels:
        points[row, column] = 1
    return points


def nested_rings(size):
    """Probabilities of a blob inside a hole inside a blob, and a one-pixel blob in a corner."""
    probs = torch.full((size, size), 0.1, dtype=torch.float64)
    probs[2:-2, 2:-2] = 0.9
    probs[4:-4, 4:-4] = 0.1
    probs[size // 2, size // 2] = 0.8
    probs[0, 0] = 0.7
    return probs


@st.composite
def images(draw):
    """Logits and points of one to three images of every kind that the formulas tell apart."""
    height, width = draw(st.integers(8, 24)), draw(st.integers(8, 24))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    kinds = draw(st.lists(st.sampled_from(["blobs", "noise", "none", "all", "rings", "exact"]), min_size=1, max_size=3))
    maps, clicks = [], []
    for kind in kinds:
        noise = torch.randn(height, width, generator=generator, dtype=torch.float64)
        if kind == "blobs":
            noise = torch.from_numpy(gaussian_filter(noise.numpy(), 2)) * 20
        probs = noise.sigmoid()
        if kind == "none":
            probs = probs * 0.49
        elif kind == "all":
            probs = 0.51 + probs * 0.48
        elif kind == "rings":
            size = min(height, width)
            probs = probs * 0.4
            probs[:size, :size] = nested_rings(size)
        elif kind == "exact":
            probs = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)[
                torch.randint(0, 3, (height, width), generator=generator)
            ]
        points = torch.full((height, width), IGNORE, dtype=torch.uint8)
        chosen = torch.randperm(height * width, generator=generator)
        where = draw(st.sampled_from(["anywhere", "inside", "outside"]))
        if where != "anywhere":
            chosen = chosen[(probs.flatten()[chosen] > 0.5) == (where == "inside")]
        count = draw(st.sampled_from([0, 1, 2, 5, 30]))
        points.view(-1)[chosen[count : 2 * count]] = 0
        points.view(-1)[chosen[:count]] = 1
        if count == 0 and draw(st.booleans()):
            points[:] = 0
        maps.append(probs)
        clicks.append(points)
    return logits_of(torch.stack(maps)), torch.stack(clicks)


@settings(max_examples=200, deadline=None)
@given(images())
def test_terms_and_gradient_equal_the_formulas_word_for_word(case):
    logits, points = case
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    terms, expected = lcfcn_terms(ours, points), lcfcn_oracle(theirs, points)
    assert tuple(terms) == TERMS == tuple(expected)
    for name in TERMS:
        assert terms[name].item() == pytest.approx(expected[name].item(), rel=1e-5, abs=1e-5)
    lcfcn_loss(ours, points).backward()
    torch.stack(list(expected.values())).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    assert ours.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_of_lower_precision_is_single_precision_and_close(dtype):
    smooth = gaussian_filter(torch.randn(2, 48, 64, generator=torch.Generator().manual_seed(0)).numpy(), (0, 4, 4))
    logits = logits_of(torch.from_numpy(smooth * 20).sigmoid()).to(dtype)
    points = torch.stack([points_at((48, 64), (5, 5), (20, 40), (40, 10)), points_at((48, 64), (30, 30))])
    low, double = lcfcn_loss(logits, points), lcfcn_loss(logits.double(), points)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(double.item(), rel=1e-4)


def test_terms_by_hand():
    probs = torch.full((1, 9, 9), 0.2, dtype=torch.float64)
    probs[0, 1:3, 1:3] = 0.6  # a blob without a point
    probs[0, 6, 1:8] = 0.9  # a blob with two points
    points = points_at((9, 9), (6, 1), (6, 7))[None]
    terms = lcfcn_terms(logits_of(probs), points)
    log = {p: -torch.tensor(p, dtype=torch.float64).log().item() for p in (0.8, 0.9, 0.4, 0.1)}
    assert terms["image"].item() == pytest.approx(log[0.8] + log[0.9])
    assert terms["point"].item() == pytest.approx(2 * log[0.9])
    assert terms["false_positive"].item() == pytest.approx(log[0.4])
    assert terms["split"].item() > log[0.1]  # once for the blob, whose boundary lies on it, and once for the image


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("pixels", [[], [(2, 3)], [(2, 3), (5, 1)]])
def test_loss_and_gradient_are_finite_where_the_network_is_sure(p, pixels):
    for dtype in (torch.float32, torch.float64):
        logits = logits_of(torch.full((1, 8, 10), p, dtype=dtype)).requires_grad_()
        assert (logits.softmax(1)[:, 1] == p).all()
        loss = lcfcn_loss(logits, points_at((8, 10), *pixels)[None])
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_gradcheck_away_from_ties():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 9, 11, generator=generator, dtype=torch.float64).mul(2).requires_grad_()
    points = torch.stack([points_at((9, 11), (1, 1), (4, 8), (7, 3)), points_at((9, 11))])
    assert torch.autograd.gradcheck(lambda x: lcfcn_loss(x, points), logits)


def test_a_step_down_the_gradient_splits_a_blob_that_holds_two_points_and_removes_one_without():
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(48.0), indexing="ij")
    bump = lambda r, c: torch.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 30)  # noqa: E731
    log_odds = 6 * (bump(8, 8) + bump(8, 18) + bump(14, 38)) - 2
    logits = torch.stack([torch.zeros_like(log_odds), log_odds])[None].requires_grad_()
    points = points_at((24, 48), (8, 8), (8, 18))[None]
    assert (logits[0, 1, 8, 8:19] > 0).all()
    assert logits[0, 1, 14, 38] > 0
    optimizer = torch.optim.Adam([logits], 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        lcfcn_loss(logits, points).backward()
        optimizer.step()
    infected = logits[0, 1] > logits[0, 0]
    assert infected[8, 8]
    assert infected[8, 18]
    assert not infected[8, 8:19].all()
    assert not infected[10:, 30:].any()


def test_each_image_counts_alike_and_batches_are_their_mean():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 2, 12, 12, generator=generator, dtype=torch.float64)
    points = torch.stack([points_at((12, 12), *[(k, 2 * j) for j in range(k)]) for k in range(4)])
    apart = torch.stack([lcfcn_loss(logits[k : k + 1], points[k : k + 1]) for k in range(4)])
    assert lcfcn_loss(logits, points).item() == pytest.approx(apart.mean().item())


def test_the_released_reduction_is_the_sum_over_images():
    logits = torch.randn(3, 2, 12, 12, generator=torch.Generator().manual_seed(2))
    batch = {"points": torch.stack([points_at((12, 12), (2, 2), (k, 9)) for k in range(3)])}
    mean, total = (LCFCNLoss(reduction).terms(logits, batch) for reduction in ("mean", "sum"))
    assert all(total[name].item() == pytest.approx(3 * mean[name].item()) for name in TERMS)
    with pytest.raises(ValueError, match=r"reduction=max.*mean, sum"):
        LCFCNLoss("max")


@pytest.mark.parametrize(
    ("logits", "points", "message"),
    [((1, 2, 4, 4), (1, 4, 5), "do not match"), ((1, 3, 4, 4), (1, 4, 4), "expected 2 classes of logits, not 3")],
)
def test_wrong_shapes_are_refused(logits, points, message):
    with pytest.raises(ValueError, match=message):
        lcfcn_loss(torch.zeros(logits), torch.zeros(points, dtype=torch.uint8))


def test_cb_lcfcn_is_the_consistency_wrapper_around_it():
    net = torch.nn.Conv2d(3, 2, 3, padding=1)
    image = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    points = torch.stack([points_at((16, 16), (3, 4), (12, 12)), points_at((16, 16), (8, 1))])
    batch = {"image": image, "mask": (points == 1).long(), "points": points}
    loss = Consistency(LCFCNLoss(), RandomTransform(flip=True, rotations=[0], image_size=16), weight=2.0)
    terms = loss(net, batch, torch.Generator().manual_seed(0))
    assert set(terms) == {"loss", *TERMS, "consistency", "inconsistency"}
    alone = sum(terms[name].item() for name in TERMS)
    assert terms["loss"].item() == pytest.approx(alone + 2 * terms["inconsistency"].item(), rel=1e-5)
