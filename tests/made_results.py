"""Results as finished runs leave them, made up for tests of what reads them."""

import json
from pathlib import Path

from cbseg.results import Result
from cbseg.run_folder import RunFolder

SCORES = {"dice": 0.6, "iou": 0.5, "ppv": None, "sens": 0.25, "spec": 0.9, "mae": 1.25, "game": 2.5}


def result(data="covidA", loss="pl", seed=0, settings="", **more):
    """A result whose keys are those that its settings name."""
    fields = {
        "data": data, "loss": loss, "seed": seed, "settings": settings,
        "keys": dict(part.split("=", 1) for part in settings.split(",") if "=" in part),
        "test": SCORES, "undefined": {}, "counts": {}, "scans": {}, "last": {"test": SCORES}, "val": {},
        "best_epoch": 2, "epochs": 3, "images_per_second": 12.34, "seconds": 75.5, "precision": "32-true", "split": {},
        "dataset": {"cases": 98, "slices": 98, "slices_with_infections": 98, "infected_regions": 779},
        "fingerprint": f"{data}-0123", "versions": {}, "machine": {}, "git": {},
    }  # fmt: skip
    return Result(**fields | more)


def write(runs, made):
    """Write a result into its run's folder; gives the folder's path."""
    folder = RunFolder.of(runs, made.data, made.loss, made.seed, made.settings)
    folder.path.mkdir(parents=True)
    made.write(folder)
    return folder.path


def change(folder, **fields):
    """Change what a written result says; None removes it."""
    path = Path(folder) / "metrics.json"
    found = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
