"""Differences between losses: against hand-computed scores and a plain loop over the same resamples of scans."""

import sys
from dataclasses import replace

import made_results
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from cbseg.errors import InputError
from cbseg.metrics import COUNTING_SCORES, SURFACE_SCORES
from experiments import compare


def scan(tp=5, fp=5, fn=5, tn=85, errors=(1, 2, 3, 4, 5), slices=2):
    return {"tp": tp, "fp": fp, "fn": fn, "tn": tn, "count_errors": list(errors), "slices": slices}


def run(*scans, loss="pl", seed=0, data="covidB_sep", settings=""):
    named = {f"scan-{k}": scan for k, scan in enumerate(scans)}
    return made_results.result(data, loss, seed, settings, scans=named)


def found(*scans):
    """A tuple of scans for each seed, as :func:`compare.compare` takes them."""
    return {seed: run(*scans, seed=seed) for seed, scans in enumerate(scans)}


def keep(root, *runs):
    for one in runs:
        made_results.write(root, one)


def random_scans(rng, scans, classes=1):
    """Two losses' scans with the same truth: for each, one list of scans."""
    truth = rng.integers(50, 100, (scans, classes))
    made = []
    for _ in range(2):
        tp, fp, tn = rng.integers(1, 50, (3, scans, classes))
        counts = [x if classes > 1 else x[:, 0] for x in (tp, fp, truth - tp, tn)]
        errors, slices = rng.integers(0, 9, (scans, 5)), np.arange(1, scans + 1)
        surfaces = rng.random((scans, 4)).round(3).tolist()
        made.append(
            [
                scan(*(x[k].tolist() for x in counts), errors[k].tolist(), int(slices[k])) | {"surface": surfaces[k]}
                for k in range(scans)
            ]
        )
    return made


def plain_score(scans, score):
    """A dataset-level score of a list of scans, scan by scan and class by class."""
    if score == "dice_mean":
        return sum(plain_score([one], "dice") for one in scans) / len(scans)
    if score in SURFACE_SCORES:
        k = SURFACE_SCORES.index(score)
        return sum(one["surface"][k] for one in scans) / sum(one["surface"][3] for one in scans)
    if score in COUNTING_SCORES:
        level = COUNTING_SCORES.index(score)
        return sum(one["count_errors"][level] for one in scans) / sum(one["slices"] for one in scans)
    by_class = []
    for k in range(np.size(scans[0]["tp"])):
        tp, fp, fn, tn = (sum(np.ravel(one[name])[k] for one in scans) for name in ("tp", "fp", "fn", "tn"))
        parts = {
            "dice": (2 * tp, 2 * tp + fp + fn),
            "iou": (tp, tp + fp + fn),
            "ppv": (tp, tp + fp),
            "sens": (tp, tp + fn),
            "spec": (tn, tn + fp),
        }
        by_class.append(parts[score][0] / parts[score][1])
    return sum(by_class) / len(by_class)


@pytest.mark.parametrize("score", compare.ALL_SCORES)
@pytest.mark.parametrize("classes", [1, 2])
def test_the_bootstrap_is_a_plain_loop_over_the_same_resamples_of_scans_for_both_losses(score, classes):
    rng = np.random.default_rng(0)
    seeds = [random_scans(rng, 5, classes) for _ in range(2)]
    ours, theirs = (np.stack([compare.scan_counts(run(*both[k])) for both in seeds]) for k in range(2))
    drawn = compare.bootstrap(ours, theirs, score, resamples=20, seed=3)
    for times, difference in zip(np.random.default_rng(3).multinomial(5, [0.2] * 5, 20), drawn, strict=True):
        mean = [
            sum(
                plain_score([one for one, n in zip(both[k], times, strict=True) for _ in range(n)], score)
                for both in seeds
            )
            / len(seeds)
            for k in range(2)
        ]
        assert difference == pytest.approx(mean[0] - mean[1], abs=1e-12)


def test_the_mean_of_the_scans_dice_leaves_out_scans_without_any_infection():
    healthy = scan(tp=0, fp=0, fn=0)
    ours, theirs = [scan(tp=8, fp=2, fn=2), healthy], [scan(tp=4, fp=6, fn=6), healthy]
    row = compare.compare("covidC_sep", "cb_flip", found(ours), found(theirs), "dice_mean")
    assert row.difference == pytest.approx(0.8 - 0.4)


