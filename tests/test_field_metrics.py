"""Scores that the field reports: the mean Dice of scans, HD95, surface Dice, and counts at other thresholds."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist
from skimage.segmentation import find_boundaries

from cbseg.errors import InputError
from cbseg.metrics import (
    COUNTS,
    LOG_ODDS,
    Counts,
    check_surface,
    count_levels,
    score_scans,
    surface_scores,
    surface_sums,
    threshold_counts,
)
from cbseg.module import predict_mask
from cbseg.points import IGNORE
from cbseg.results import read_result
from cbseg.run_folder import RunFolder
from cbseg.threshold_curves import read_curve


def square(top, left, side=12, size=40):
    mask = torch.zeros(size, size + 8, dtype=torch.long)
    mask[top : top + side, left : left + side] = 1
    return mask


def plain_surface(predicted, true):
    """HD95 and the surface Dice of the boundaries' pixels, each with each."""
    pixels = [np.argwhere(find_boundaries(x.numpy(), connectivity=1, mode="inner")) for x in (predicted, true)]
    between = cdist(*pixels)
    there, back = between.min(1), between.min(0)
    nsd = [((there <= t).sum() + (back <= t).sum()) / (len(there) + len(back)) for t in (1, 2)]
    return [max(np.percentile(there, 95), np.percentile(back, 95)), *nsd, 1]


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (2, 1), (5, -3), (15, 9)])
def test_boundaries_are_measured_as_by_comparing_each_pixel_with_each(shift):
    predicted, true = square(10 + shift[0], 12 + shift[1]), square(10, 12)
    predicted[2:4, 2:4] = 1
    assert surface_sums(predicted, true).tolist() == pytest.approx(plain_surface(predicted, true))


def test_equal_masks_are_at_no_distance_also_at_the_edge():
    mask = square(0, 0)
    assert surface_sums(mask, mask).tolist() == [0, 1, 1, 1]


def test_a_slice_without_any_infection_is_left_out_and_one_that_is_missed_or_made_up_is_the_worst_there_can_be():
    empty, mask = square(0, 0, side=0), square(5, 5)
    worst = [math.hypot(40, 48), 0, 0, 1]
    sums = [surface_sums(*pair) for pair in ((empty, empty), (empty, mask), (mask, empty), (mask, mask))]
    assert [x.tolist() for x in sums] == [[0, 0, 0, 0], worst, worst, [0, 1, 1, 1]]
    scores = surface_scores(sum(sums))
    assert scores["nsd1"].item() == pytest.approx(1 / 3)
    assert surface_scores(sums[0])["hd95"].isnan()


def test_slices_that_are_not_known_everywhere_have_no_boundary():
    mask = square(5, 5)
    mask[0, 0] = IGNORE
    assert not surface_sums(square(5, 5), mask).any()


def test_boundaries_add_up_over_slices_and_are_read_again_as_they_were_written():
    one = Counts.of(square(5, 6), square(5, 5), surface=surface_sums(square(5, 6), square(5, 5)))
    both = one + Counts.of(square(5, 5), square(5, 5), surface=surface_sums(square(5, 5), square(5, 5)))
    again = Counts.of_named(both.named())
    assert again.scores() == both.scores()
    assert both.scores()["hd95"].item() == pytest.approx(0.5)
    assert "hd95" not in Counts.of(square(5, 5), square(5, 5)).scores()


def test_without_monai_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("cbseg.metrics.surface.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"metrics\.surface=true: needs MONAI; pip install -e"):
        check_surface("metrics.surface")


def test_the_mean_dice_is_that_of_scans_with_infection_in_truth_or_prediction():
    scans = {
        "good": Counts.of(square(5, 5), square(5, 5)),
        "missed": Counts.of(square(0, 0, side=0), square(5, 5)),
        "healthy": Counts.of(square(0, 0, side=0), square(0, 0, side=0)),
    }
    found = score_scans(scans)["test"]
    assert found["dice_mean"] == pytest.approx(0.5)
    assert found["dice"] == pytest.approx(2 / 3)
    assert score_scans({"healthy": scans["healthy"]})["test"]["dice_mean"] is None


def test_a_scans_own_dice_is_the_mean_over_the_classes_that_it_or_its_prediction_holds():
    right = Counts.of(torch.tensor([[1, 2, 0]]), torch.tensor([[1, 2, 0]]), 3)
    without_2 = Counts.of(torch.tensor([[1, 1, 1, 0]]), torch.tensor([[0, 0, 1, 1]]), 3)
    assert without_2.own_dice().item() == pytest.approx(2 / 5)
    assert without_2.scores()["dice"].isnan()
    assert score_scans({"right": right, "without 2": without_2})["test"]["dice_mean"] == pytest.approx((1 + 2 / 5) / 2)


def test_counts_at_each_threshold_are_those_of_the_probability_cut_there():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 30, 20, generator=generator) * 3
    mask = torch.randint(0, 2, (30, 20), generator=generator)
    mask[0] = IGNORE
    found = threshold_counts(count_levels(logits, mask))
    assert found.shape == (4, len(LOG_ODDS))
    for log_odds, counts in zip(LOG_ODDS, found.T, strict=True):
        cut = (logits[1] - logits[0] > log_odds).long()
        assert counts.tolist() == Counts.of(cut, mask).pixels[:, 0].tolist()
    half = found[:, len(LOG_ODDS) // 2]
    assert half.tolist() == Counts.of(predict_mask(logits, (30, 20)), mask).pixels[:, 0].tolist()


def test_a_run_keeps_counts_at_other_thresholds_of_what_it_tested_and_measures_boundaries_if_asked(train):
    folder = RunFolder(train("loss=pl", "metrics.surface=true"))
    result = read_result(folder)
    assert {"dice_mean", "hd95", "nsd1", "nsd2"} <= result.test.keys()
    assert all("surface" in scan for scan in result.scans.values())
    assert "metrics.surface" not in result.keys
    for last, counts in ((False, result.counts), (True, result.last["counts"])):
        assert read_curve(folder, last).loc[0.5].to_dict() == {name: counts[name] for name in COUNTS}
    kept = pd.read_csv(folder.thresholds)
    assert set(kept["scan"]) == set(result.scans)


def test_runs_without_the_file_have_no_curve_and_a_damaged_one_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    assert read_curve(folder) is None
    folder.thresholds.write_text("scan,threshold\n")
    with pytest.raises(InputError, match=r"thresholds\.csv: is damaged"):
        read_curve(folder)
