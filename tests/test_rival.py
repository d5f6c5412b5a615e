"""Clicks against masks in equal time, and sensitivity against PPV: against numbers worked out by hand."""

import sys

import made_results
import numpy as np
import pandas as pd
import pytest
import torch

from cbseg.errors import InputError
from cbseg.metrics import LOG_ODDS, Counts, count_levels
from cbseg.results import read_result
from cbseg.run_folder import RunFolder
from cbseg.threshold_curves import write_curve
from experiments import rival, thresholds


def labelled(runs, loss, slices, dice, seed=0, labels=None, **more):
    """A run on so many slices, of two regions each."""
    labels = {"regions": 2 * slices} if loss == "full" else {"clicks": 4 * slices} if labels is None else labels
    settings = f"data.labelled={slices},experiment=covidA_rival"
    made = made_results.result(
        "covidA", loss, seed, settings, labels=labels, split={"train": slices},
        test=made_results.SCORES | {"dice": dice}, last={"test": made_results.SCORES | {"dice": 0.1}}, **more,
    )  # fmt: skip
    return RunFolder(made_results.write(runs, made))


def test_minutes_are_those_of_all_clicks_or_of_all_regions():
    clicks, regions = (made_results.result(labels=labels) for labels in ({"clicks": 60}, {"regions": 24}))
    assert rival.minutes(clicks) == (1, 3)
    assert rival.minutes(regions) == (4, 6)


def test_a_line_is_a_loss_over_numbers_of_slices_with_the_mean_and_range_over_seeds(tmp_path, monkeypatch, capsys):
    for slices, dice in ((15, 0.5), (30, 0.6)):
        labelled(tmp_path, "full", slices, dice)
        for seed in range(2):
            labelled(tmp_path, "cb_flip", slices, dice + seed / 10, seed)
    found = rival.points(tmp_path)
    assert found["line"].tolist() == ["cb_flip", "cb_flip", "full", "full"]
    assert found["slices"].tolist() == [15, 30, 15, 30]
    assert found["dice"].tolist() == pytest.approx([0.55, 0.65, 0.5, 0.6])
    assert found["dice_high"].tolist() == pytest.approx([0.6, 0.7, 0.5, 0.6])
    assert found["minutes_low"].tolist() == pytest.approx([1, 2, 5, 10])
    assert found["minutes_high"].tolist() == pytest.approx([3, 6, 7.5, 15])
    assert rival.points(tmp_path, last=True)["dice"].tolist() == pytest.approx([0.1] * 4)
    monkeypatch.setattr(sys, "argv", ["rival", str(tmp_path), "--out", str(tmp_path / "out")])
    rival.main()
    assert {path.name for path in (tmp_path / "out/figures").iterdir()} == {"covidA-minutes.png", "covidA-minutes.pdf"}
    assert "| cb_flip |" in capsys.readouterr().out


def test_runs_that_do_not_tell_their_labels_are_left_out_and_alone_refused(tmp_path):
    folder = labelled(tmp_path, "pl", 5, 0.4)
    made_results.change(folder.path, labels=None)
    assert read_result(folder).labels == {}
    with pytest.raises(InputError, match="no run says how many clicks or regions it learned from"):
        rival.points(tmp_path)
    labelled(tmp_path, "full", 5, 0.5)
    assert rival.points(tmp_path)["line"].tolist() == ["full"]


def test_a_dice_that_is_undefined_in_a_seed_is_left_out_with_a_message_and_alone_refused(tmp_path, caplog):
    labelled(tmp_path, "pl", 5, 0.4)
    labelled(tmp_path, "pl", 5, None, seed=1)
    with pytest.raises(InputError, match="no run has a defined Dice"):
        rival.points(tmp_path)
    labelled(tmp_path, "full", 5, 0.5)
    assert rival.points(tmp_path)["line"].tolist() == ["full"]
    assert "Dice of pl is undefined in a seed; left out" in caplog.text


