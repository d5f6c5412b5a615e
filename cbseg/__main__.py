"""List the commands: ``python -m cbseg``."""

COMMANDS = {
    "cbseg.run": "train, select and test: one run, or a sweep with -m",
    "cbseg.predict": "segment new CT with a run's weights",
    "cbseg.click": "a page for clicking on your own CT, on this machine alone",
    "cbseg.data.download": "fetch one of the paper's datasets, or say how",
    "cbseg.data.check": "look at a dataset before training on it",
    "cbseg.data.phantom": "draw a dataset of the same form, of no patient",
    "experiments.tables": "the paper's tables from runs, beside its numbers",
    "experiments.compare": "how much each loss differs from another, with intervals",
    "experiments.ablation": "what settings do to the scores",
    "experiments.figures": "what each loss predicts and counts, as pictures",
    "experiments.rival": "Dice against the minutes that clicks and masks take",
    "experiments.thresholds": "sensitivity against PPV over thresholds, of each loss",
    "experiments.report": "all of it on one page, report.html",
    "experiments.dashboard": "the same in W&B",
    "experiments.bench": "what things cost, beside plain baselines",
    "experiments.step_profile": "where the time of a training step goes",
}
"""Each module to run with ``python -m``, and what it does."""


def main() -> None:
    """Print the commands, a line each."""
    width = max(map(len, COMMANDS))
    for module, purpose in COMMANDS.items():
        print(f"python -m {module:{width}}  {purpose}")
    print("\nEach explains itself with --help. Those of experiments run in a checkout of the project.")


if __name__ == "__main__":
    main()
