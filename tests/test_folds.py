"""Cross-validation as one result, and the ablation's rows: against scores and names worked out by hand."""

import sys

import made_results
import pandas as pd
import pytest

from cbseg.errors import InputError
from cbseg.folds import pool_folds
from cbseg.metrics import Counts, score_scans
from cbseg.results import find_results
from experiments import ablation, compare, tables

PART = "experiment=cv,loss@loss.supervised=pl_crf,"


def held_out(runs, fold, settings="experiment=cv", loss="cb_flip", seed=0, tp=8, last_tp=4, **more):
    """A run of two folds that held out two slices, of ten infected pixels each."""
    named = {f"train-{fold}{k}": {"tp": tp, "fp": 10 - tp, "fn": 10 - tp, "tn": 80} for k in range(2)}
    lasts = {name: {"tp": last_tp, "fp": 0, "fn": 10 - last_tp, "tn": 90} for name in named}
    selected, last = (
        score_scans({k: Counts.of_named(v | {"count_errors": [fold] * 5, "slices": 1}) for k, v in scans.items()})
        for scans in (named, lasts)
    )
    keys = {"data.split.folds": 2, "data.split.fold": fold, "data.seed": "${seed}", **more.pop("keys", {})}
    settings = f"data.split.fold={fold},{settings}" if fold else settings
    made = made_results.result("covidA_cv", loss, seed, settings, keys=keys, last=last, **selected | more)
    return made_results.write(runs, made)


def test_folds_are_pooled_over_all_held_out_slices_each_once(tmp_path):
    first = held_out(tmp_path, 0, tp=8)
    held_out(tmp_path, 1, tp=2)
    ((folder, result),) = pool_folds(find_results(tmp_path)).items()
    assert folder == first
    assert sorted(result.scans) == ["train-00", "train-01", "train-10", "train-11"]
    assert (result.counts["tp"], result.counts["fp"], result.counts["slices"]) == (20, 20, 4)
    assert result.test["dice"] == pytest.approx(40 / 80)
    assert result.test["mae"] == pytest.approx(0.5)
    assert result.last["test"]["dice"] == pytest.approx(2 * 16 / (16 + 40))
    assert "data.split.fold" not in result.keys
    assert result.settings == "experiment=cv"


def test_undefined_scores_of_pooled_folds_are_none(tmp_path):
    for fold in range(2):
        held_out(tmp_path, fold, last_tp=0)
    (result,) = pool_folds(find_results(tmp_path)).values()
    assert result.last["test"]["ppv"] is None


def test_runs_without_folds_stay_as_they_are(tmp_path):
    made_results.write(tmp_path, made_results.result())
    results = find_results(tmp_path)
    assert pool_folds(results) == results


def test_a_missing_fold_is_named_and_what_lacks_it_left_out(tmp_path, caplog):
    held_out(tmp_path, 0)
    held_out(tmp_path, 1)
    held_out(tmp_path, 1, seed=3, loss="pl")
    (result,) = pool_folds(find_results(tmp_path)).values()
    assert result.loss == "cb_flip"
    assert "covidA_cv, pl, seed 3, experiment=cv: data.split.fold=0 missing; left out" in caplog.text


def test_without_any_complete_cross_validation_the_error_names_the_folds_to_run(tmp_path):
    held_out(tmp_path, 1)
    with pytest.raises(
        InputError, match=r"no cross-validation is complete.*cb_flip, seed 0.*data\.split\.fold=0 missing"
    ):
        tables.write(tmp_path)
    (result,) = pool_folds(find_results(tmp_path), only=[1]).values()
    assert sorted(result.scans) == ["train-10", "train-11"]


def test_folds_that_hold_out_the_same_slice_are_refused(tmp_path):
    first, second = held_out(tmp_path, 0), held_out(tmp_path, 1)
    made_results.change(second, scans=find_results(tmp_path)[first].scans)
    with pytest.raises(InputError, match="both hold out train-[01]0, so that it would count twice"):
        pool_folds(find_results(tmp_path))


def test_the_same_fold_by_another_name_is_named_and_counts_once(tmp_path, caplog):
    for fold in range(2):
        held_out(tmp_path, fold)
    held_out(tmp_path, 1, settings="optim.lr=0.0001")
    (result,) = pool_folds(find_results(tmp_path)).values()
    assert len(result.scans) == 4
    assert "is the same run as" in caplog.text


def test_folds_of_other_data_or_settings_are_not_pooled_together(tmp_path):
    held_out(tmp_path, 0)
    held_out(tmp_path, 1, fingerprint="covidA-4567")
    with pytest.raises(InputError, match="no cross-validation is complete"):
        pool_folds(find_results(tmp_path))