def test_a_score_that_was_not_measured_has_no_difference():
    row = compare.compare("covidC_sep", "cb_flip", found([scan()] * 2), found([scan()] * 2), "hd95")
    assert (row.difference, row.remark) == (None, "hd95 is undefined in a run, or was not measured")


def test_the_difference_is_that_of_dataset_level_scores():
    ours = [scan(tp=8, fp=2, fn=2), scan(tp=0, fp=0, fn=10)]  # 2 * 8 / (16 + 2 + 12), not the mean of 0.8 and 0
    theirs = [scan(tp=5, fp=5, fn=5), scan(tp=5, fp=5, fn=5)]
    row = compare.compare("covidC_sep", "cb_flip", found(ours), found(theirs), "dice")
    assert row.difference == pytest.approx(16 / 30 - 0.5)
    assert (row.seeds, row.scans, row.undefined) == (1, 2, 0)


def test_with_two_scans_the_interval_reaches_from_the_one_scans_difference_to_the_others():
    ours = [scan(tp=8, fp=2, fn=2), scan(tp=3, fp=7, fn=7)]
    theirs = [scan(tp=5, fp=5, fn=5), scan(tp=5, fp=5, fn=5)]
    row = compare.compare("covidB_sep", "cb_flip", found(ours), found(theirs), "dice")
    assert (row.low, row.high) == (pytest.approx(0.3 - 0.5), pytest.approx(0.8 - 0.5))  # each is a quarter of resamples


def test_the_interval_holds_the_middle_95_percent_of_resamples():
    ours = [scan(errors=[k % 2] * 5, slices=1) for k in range(40)]  # the error of half the scans is 1: a binomial
    theirs = [scan(errors=[0] * 5, slices=1)] * 40
    row = compare.compare("covidA", "cb_flip", found(ours), found(theirs), "mae")
    assert (row.low * 40, row.high * 40) == pytest.approx(binom(40, 0.5).ppf([0.025, 0.975]))


def test_what_differs_equally_in_every_scan_has_an_interval_of_no_width_however_much_scans_differ():
    errors = np.arange(0, 70, 7)
    theirs = run(*(scan(errors=[e] * 5, slices=1) for e in errors))
    ours = run(*(scan(errors=[e + 3] * 5, slices=1) for e in errors))
    ours = replace(ours, scans=dict(reversed(ours.scans.items())))
    row = compare.compare("covidB_sep", "cb_flip", {0: ours}, {0: theirs}, "mae")
    assert (row.low, row.high) == (pytest.approx(3), pytest.approx(3))


def test_scores_are_means_over_the_seeds_that_both_losses_have():
    pair = [scan(tp=5, fp=5, fn=5)] * 6
    ours = found([scan(tp=8, fp=2, fn=2)] * 6, [scan(tp=6, fp=4, fn=4)] * 6, [scan(tp=0, fp=10, fn=10)] * 6)
    row = compare.compare("covidB_sep", "cb_flip", ours, found(pair, pair), "dice")
    assert row.difference == pytest.approx((0.8 + 0.6) / 2 - 0.5)
    assert (row.low, row.high) == (pytest.approx(0.2), pytest.approx(0.2))
    assert row.text()["Seeds"] == "2 of 3"
    assert compare.compare("covidB_sep", "cb_flip", found(pair), found(pair), "dice").text()["Seeds"] == "1"


def test_resamples_where_a_score_is_undefined_are_left_out_and_counted():
    ours = [scan(tp=5, fp=5, fn=5), *[scan(tp=0, fp=0, fn=10)] * 5]  # PPV is undefined without the first scan
    row = compare.compare("covidB_sep", "cb_flip", found(ours), found([scan()] * 6), "ppv")
    assert row.undefined == pytest.approx((5 / 6) ** 6, abs=0.02)
    assert (row.low, row.high) == (0, 0)
    assert row.remark == f"{row.undefined * 10_000:,.0f} of 10,000 resamples left out, undefined"


