"""The W&B dashboard as code: test scores, learning curves and overlays of each dataset, by loss.

``python -m experiments.dashboard --entity <user or team>`` saves a report with a section for each dataset and prints
its URL. ``--kind workspace`` saves a view of the project's workspace for each dataset instead, as a view has one filter
for all its sections. ``--dry-run`` prints what would be saved, without a network.

A W&B run's group is its data and its job type its loss, by name, as :mod:`cbseg.wandb_log` sets them. No config key
names the loss: several losses share one ``loss._target_``.
"""

import argparse
import copy
import json
import sys
from typing import Any

import wandb

from cbseg.config import CONF
from cbseg.errors import InputError
from cbseg.wandb_settings import default_project
from experiments.command_line import one_message
from experiments.tables import COLUMNS

DATASETS = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
SCORES = {f"test/{score}": title for columns in COLUMNS.values() for score, title in columns.items()}
CURVES = ("val/dice", "val/mae", "val/game", "train/loss")
TERMS = "^train/"  # whatever a loss calls them
OVERLAYS = "val/overlays"
TABLE = ["run:displayName", *(f"summary:{score}" for score in SCORES)]

_MISSING = "the dashboard needs W&B's wandb-workspaces: pip install -e '.[dashboard]'"
_LOGIN = "you are not logged in to W&B: run `wandb login`, or set WANDB_API_KEY; --dry-run needs no login"


def panels() -> dict[str, list[Any]]:
    """Make a dataset's panels by their section's title; grouped runs show as means and standard deviations."""
    import wandb_workspaces.reports.v2 as wr

    over_seeds: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}

    def curve(metric: str) -> Any:
        return wr.LinePlot(title=metric, x="epoch", y=[metric], **over_seeds)

    wide = wr.Layout(w=24, h=12)

    return {
        "Test scores": [wr.BarPlot(title=title, metrics=[score], **over_seeds) for score, title in SCORES.items()],
        "Learning curves": [curve(metric) for metric in CURVES],
        "Terms of the losses": [
            wr.LinePlot(title="train/…", x="epoch", metric_regex=TERMS, layout=wide, **over_seeds),
        ],
        "Overlays": [
            wr.MediaBrowser(
                title="Truth, prediction and points",
                media_keys=[OVERLAYS],
                num_columns=3,
                layout=wide,
            )
        ],
    }


def workspace(entity: str, project: str, data: str) -> Any:
    """Make a view of the workspace that shows one dataset's runs by loss; the list of runs is the table of scores.

    Args:
        entity: W&B's user or team.
        project: W&B's project.
        data: The data config's name.

    Returns:
        A ``wandb_workspaces.workspaces.Workspace``, not saved yet.
    """
    import wandb_workspaces.workspaces as ws

    layout = ws.SectionLayoutSettings(columns=4, rows=2)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"cbseg {data}",
        sections=[
            ws.Section(name=title, panels=shown, is_open=True, layout_settings=layout)
            for title, shown in panels().items()
        ],
        settings=ws.WorkspaceSettings(x_axis="epoch"),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group") == data], groupby=[ws.Metric("JobType")], pinned_columns=list(TABLE)
        ),
    )


def report(entity: str, project: str, datasets: list[str]) -> Any:
    """Make a report with a section for each dataset, which shows that dataset's runs by loss, and its table of scores.

    Args:
        entity: W&B's user or team.
        project: W&B's project.
        datasets: The data configs' names, in the order to show.

    Returns:
        A ``wandb_workspaces.reports.v2.Report``, not saved yet.
    """
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    blocks: list[Any] = [wr.TableOfContents()]
    for data in datasets:
        blocks.append(wr.H1(data))
        for title, shown in panels().items():
            runs = wr.Runset(
                entity=entity,
                project=project,
                name=data,
                filters=[expr.Metric("Group") == data],
                groupby=[] if title == "Overlays" else ["JobType"],  # pictures are of one run, not of a mean
                pinned_columns=list(TABLE),
                lock_columns=True,
            )
            blocks += [wr.H2(title), wr.PanelGrid(runsets=[runs], panels=shown, hide_run_sets=title != "Test scores")]
    return wr.Report(
        entity=entity,
        project=project,
        title="cbseg losses by dataset",
        description="Means and standard deviations over the runs of each loss, whatever their seeds and settings.",
        blocks=blocks,
        width="fluid",
    )


def specification(built: Any) -> dict[str, Any]:
    """Return what is saved, for JSON; run sets without their project's number, which only the server knows."""
    built = copy.deepcopy(built)
    for block in getattr(built, "blocks", []):
        for runs in getattr(block, "runsets", []):
            runs.entity = ""
    return built._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)


def save(built: Any) -> str:
    """Save a view or report, and return its URL.

    Raises:
        InputError: If nobody is logged in to W&B, or W&B refuses.
    """
    try:
        if wandb.login(prompt=False, verify=False):
            built.save()
            return built.url
    except Exception as error:  # the library raises plain Exceptions too
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"W&B could not save to {built.entity}/{built.project} ({reason}). Check both names, upload a run first, "
            "which makes the project, and log in as somebody who may write there: `wandb login --relogin`"
        ) from error
    raise InputError(_LOGIN)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="The W&B dashboard: a report, or views of the workspace.")
    parser.add_argument("--entity", required=True, help="W&B's user or team")
    parser.add_argument("--project", default=default_project(), help="W&B's project (default: %(default)s)")
    parser.add_argument("--kind", choices=["report", "workspace"], default="report", help="(default: %(default)s)")
    parser.add_argument("--data", nargs="+", default=DATASETS, metavar="NAME", help="datasets (default: all)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be saved, as JSON")
    chosen = parser.parse_args()
    try:
        if chosen.kind == "report":
            dashboard = [report(chosen.entity, chosen.project, chosen.data)]
        else:
            dashboard = [workspace(chosen.entity, chosen.project, data) for data in chosen.data]
    except ModuleNotFoundError:
        sys.exit(_MISSING)
    if chosen.dry_run:
        print(json.dumps([specification(built) for built in dashboard], indent=2))
    else:
        with one_message():
            for built in dashboard:
                print(save(built))


if __name__ == "__main__":
    main()