def test_tables_and_differences_are_of_the_pooled_folds(tmp_path):
    for loss, tp in (("pl", 5), ("cb_flip", 8)):
        for fold in range(2):
            held_out(tmp_path, fold, loss=loss, tp=tp - fold)
    assert "# Settings: experiment=cv" in (markdown := tables.write(tmp_path))
    assert "| CB(Flip) + PL      | **0.75** (–)" in markdown
    assert "| covidA_cv | CB(Flip) + PL | 1       | 4       | +0.300 " in compare.write(tmp_path, "dice", "pl")


def a_race(runs):
    for seed in range(2):
        for fold in range(2):
            held_out(runs, fold, f"{PART}trainer.max_epochs=30-0123ab", tp=8 + seed, seed=seed, keys={"crf": 1})
            held_out(runs, fold, "experiment=cv,trainer.max_epochs=30-45cd67", tp=6, seed=seed)
            held_out(runs, fold, "experiment=cv,trainer.max_epochs=30-89ef01", loss="full", seed=seed)


def test_an_ablations_rows_are_named_by_what_not_all_of_them_change_the_losses_in_order(tmp_path):
    a_race(tmp_path)
    markdown = ablation.write(tmp_path, "covidA_cv", "dice", "cb_flip")
    table = pd.read_csv(tmp_path / "tables/ablation.csv", index_col=0)
    assert list(table.index) == ["full", "cb_flip", "cb_flip loss@loss.supervised=pl_crf"]
    assert table.loc[table.index[2], ["Dice ours", "Dice sd", "Dice n"]].tolist() == pytest.approx(
        [0.85, 0.005**0.5, 2]
    )
    cells = ([cell.strip() for cell in line.split("|")] for line in markdown.splitlines())
    rows = {row[1]: row[7:-1] for row in cells if len(row) > 9}
    assert rows["cb_flip"] == ["2", "4", "–", "–"]
    assert rows["cb_flip loss@loss.supervised=pl_crf"][:3] == ["2", "4", "+0.250"]
    assert "test dice (higher is better) minus that of CB(Flip) + PL" in markdown


def test_settings_that_differ_in_what_their_names_lose_keep_their_whole_names(tmp_path):
    for fold in range(2):
        held_out(tmp_path, fold, "model.weights=vgg.pth-0123ab", keys={"model.weights": "/a/vgg.pth"})
        held_out(tmp_path, fold, "model.weights=vgg.pth-89ef01", keys={"model.weights": "/b/vgg.pth"})
    (rows,) = ablation.rows_of(pool_folds(find_results(tmp_path))).values()
    assert list(rows) == ["cb_flip model.weights=vgg.pth-0123ab", "cb_flip model.weights=vgg.pth-89ef01"]


def test_rows_whose_long_names_were_cut_at_other_places_are_named_by_what_they_change(tmp_path):
    for labelled in (5, 45):
        name = f"data.labelled={labelled},experiment=cv,model.weights={'w' * 113},trainer.check_val_every_n_epoch=8"[
            :160
        ]
        for fold in range(2):
            held_out(tmp_path, fold, f"{name}-01ab{labelled:02}", keys={"data.labelled": str(labelled)})
    (rows,) = ablation.rows_of(pool_folds(find_results(tmp_path))).values()
    assert list(rows) == ["cb_flip data.labelled=5", "cb_flip data.labelled=45"]


def test_an_ablation_of_the_last_epochs_weights_says_so(tmp_path):
    a_race(tmp_path)
    markdown = ablation.write(tmp_path, None, "dice", None, last=True)
    assert "difference in dice to full; weights of the last epoch" in markdown
    assert pd.read_csv(tmp_path / "tables/last/ablation.csv")["Dice ours"].tolist() == pytest.approx([8 / 14] * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--baseline", "pl"], "--baseline=pl does not exist; choose one of: full, cb_flip, cb_flip loss@"),
        (["--score", "f1"], "--score=f1 does not exist; choose one of: dice, iou"),
        (["--data", "covidB_sep"], "holds no finished run of data=covidB_sep"),
        (["--folds", "5"], "data.split.fold=5 missing"),
    ],
)
def test_what_does_not_exist_ends_an_ablation_in_one_line(tmp_path, monkeypatch, options, message):
    a_race(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ablation", str(tmp_path), *options])
    with pytest.raises(SystemExit) as error:
        ablation.main()
    assert message in error.value.code