@pytest.mark.parametrize(
    ("ours", "theirs", "remark"),
    [
        (found([scan()]), found([scan()]), "one test scan"),
        (found([scan()] * 2), found([scan()] * 3), "the runs were tested on different scans"),
        (found([scan(tp=5, fn=5)] * 2), found([scan(tp=5, fn=6)] * 2), "the runs were tested on different scans"),
        (
            found([scan()] * 2, [scan()] * 3),
            found([scan()] * 2, [scan()] * 3),
            "the runs were tested on different scans",
        ),
        ({1: run(scan(), scan())}, found([scan()] * 2), "no seed in common"),
        (found([scan()] * 2), {}, "the baseline was not run"),
        (found([scan(tp=0, fp=0, fn=10)] * 2), found([scan()] * 2), "ppv is undefined in a run, or was not measured"),
    ],
)
def test_where_there_can_be_no_interval_the_row_says_why(ours, theirs, remark):
    row = compare.compare("covidA", "cb_flip", ours, theirs, "ppv")
    assert row.low is None
    assert row.text()["95 % interval"] == f"none ({remark})"
    assert (row.difference is not None) == (remark == "one test scan")


def test_an_interval_from_fewer_than_six_scans_is_said_not_to_be_trusted():
    few, enough = ([scan()] * n for n in (5, 6))
    row = compare.compare("covidB_sep", "cb_flip", found(few), found(few), "dice")
    assert row.text()["95 % interval"] == "+0.000 to +0.000 (fewer than 6 scans: not to be trusted)"
    row = compare.compare("covidB_sep", "cb_flip", found(enough), found(enough), "dice")
    assert row.text()["95 % interval"] == "+0.000 to +0.000"


def test_differences_are_written_by_setting_and_dataset_and_never_across_settings(tmp_path):
    good, fair = [scan(tp=8, fp=2, fn=2)] * 6, [scan()] * 6
    for seed in range(2):
        keep(tmp_path, run(*fair, seed=seed), run(*good, loss="cb_fliprot", seed=seed))
    keep(tmp_path, run(*good, loss="focal", settings="optim=sps"), run(*fair, data="covidA", settings="optim=sps"))
    markdown = compare.write(tmp_path, "dice", "pl")
    assert markdown == (tmp_path / "tables/differences.md").read_text() == compare.write(tmp_path, "dice", "pl")
    defaults, sps = markdown.split("# Settings: optim=sps")
    assert "| covidB_sep | CB(Flip, Rot) + PL | 2       | 6       | +0.300       | +0.300 to +0.300 |" in defaults
    assert "focal" not in defaults
    assert "| covidB_sep | focal  | 0 of 1  | –       | –            | none (the baseline was not run) |" in sps
    assert "higher is better" in markdown
    numbers = pd.read_csv(tmp_path / "tables/differences.csv")
    assert numbers["loss"].tolist() == ["cb_fliprot", "focal"]
    assert numbers["difference"].tolist() == pytest.approx([0.3, np.nan], nan_ok=True)


def test_the_last_epochs_weights_are_compared_if_asked_for(tmp_path):
    fair, good = ([scan(tp=tp, fp=10 - tp, fn=10 - tp)] * 6 for tp in (5, 8))
    for loss, scans in (("pl", fair), ("cb_flip", good)):
        tested = {"test": made_results.SCORES, "undefined": {}, "counts": {}, "scans": run(*scans).scans}
        keep(tmp_path, replace(run(*fair, loss=loss), last=tested))
    assert "+0.000 to +0.000" in compare.write(tmp_path, "dice", "pl")
    markdown = compare.write(tmp_path, "dice", "pl", last=True)
    assert "weights of the last epoch" in markdown
    assert "+0.300 to +0.300" in markdown
    assert markdown == (tmp_path / "tables/last/differences.md").read_text()


def test_the_output_says_which_way_is_better_and_where_a_scan_is_one_slice(tmp_path):
    keep(tmp_path, run(scan(), scan()), run(scan(slices=1), scan(slices=1), data="covidA"))
    markdown = compare.write(tmp_path, "game", "pl")
    assert "No loss but pl was run." in markdown
    assert "lower is better" in markdown
    assert "A scan of covidA is one slice" in markdown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--score", "f1"],
            "--score f1: unknown; choose one of: dice, iou, ppv, sens, spec, dice_mean, hd95, nsd1, nsd2, mae, game1, "
            "game2, game3, game",
        ),
        (["--baseline", "full"], "--baseline full: unknown; choose one of: pl, focal"),
    ],
)
def test_what_does_not_exist_ends_in_one_line_that_lists_what_does(tmp_path, monkeypatch, options, message):
    keep(tmp_path, run(scan(), scan()), run(scan(), scan(), loss="focal"))
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path), *options])
    with pytest.raises(SystemExit) as error:
        compare.main()
    assert error.value.code == f"error: {message}"


def test_a_folder_without_finished_runs_says_so(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        compare.write(tmp_path / "empty", "dice", "pl")
