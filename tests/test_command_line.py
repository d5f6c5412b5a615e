"""What the experiments' command lines share."""

import importlib
import sys

import made_results
import pytest

COUNTS = {"tp": 1, "fp": 1, "fn": 0, "tn": 2, "count_errors": [0] * 5, "slices": 1}
MADE = {"settings": "loss.weight=1", "scans": {"one": COUNTS, "two": COUNTS}}
PROGRAMS = ["tables", "compare", "figures", "report", "ablation"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_where_runs_cannot_be_written_out_takes_another_folder(program, tmp_path, monkeypatch, capsys):
    runs, out = tmp_path / "runs", tmp_path / "elsewhere" / "out"
    for loss in ("pl", "cb_flip"):
        made_results.write(runs, made_results.result(loss=loss, **MADE))
    before = sorted(runs.rglob("*"))
    main = importlib.import_module(f"experiments.{program}").main
    monkeypatch.setattr(sys, "argv", [program, str(runs), "--out", str(out)])
    main()
    assert sorted(runs.rglob("*")) == before
    assert list(out.rglob("*"))
    capsys.readouterr()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_folder_that_cannot_be_written_is_one_message_that_names_out(program, tmp_path, monkeypatch):
    made_results.write(tmp_path / "runs", made_results.result(**MADE))
    (tmp_path / "file").touch()
    main = importlib.import_module(f"experiments.{program}").main
    monkeypatch.setattr(sys, "argv", [program, str(tmp_path / "runs"), "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit, match="error: .*--out takes another folder"):
        main()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("link", ["report.html", "tables", "figures", "tables/last", "figures/page.png"])
def test_nothing_is_written_where_a_link_in_the_folder_of_runs_leads(program, link, tmp_path, monkeypatch):
    runs, away = tmp_path / "runs", tmp_path / "away"
    away.mkdir()
    for loss in ("pl", "cb_flip"):
        made_results.write(runs, made_results.result(loss=loss, **MADE))
    (away / "page").write_text("mine")
    (runs / link).parent.mkdir(exist_ok=True)
    (runs / link).symlink_to(away / "page" if "." in link else away)
    main = importlib.import_module(f"experiments.{program}").main
    monkeypatch.setattr(sys, "argv", [program, str(runs)])
    with pytest.raises(SystemExit, match=f"error: .*{link}: is a link.*--out"):
        main()
    assert [path.name for path in away.iterdir()] == ["page"]
    assert (away / "page").read_text() == "mine"
