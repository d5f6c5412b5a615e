"""The W&B dashboard: what it shows of which runs, and what it says where it cannot be saved. No test needs a server."""

import importlib.util
import json
import sys

import pytest
import wandb

from cbseg.metrics import COUNTING_SCORES, SCORES
from experiments import dashboard

SECTIONS = ["Test scores", "Learning curves", "Terms of the losses", "Overlays"]
BY_LOSS = [{"section": "run", "name": "jobType"}]

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None,
    reason="wandb-workspaces is not installed: pip install -e '.[dashboard]'",
)


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["dashboard", "--entity", "lab", *arguments])
    dashboard.main()


def dry_run(monkeypatch, capsys, *arguments):
    """What the dry run prints, where each attempt to reach W&B fails."""
    monkeypatch.setattr(wandb, "login", lambda **_: pytest.fail("logs in"))
    monkeypatch.setattr(wandb, "Api", lambda **_: pytest.fail("asks the server"))
    run_main(monkeypatch, "--dry-run", *arguments)
    return json.loads(capsys.readouterr().out)


def metrics(panels):
    config = [panel["config"] for panel in panels]
    return [each.get("metrics") or each.get("mediaKeys") or each["metricRegex"] for each in config]


def only_group(run_set):
    """The one group that a run set is filtered by."""
    (only,) = run_set["filters"]["filters"]
    assert (only["key"], only["op"], only["disabled"]) == ({"section": "run", "name": "group"}, "=", False)
    return only["value"]


def test_the_scores_are_those_that_a_run_reports():
    assert set(dashboard.SCORES) <= {f"test/{score}" for score in (*SCORES, *COUNTING_SCORES)}
    assert {"val/dice", "val/mae", "val/game"} <= set(dashboard.CURVES)


@needs_library
def test_a_workspace_view_shows_one_datasets_runs_by_loss_in_four_sections(monkeypatch, capsys):
    views = dry_run(monkeypatch, capsys, "--kind", "workspace")
    assert [view["displayName"] for view in views] == [f"cbseg {data}" for data in dashboard.DATASETS]
    for view, data in zip(views, dashboard.DATASETS, strict=True):
        assert (view["entity"], view["project"]) == ("lab", "cbseg")
        shown = view["spec"]["section"]
        (run_set,) = shown["runSets"]
        assert only_group(run_set) == data
        assert run_set["grouping"] == BY_LOSS
        assert run_set["runFeed"]["columnOrder"] == ["run:displayName", *(f"summary:{s}" for s in dashboard.SCORES)]
        sections = {section["name"]: section["panels"] for section in shown["panelBankConfig"]["sections"]}
        assert list(sections) == SECTIONS
        scores, curves, terms, overlays = map(metrics, sections.values())
        assert scores == [[f"test/{score}"] for score in ("dice", "iou", "ppv", "sens", "spec", "mae", "game")]
        assert curves == [["val/dice"], ["val/mae"], ["val/game"], ["train/loss"]]
        assert terms == ["^train/"]
        assert sections["Terms of the losses"][0]["config"]["useMetricRegex"]
        assert overlays == [["val/overlays"]]
        lines = [*sections["Learning curves"], *sections["Terms of the losses"]]
        assert {(panel["config"]["xAxis"], panel["config"]["groupAgg"]) for panel in lines} == {("epoch", "mean")}


@needs_library
def test_a_report_has_a_section_for_each_dataset_filtered_by_group(monkeypatch, capsys):
    (report,) = dry_run(monkeypatch, capsys, "--project", "covid")
    assert report["project"] == {"name": "covid", "entityName": "lab"}
    blocks = report["spec"]["blocks"]
    heads = [(b["level"], b["children"][0]["text"]) for b in blocks if b["type"] == "heading"]
    assert heads == [head for d in dashboard.DATASETS for head in [(1, d), *((2, title) for title in SECTIONS)]]
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    run_sets = [run_set for grid in grids for run_set in grid["runSets"]]
    assert [only_group(run_set) for run_set in run_sets] == [d for d in dashboard.DATASETS for _ in SECTIONS]
    assert [run_set["grouping"] for run_set in run_sets[:4]] == [BY_LOSS, BY_LOSS, BY_LOSS, []]
    assert [grid["hideRunSets"] for grid in grids[:4]] == [False, True, True, True]
    shown = [metrics(grid["panelBankSectionConfig"]["panels"]) for grid in grids[:4]]
    assert shown == [metrics([p._to_model().model_dump(by_alias=True) for p in s]) for s in dashboard.panels().values()]


@needs_library
def test_the_run_sets_that_are_saved_name_entity_and_project():
    from wandb_workspaces.reports.v2 import PanelGrid

    report = dashboard.report("lab", "covid", ["covidA"])
    dashboard.specification(report)
    run_sets = [runs for block in report.blocks if isinstance(block, PanelGrid) for runs in block.runsets]
    assert {(runs.entity, runs.project) for runs in run_sets} == {("lab", "covid")}


@needs_library
@pytest.mark.parametrize("kind", ["report", "workspace"])
def test_what_was_saved_is_told_by_its_url(kind, monkeypatch, capsys):
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    saved = []
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    for built in (wr.Report, ws.Workspace):
        monkeypatch.setattr(built, "save", lambda self: saved.append(self))
        monkeypatch.setattr(built, "url", property(lambda self: f"https://wandb.example/{self.entity}/{id(self)}"))
    run_main(monkeypatch, "--kind", kind, "--data", "covidA", "covidC_sep")
    assert len(saved) == {"report": 1, "workspace": 2}[kind]
    assert capsys.readouterr().out.split() == [f"https://wandb.example/lab/{id(built)}" for built in saved]


@needs_library
@pytest.mark.parametrize(
    "error", [ValueError("project not\nfound"), wandb.errors.CommError("permission denied"), KeyError()]
)
def test_a_server_that_refuses_ends_it_with_one_line(error, monkeypatch):
    import wandb_workspaces.workspaces as ws

    def refuse(self):
        raise error

    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(ws.Workspace, "save", refuse)
    with pytest.raises(SystemExit, match=r"could not save to lab/cbseg \(\w+Error.*wandb login") as stop:
        run_main(monkeypatch, "--kind", "workspace")
    assert "\n" not in str(stop.value)


@needs_library
def test_without_a_login_it_says_how_to_log_in_and_saves_nothing(monkeypatch):
    import wandb_workspaces.reports.v2 as wr

    monkeypatch.setattr(wandb, "login", lambda **_: False)
    monkeypatch.setattr(wr.Report, "save", lambda self: pytest.fail("saves"))
    with pytest.raises(SystemExit, match="not logged in to W&B: run `wandb login`"):
        run_main(monkeypatch)


@pytest.mark.parametrize("kind", ["report", "workspace"])
def test_without_the_library_it_says_how_to_install_it(kind, monkeypatch):
    for module in ("reports.v2", "workspaces"):
        monkeypatch.setitem(sys.modules, f"wandb_workspaces.{module}", None)
    with pytest.raises(SystemExit, match=r"wandb-workspaces: pip install -e '.\[dashboard\]'"):
        run_main(monkeypatch, "--kind", kind)
