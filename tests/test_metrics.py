"""Dataset-level scores: against hand-computed tables, over batches and processes, and where they are undefined."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    binary_f1_score,
    binary_jaccard_index,
    binary_precision,
    binary_recall,
)

from cbseg.metrics import SCORES, Counts, SegmentationScores, count_pixels, segmentation_scores, undefined_scores
from cbseg.points import IGNORE


@pytest.mark.parametrize(
    ("pred", "truth", "expected"),
    [  # hand-computed: dice, iou, ppv, sens, spec
        ([1, 1, 0, 0], [1, 1, 0, 0], (1, 1, 1, 1, 1)),
        ([1, 1, 1, 0], [1, 0, 0, 0], (1 / 2, 1 / 3, 1 / 3, 1, 1 / 3)),
        ([0, 0, 0, 0], [1, 0, 0, 0], (0, 0, None, 0, 1)),
        ([1, 0, 0, 0], [0, 0, 0, 0], (0, 0, 0, None, 3 / 4)),
        ([0, 0, 0, 0], [0, 0, 0, 0], (None, None, None, None, 1)),
        ([1, 1, 1, 1], [1, 1, 1, 1], (1, 1, 1, 1, None)),
    ],
)
def test_scores_equal_a_table_computed_by_hand(pred, truth, expected):
    metric = SegmentationScores()
    metric.update(torch.tensor(pred).reshape(1, 2, 2), torch.tensor(truth).reshape(1, 2, 2))
    scores = metric.compute()
    for name, value in zip(SCORES, expected, strict=True):
        if value is None:
            assert scores[name].isnan()
        else:
            assert scores[name].item() == pytest.approx(value)
    undefined = undefined_scores(metric.counts)
    assert list(undefined) == [name for name, value in zip(SCORES, expected, strict=True) if value is None]
    assert all("= 0" in reason for reason in undefined.values())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_scores_equal_torchmetrics_over_all_pixels_together(seed):
    generator = torch.Generator().manual_seed(seed)
    pred, truth = torch.randint(0, 2, (2, 3, 7, 5), generator=generator)
    metric = SegmentationScores()
    for p, t in zip(pred, truth, strict=True):  # one by one, as images of different sizes come
        metric.update(p[None], t[None])
    ours = metric.compute()
    for name, reference in (
        ("dice", binary_f1_score), ("iou", binary_jaccard_index), ("ppv", binary_precision), ("sens", binary_recall),
    ):  # fmt: skip
        assert ours[name].item() == pytest.approx(reference(pred, truth).item(), abs=1e-6)


def test_dice_is_over_the_dataset_and_no_mean_over_images():
    metric = SegmentationScores()
    metric.update(torch.ones(1, 1, 1).long(), torch.ones(1, 1, 1).long())
    metric.update(torch.zeros(1, 3, 3).long(), torch.ones(1, 3, 3).long())
    assert metric.compute()["dice"].item() == pytest.approx(2 / 11)


def test_counts_of_several_processes_add_up():
    parts = [SegmentationScores(), SegmentationScores()]
    for k, part in enumerate(parts):
        part.update(torch.tensor([[[1, k]]]), torch.tensor([[[1, 1]]]))
    assert parts[0]._reductions["counts"] is not None
    total = parts[0]._reductions["counts"](torch.stack([part.counts for part in parts]))
    assert segmentation_scores(total)["sens"].item() == pytest.approx(3 / 4)


def test_with_more_classes_scores_are_means_over_the_foreground():
    metric = SegmentationScores(num_classes=3)
    metric.update(torch.tensor([[[1, 1, 2, 0]]]), torch.tensor([[[1, 0, 2, 2]]]))
    assert metric.compute()["dice"].item() == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert metric.compute()["ppv"].item() == pytest.approx((1 / 2 + 1) / 2)


def test_with_more_classes_the_undefined_class_is_named():
    metric = SegmentationScores(num_classes=3)
    metric.update(torch.tensor([[[1, 0]]]), torch.tensor([[[1, 0]]]))
    assert metric.compute()["sens"].isnan()
    assert undefined_scores(metric.counts)["sens"] == "of class 2: the truth holds no infection (TP + FN = 0)"


def test_counts_are_exact_beyond_float32():
    metric = SegmentationScores()
    metric.counts[:] = torch.tensor([[2**40 + 1], [0], [0], [0]])
    metric.update(torch.ones(1, 1, 1).long(), torch.ones(1, 1, 1).long())
    assert metric.counts[0].item() == 2**40 + 2


@pytest.mark.parametrize(
    ("pred", "truth", "message"),
    [
        (torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 3).long(), "differ in shape"),
        (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).long(), "integer"),
        (torch.full((1, 2, 2), 2), torch.zeros(1, 2, 2).long(), r"pred_mask holds 2…2, classes are 0…1"),
        (torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), -1), "mask holds -1"),
    ],
)
def test_masks_that_do_not_fit_are_refused(pred, truth, message):
    with pytest.raises(ValueError, match=message):
        SegmentationScores().update(pred, truth)


def test_pixels_that_nobody_looked_at_are_left_out():
    pred, truth = torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[1, 0, 1, IGNORE]]])
    assert count_pixels(pred, truth).tolist() == [[1], [1], [1], [0]]
    assert count_pixels(pred, torch.full_like(pred, IGNORE)).tolist() == [[0], [0], [0], [0]]


def test_at_clicks_only_sensitivity_and_specificity_are_known():
    truth = torch.full((1, 4, 4), IGNORE)
    truth[0, 0, :3] = torch.tensor([1, 1, 0])
    counts = Counts.of(torch.ones(4, 4).long(), truth[0])
    metric = SegmentationScores()
    metric.update(torch.ones(1, 4, 4).long(), truth)
    for scores in (counts.scores(), metric.compute()):
        assert (scores["sens"].item(), scores["spec"].item()) == (1, 0)
        assert all(scores[name].isnan() for name in ("dice", "iou", "ppv"))
    assert counts.scores()["mae"].isnan()  # regions are not known
    assert counts.undefined()["dice"] == "1 slices are known at a few pixels only"
    assert (counts.named()["whole"], counts.named()["sparse"]) == (0, 1)


def test_a_slice_of_which_nothing_is_known_takes_no_part_in_any_score():
    pred, truth = torch.tensor([[1, 1, 0]]), torch.tensor([[1, 0, 0]])
    both = [(pred, truth), (pred, torch.full_like(truth, IGNORE))]
    metric = SegmentationScores()
    for predicted, true in both:
        metric.update(predicted[None], true[None])
    one, two = Counts.of(*both[0]), Counts.of(*both[0]) + Counts.of(*both[1])
    assert {name: x.item() for name, x in two.scores().items()} == {name: x.item() for name, x in one.scores().items()}
    assert metric.compute()["dice"] == one.scores()["dice"]
    assert two.undefined() == {}
    assert (two.slices, two.whole, two.sparse) == (2, 1, 0)


def test_a_mask_with_a_few_unknown_pixels_is_scored_at_the_others_and_not_counted():
    truth = torch.tensor([[1, 1, 0, IGNORE]])
    counts = Counts.of(torch.tensor([[1, 0, 0, 1]]), truth) + Counts.of(torch.tensor([[1]]), torch.tensor([[0]]))
    assert counts.scores()["dice"].item() == pytest.approx(2 / 4)
    assert counts.scores()["mae"].item() == 1  # the second slice's one region, over one slice
    assert (counts.slices, counts.whole, counts.sparse) == (2, 1, 0)