def test_a_curve_goes_over_the_thresholds_and_through_what_was_tested(tmp_path):
    truth = torch.tensor([[1] * 10 + [0] * 30])
    log_odds = torch.cat([torch.linspace(-2, 5, 10), torch.linspace(-5, 1, 30)])[None]
    logits = torch.stack([torch.zeros(1, 40), log_odds])
    tested = Counts.of((log_odds > 0).long(), truth, levels=count_levels(logits, truth))
    folder = labelled(tmp_path, "pl", 5, tested.scores()["dice"].item())
    write_curve(folder.thresholds, {"scan": tested})
    curve, kinds = thresholds.curves(tmp_path)["covidA"]["pl"]
    assert kinds == 1
    assert len(curve) == len(LOG_ODDS)
    for name in ("ppv", "sens", "dice"):
        assert curve.loc[0.5, name] == pytest.approx(tested.scores()[name].item())
    assert np.all(np.diff(curve["sens"]) <= 0)
    assert curve["dice"].max() > curve.loc[0.5, "dice"]
    assert [line.endswith("covidA-thresholds.png, .pdf") for line in thresholds.write(tmp_path)] == [True]
    assert (tmp_path / "figures/covidA-thresholds.png").is_file()


def counted(*at, sparse=0):
    """The counts of a result, of two slices."""
    one = dict(zip(("tp", "fp", "fn", "tn"), at, strict=True))
    return one | {"count_errors": [0] * 5, "slices": 2, "whole": 2 - sparse, "sparse": sparse}


AT_HALF = pd.DataFrame({"scan": ["a"], "threshold": [0.5], "tp": [1], "fp": [1], "fn": [0], "tn": [2]})


def test_runs_tested_at_held_out_clicks_have_no_curve_and_are_named(tmp_path, caplog):
    for loss, sparse in (("pl", 2), ("full", 0)):
        folder = labelled(tmp_path, loss, 5, 0.5, counts=counted(1, 1, 0, 2, sparse=sparse))
        AT_HALF.to_csv(folder.thresholds, index=False)
    assert list(thresholds.curves(tmp_path)["covidA"]) == ["full"]
    assert "known at a few pixels only, which tell no PPV and no Dice; left out" in caplog.text


def test_of_several_kinds_of_infection_no_threshold_is_called_the_decision(tmp_path):
    folder = labelled(tmp_path, "pl", 5, 0.5, counts=counted([1, 0], [1, 0], [0, 1], [2, 3]))
    AT_HALF.to_csv(folder.thresholds, index=False)
    figure = thresholds.draw("own", thresholds.curves(tmp_path)["covidA"])
    assert "o" not in {line.get_marker() for line in figure.axes[0].lines}
    assert figure.legends[0].get_texts()[0].get_text() == "pl: Dice of any of 2 kinds of infection, at best 0.67"


def test_curves_are_means_over_seeds_as_in_tables_and_folds_alone_have_none(tmp_path):
    counts = AT_HALF
    for seed, wrong in ((0, 1), (1, 3)):
        folder = labelled(tmp_path, "pl", 5, 0.5, seed)
        counts.assign(fp=wrong).to_csv(folder.thresholds, index=False)
    found = thresholds.curves(tmp_path)["covidA"]["pl"].scores.loc[0.5]
    assert found["ppv"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert found["dice"] == pytest.approx((2 / 3 + 2 / 5) / 2)
    folder = labelled(tmp_path / "cv", "pl", 5, 0.5, keys={"data.split.fold": 0, "data.split.folds": 2})
    counts.to_csv(folder.thresholds, index=False)
    with pytest.raises(InputError, match="no run kept counts at other thresholds"):
        thresholds.curves(tmp_path / "cv")


def test_runs_without_counts_at_thresholds_end_the_command_in_one_line(tmp_path, monkeypatch):
    labelled(tmp_path, "pl", 5, 0.5)
    monkeypatch.setattr(sys, "argv", ["thresholds", str(tmp_path)])
    with pytest.raises(SystemExit, match="error: .*no run kept counts at other thresholds; run them anew"):
        thresholds.main()


def test_a_run_tells_how_many_labels_it_learned_from(train):
    clicks, regions = (read_result(RunFolder(train(f"loss={loss}", "trainer.max_epochs=1"))) for loss in ("pl", "full"))
    assert regions.labels["regions"] > 0
    assert clicks.labels["clicks"] == pytest.approx(
        2 * regions.labels["regions"], rel=0.2
    )  # and as many background ones
