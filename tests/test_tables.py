"""Tables from run folders: ours beside the paper's, missing cells shown as missing."""

import made_results
import pandas as pd
import pytest
import yaml

from cbseg.errors import InputError
from cbseg.results import by_setting, find_results
from experiments import figures, tables
from experiments.table_format import Cell, Table


def finished(runs, data, loss, seed, dice, settings="", keys=None, **scores):
    test = made_results.SCORES | {"dice": dice} | scores
    last = {"test": test | {"dice": None if dice is None else dice - 0.1}}
    more = {} if keys is None else {"keys": keys}
    return made_results.write(runs, made_results.result(data, loss, seed, settings, test=test, last=last, **more))


def test_table_2_shows_mean_and_sd_over_seeds_beside_the_papers_and_dashes_for_what_is_missing(tmp_path):
    finished(tmp_path, "covidA", "pl", 0, 0.6)
    finished(tmp_path, "covidA", "pl", 1, 0.7)
    markdown = tables.write(tmp_path)
    assert "**Table 2: covidA segmentation, ours, mean ± standard deviation over 2 seeds (paper's)**" in markdown
    dice, others = "0.65 ± 0.07 (0.54)", "0.50 ± 0.00 (0.37) | – (0.39) | 0.25 ± 0.00 (0.88) | 0.90 ± 0.00 (0.73)"
    assert f"| Point loss (PL)    | {dice} | {others} |" in markdown
    assert "| Fully supervised   | – (0.65)" in markdown
    assert "| covidA    | 98 (60) | 98 (98)  | 98 (98)                  | 779 (776)" in markdown
    assert "| covidB    | – (9)" in markdown
    numbers = pd.read_csv(tmp_path / "tables/defaults/table2.csv", index_col=0)
    assert numbers.loc["Point loss (PL)", ["Dice ours", "Dice sd", "Dice n", "Dice paper"]].tolist() == pytest.approx(
        [0.65, 0.005**0.5, 2, 0.54]
    )
    assert pd.isna(numbers.loc["Fully supervised", "Dice ours"])
    assert numbers.loc["Fully supervised", "Dice n"] == 0
    latex = (tmp_path / "tables/defaults/table2.tex").read_text()
    assert r"\begin{tabular}" in latex
    assert "0.65 ± 0.07 (0.54)" in latex


def test_rows_with_different_seeds_say_how_many_and_which_are_missing(tmp_path):
    for seed in range(3):
        finished(tmp_path, "covidA", "pl", seed, 0.6)
    finished(tmp_path, "covidA", "cb_flip", 1, 0.5)
    markdown = tables.write(tmp_path)
    assert "ours, mean ± standard deviation over 1 to 3 seeds (paper's)" in markdown
    assert "| Loss function      | Seeds   | Dice " in markdown
    assert "| Fully supervised   | 0       | – (0.65)" in markdown
    assert "| Point loss (PL)    | 3       | **0.60 ± 0.00** (0.54)" in markdown
    assert "| CB(Flip) + PL      | 1       | 0.50 (0.58)" in markdown
    assert (
        "\n\nNot run: Fully supervised; CB(Flip, Rot) + PL. Seeds missing: CB(Flip) + PL has no seed 0, 2." in markdown
    )


def test_seeds_that_differ_are_named_also_where_their_number_does_not(tmp_path):
    finished(tmp_path, "covidA", "pl", 0, 0.6)
    finished(tmp_path, "covidA", "cb_flip", 1, 0.5)
    markdown = tables.write(tmp_path)
    assert "Seeds missing: Point loss (PL) has no seed 1; CB(Flip) + PL has no seed 0." in markdown
    assert "| Seeds " not in markdown


def test_a_score_undefined_in_some_seeds_is_a_dash_and_never_the_mean_over_the_rest(tmp_path):
    finished(tmp_path, "covidA", "pl", 0, 0.6, iou=None, ppv=0.9)
    finished(tmp_path, "covidA", "pl", 1, None, iou=None, ppv=0.7)
    markdown = tables.write(tmp_path)
    assert "| Point loss (PL)    | – (0.54) | – (0.37) | 0.80 ± 0.14 (0.39)" in markdown
    assert "Undefined: Dice of Point loss (PL) in seed 1; IoU of Point loss (PL) in seed 0, 1." in markdown
    numbers = pd.read_csv(tmp_path / "tables/defaults/table2.csv", index_col=0).loc["Point loss (PL)"]
    assert pd.isna(numbers["Dice ours"])
    assert pd.isna(numbers["Dice sd"])
    assert numbers["Dice n"] == 1


