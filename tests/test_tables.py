"""Tables from run folders: ours beside the paper's, missing cells shown as missing."""

import json

import pandas as pd
import pytest
import yaml

from experiments import figures, tables


def finished(runs, data, loss, seed, dice, settings=""):
    folder = runs / data / loss / (f"seed{seed}" + (f",{settings}" if settings else ""))
    folder.mkdir(parents=True)
    test = {"dice": dice, "iou": 0.5, "ppv": None, "sens": 0.25, "spec": 0.9, "mae": 1.25, "game": 2.5}
    statistics = {"cases": 98, "slices": 98, "slices_with_infections": 98, "infected_regions": 779}
    run = {"data": data, "loss": loss, "seed": seed, "settings": settings, "test": test, "dataset": statistics}
    (folder / "metrics.json").write_text(json.dumps(run))


def test_table_2_shows_the_mean_over_seeds_beside_the_papers_and_dashes_for_what_is_missing(tmp_path):
    finished(tmp_path, "covidA", "pl", 0, 0.6)
    finished(tmp_path, "covidA", "pl", 1, 0.7)
    markdown = tables.write(tmp_path)
    assert "| Point loss (PL)    | 0.65 (0.54) | 0.50 (0.37) | – (0.39) | 0.25 (0.88) | 0.90 (0.73) |" in markdown
    assert "| Fully supervised   | – (0.65)" in markdown
    assert "| covidA    | 98 (60) | 98 (98)  | 98 (98)                  | 779 (776)" in markdown
    assert "| covidB    | – (9)" in markdown
    numbers = pd.read_csv(tmp_path / "tables/defaults/table2.csv", index_col=0)
    assert numbers.loc["Point loss (PL)", "Dice ours"] == pytest.approx(0.65)
    assert numbers.loc["Point loss (PL)", "Dice paper"] == 0.54
    assert pd.isna(numbers.loc["Fully supervised", "Dice ours"])
    latex = (tmp_path / "tables/defaults/table2.tex").read_text()
    assert r"\begin{tabular}" in latex
    assert "0.65 (0.54)" in latex


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
    with pytest.raises(SystemExit, match="no finished run"):
        tables.write(tmp_path)


def test_the_papers_numbers_are_those_of_the_paper(shared):
    theirs = yaml.safe_load((shared / "paper/tables.yaml").read_text())
    assert tables.PAPER["statistics"] == theirs["dataset_statistics"]["rows"]
    for data, rows in tables.PAPER["segmentation"].items():
        assert {loss: rows[loss] for loss in tables.PAPER_LOSSES["segmentation"]} == theirs["segmentation"][data]
    for data, rows in tables.PAPER["counting"].items():
        assert {loss: rows[loss] for loss in tables.PAPER_LOSSES["counting"]} == theirs["counting"][data]
