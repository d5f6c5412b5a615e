"""Counting scores: against a loop over their definition, by hand, over batches and processes, and how levels nest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from cbseg.metrics import COUNTING_SCORES, GAME, CountingScores, CountMAE, Counts, region_grid


def game_oracle(pred, mask, level):
    """GAME by walking over images, cells and regions."""
    cells, total = 2**level, 0
    for p, m in zip(pred, mask, strict=True):
        for row in range(cells):
            for column in range(cells):
                here = [0, 0]
                for k, x in enumerate((p, m)):
                    labels = torch.from_numpy(label((x > 0).numpy(), connectivity=2))
                    for region in range(1, int(labels.max()) + 1):
                        at = torch.nonzero(labels == region).double().mean(0) + 0.5
                        inside = [
                            index * side / cells <= place < (index + 1) * side / cells
                            for index, place, side in zip((row, column), at.tolist(), x.shape, strict=True)
                        ]
                        here[k] += all(inside)
                total += abs(here[0] - here[1])
    return total / len(mask)


def random_masks(seed, shape=(2, 13, 22), share=0.25):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(shape, generator=generator) < share).long() for _ in range(2)]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), level=st.integers(0, 3))
def test_game_equals_a_loop_over_cells_and_regions(seed, level):
    pred, mask = random_masks(seed)
    metric = GAME(level)
    metric.update(pred, mask)
    assert metric.compute().item() == pytest.approx(game_oracle(pred, mask, level))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 0.6))
def test_game_0_is_the_mae_and_game_never_falls_as_the_level_grows(seed, share):
    pred, mask = random_masks(seed, share=share)
    levels = []
    for level in range(6):
        metric = GAME(level)
        metric.update(pred, mask)
        levels.append(metric.compute().item())
    mae = CountMAE()
    mae.update(pred, mask)
    assert levels[0] == mae.compute().item()
    assert levels == sorted(levels)
    scores = CountingScores()
    scores.update(pred, mask)
    assert [score.item() for score in scores.compute().values()] == levels[:5]
    assert tuple(scores.compute()) == COUNTING_SCORES


def test_counts_by_hand():
    mask = torch.zeros(1, 8, 16, dtype=torch.long)
    mask[0, 0, 0] = mask[0, 1, 1] = 1  # one region: diagonal neighbours belong together
    mask[0, 7, 15] = 2  # another class is infection as well
    pred = torch.zeros_like(mask)
    pred[0, 0, 15] = 1
    scores = CountingScores()
    scores.update(pred, mask)
    assert [score.item() for score in scores.compute().values()] == [1, 3, 3, 3, 3]


def test_each_region_counts_once_in_cells_that_tile_images_of_any_size():
    for shape in ((5, 7), (16, 16), (37, 101), (1, 1)):
        mask = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.3).numpy()
        for level in range(6):
            assert region_grid(mask, level).sum() == label(mask, connectivity=2).max()


def test_errors_of_batches_processes_and_sizes_add_up():
    parts = [random_masks(seed, (n, 9 + seed, 12)) for seed, n in enumerate((1, 2, 3))]
    metrics = [GAME(2) for _ in parts]
    whole = GAME(2)
    for metric, (pred, mask) in zip(metrics, parts, strict=True):
        metric.update(pred, mask)
        whole.update(pred, mask)
    summed = {
        name: whole._reductions[name](torch.stack([getattr(m, name) for m in metrics])) for name in ("errors", "images")
    }
    assert (summed["errors"][-1].double() / summed["images"]).item() == whole.compute().item()
    expected = sum(game_oracle(pred, mask, 2) * len(mask) for pred, mask in parts) / 6
    assert whole.compute().item() == pytest.approx(expected)


def test_counts_of_slices_add_up_to_the_dataset():
    pred, mask = random_masks(3, (4, 9, 12))
    total = Counts.of(pred[0], mask[0])
    for p, m in zip(pred[1:], mask[1:], strict=True):
        total = total + Counts.of(p, m)
    scores = CountingScores()
    scores.update(pred, mask)
    assert {name: total.scores()[name].item() for name in COUNTING_SCORES} == {
        name: score.item() for name, score in scores.compute().items()
    }
    assert total.named()["slices"] == 4


@pytest.mark.parametrize(
    ("pred", "mask", "message"),
    [
        (torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 3).long(), "differ in shape"),
        (torch.zeros(2, 2).long(), torch.zeros(2, 2).long(), r"expected \(B, H, W\)"),
        (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).long(), "integer"),
    ],
)
def test_masks_that_do_not_fit_are_refused(pred, mask, message):
    with pytest.raises(ValueError, match=message):
        GAME().update(pred, mask)


def test_a_negative_level_is_refused():
    with pytest.raises(ValueError, match="level=-1"):
        GAME(-1)