def test_a_complete_table_has_no_note():
    complete = Table("t", "t", "Loss", {"A": {"x": Cell({0: 0.5}, None)}}, 2)
    assert complete.note == ""
    assert complete.markdown().endswith("|")
    assert complete.latex().endswith("\\end{tabular}\n\\end{table}\n")


def test_the_best_weakly_supervised_score_of_each_column_is_bold(tmp_path):
    finished(tmp_path, "covidC_mixed", "full", 0, 0.9, ppv=0.9, mae=0.1)
    finished(tmp_path, "covidC_mixed", "pl", 0, 0.601, ppv=0.5, mae=3.0)
    finished(tmp_path, "covidC_mixed", "lcfcn", 0, 0.599, mae=2.0)
    finished(tmp_path, "covidC_mixed", "cb_lcfcn", 0, 0.5, mae=2.5)
    segmentation, counting = (
        table.text() for table in tables.tables(*by_setting(find_results(tmp_path))) if "covidC_m" in table.caption
    )
    assert segmentation["Dice"].tolist() == [
        "0.90 (0.78)", "**0.60** (0.12)", "– (0.66)", "– (0.68)", "**0.60** (–)", "0.50 (–)",
    ]  # fmt: skip
    assert segmentation.loc["Point loss (PL)", "PPV"] == "0.50 (0.07)"  # alone among the weakly supervised
    assert counting["MAE"].tolist() == ["0.10 (–)", "3.00 (9.63)", "**2.00** (1.01)", "2.50 (0.82)"]
    assert counting["GAME(4)"].tolist() == ["2.50 (–)", "**2.50** (11.76)", "**2.50** (1.70)", "**2.50** (1.42)"]


def test_bold_is_each_formats_own_and_latex_source_is_escaped(tmp_path):
    for seed, dice in enumerate((0.6, 0.7)):
        finished(tmp_path, "my_data", "pl", seed, dice)
    finished(tmp_path, "my_data", "my_loss", 0, 0.5)
    assert (
        "**my_data segmentation, ours, mean ± standard deviation over 1 to 2 seeds (paper's); bold: "
        in tables.write(tmp_path)
    )
    latex = (tmp_path / "tables/defaults/table_my_data_segmentation.tex").read_text()
    assert r"\caption{my\_data segmentation" in latex
    assert r"Point loss (PL) & 2 & \textbf{0.65 ± 0.07} (–)" in latex
    assert r"my\_loss & 1 & 0.50 (–)" in latex
    assert latex.index(r"\end{tabular}") < latex.index(r"my\_loss has no seed 1.") < latex.index(r"\end{table}")
    table = tables.scores_table("segmentation", "my_data", *by_setting(find_results(tmp_path)))
    assert table.text("<b>{}</b>".format).loc["Point loss (PL)", "Dice"] == "<b>0.65 ± 0.07</b> (–)"
    assert table.text(str).loc["Point loss (PL)", "Dice"] == "0.65 ± 0.07 (–)"


def test_runs_of_different_settings_are_never_averaged(tmp_path):
    finished(tmp_path, "covidA", "pl", 0, 0.6)
    finished(tmp_path, "covidA", "pl", 0, 0.2, "optim=sps")
    markdown = tables.write(tmp_path)
    assert (
        markdown.index("Settings: the defaults") < markdown.index("0.60 (0.54)") < markdown.index("Settings: optim=sps")
    )
    assert "0.20 (0.54)" in markdown
    assert "0.40 (0.54)" not in markdown


def test_other_losses_and_datasets_are_shown_without_a_paper_value(tmp_path):
    finished(tmp_path, "covidA", "focal", 0, 0.6)
    finished(tmp_path, "mine", "pl", 0, 0.7)
    markdown = tables.write(tmp_path)
    assert "| focal              | 0.60 (–)" in markdown
    assert "mine segmentation" in markdown
    assert "| Point loss (PL)    | 0.70 (–)" in markdown
    assert (tmp_path / "tables/defaults/table_mine_segmentation.csv").is_file()
    assert (tmp_path / "tables/defaults/table_mine_counting.csv").is_file()
    assert [line.split(":")[0] for line in figures.write(tmp_path)] == ["covidA", "mine", "mine-counting"]


def test_tables_7_and_8_show_counting_beside_the_papers(tmp_path):
    finished(tmp_path, "covidC_mixed", "cb_lcfcn", 0, 0.6)
    finished(tmp_path, "covidC_mixed", "full", 0, 0.6)
    markdown = tables.write(tmp_path)
    assert "Table 7: covidB_mixed counting, ours, not run" in markdown
    assert "| CB-LCFCN        | – (0.66)" in markdown
    assert "| CB-LCFCN         | 1.25 (0.82) | 2.50 (1.42)" in markdown
    assert "| Fully supervised | 1.25 (–)    | 2.50 (–)" in markdown
    assert pd.read_csv(tmp_path / "tables/defaults/table8.csv", index_col=0).loc["CB-LCFCN", "GAME(4) ours"] == 2.5


def test_runs_set_aside_do_not_count(tmp_path):
    finished(tmp_path, "covidA", "pl", 0, 0.6)
    (tmp_path / "covidA/pl/old").mkdir()
    finished(tmp_path / "aside", "covidA", "pl", 0, 0.2)
    (tmp_path / "aside/covidA/pl/seed0").rename(tmp_path / "covidA/pl/old/seed0-1")
    assert "0.60 (0.54)" in tables.write(tmp_path)


def test_a_folder_without_runs_says_so(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        tables.write(tmp_path)


def test_the_papers_numbers_are_those_of_the_paper(shared):
    theirs = yaml.safe_load((shared / "paper/tables.yaml").read_text())
    assert tables.PAPER["statistics"] == theirs["dataset_statistics"]["rows"]
    for data, rows in tables.PAPER["segmentation"].items():
        assert {loss: rows[loss] for loss in tables.PAPER_LOSSES["segmentation"]} == theirs["segmentation"][data]
    for data, rows in tables.PAPER["counting"].items():
        assert {loss: rows[loss] for loss in tables.PAPER_LOSSES["counting"]} == theirs["counting"][data]


def test_the_last_epochs_scores_have_tables_of_their_own(tmp_path):
    finished(tmp_path, "covidA", "pl", 0, 0.6)
    assert "| Point loss (PL)    | 0.60 (0.54)" in tables.write(tmp_path)
    markdown = tables.write(tmp_path, last=True)
    assert "# Settings: the defaults; weights of the last epoch" in markdown
    assert "| Point loss (PL)    | 0.50 (0.54)" in markdown
    assert (tmp_path / "tables/last/defaults/table2.csv").is_file()
    assert "0.60" in (tmp_path / "tables/tables.md").read_text()


def test_a_run_that_did_not_test_its_last_epoch_is_named_and_left_out(tmp_path, caplog):
    made_results.change(finished(tmp_path, "covidA", "pl", 0, 0.6), last=None)
    finished(tmp_path, "covidA", "pl", 1, 0.7)
    assert "| Point loss (PL)    | 0.60 (0.54)" in tables.write(tmp_path, last=True)
    assert "covidA/pl/seed0/metrics.json: is damaged (last missing" in caplog.text


def test_kinds_of_infection_have_scores_of_their_own(tmp_path):
    counts = {"tp": [8, 1], "fp": [2, 0], "fn": [2, 3], "tn": [88, 96], "count_errors": [0] * 5, "slices": 1}
    keys = {f"data.find_scans.classes.{name}": value for name, value in (("ggo", 1), ("consolidation", 2))}
    for loss in ("pl", "full"):
        made_results.write(tmp_path, made_results.result("own", loss, 0, counts=counts, keys=keys))
    markdown = tables.write(tmp_path)
    assert "**own segmentation by class, ours, 1 seed" in markdown
    assert "| Point loss (PL): ggo            | 0.80 " in markdown
    assert "| Point loss (PL): consolidation  | 0.40 " in markdown
    assert "by class" not in tables.write(write_one(tmp_path / "other"))


def test_surface_scores_have_a_table_of_their_own_where_runs_measured_them(tmp_path):
    surface = {"dice_mean": 0.5, "hd95": 12.345, "nsd1": 0.25, "nsd2": 0.5}
    finished(tmp_path, "covidA", "pl", 0, 0.6, **surface)
    finished(tmp_path, "covidA", "pl", 1, 0.6)
    finished(tmp_path, "covidA", "full", 1, 0.6)
    finished(tmp_path, "mine", "pl", 0, 0.6)
    markdown = tables.write(tmp_path)
    assert "**covidA surfaces, HD95 in pixels, surface Dice (NSD) at 1 and 2 pixels, ours, 1 seed**" in markdown
    shown = pd.read_csv(tmp_path / "tables/defaults/table_covidA_surface.csv", index_col=0)
    assert shown.loc["Point loss (PL)", ["HD95 ours", "NSD(1) ours", "NSD(2) ours", "HD95 n"]].tolist() == [
        12.345, 0.25, 0.5, 1,
    ]  # fmt: skip
    assert shown.index.tolist() == ["Point loss (PL)"]
    assert "mine surfaces" not in markdown


def write_one(runs):
    finished(runs, "covidA", "pl", 0, 0.6)
    return runs
