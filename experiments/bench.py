"""What things cost, as measured here and now: ``make bench`` prints a table and writes ``runs/bench.json``.

Speeds are compared with a plain baseline in the same run; alone they say more about the machine than about the code.
"""

import argparse
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from cbseg.hardware import fast_precision
from cbseg.json_file import write_json
from cbseg.provenance import provenance
from experiments.benchmarks import prediction
from experiments.benchmarks.lcfcn import bench_lcfcn
from experiments.benchmarks.store import bench_store
from experiments.benchmarks.training import BATCH, GPU, SIZE, STEPS, WARM_UP, flops_per_image, matrix_rate, ours, plain

LOSSES = ("full", "pl", "cb_flip", "cb_fliprot", "cb_crf", "cb_zoom", "lcfcn", "cb_lcfcn", "cb_lcfcn_crf")
PARTS = ("store", "training", "lcfcn", "prediction")


def apart(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Measure in a new process, so that memory that one measurement leaves does not help or burden the next."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def bench_training(folder: Path, losses: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Measure each loss's speed in training and testing, plain and ours, and its share of the processor's matrix rate.

    A TFLOP counts the network's multiplications and additions alone, forward and backward.
    """
    native = torch.bfloat16 if fast_precision() == "bf16-mixed" else torch.float32
    rate = apart(matrix_rate, native)
    rows = {}
    for loss in losses:
        ours_now, plainly = apart(ours, loss, folder), apart(plain, loss)
        achieved = ours_now["images"] * flops_per_image(loss)
        rows[loss] = {
            "plain, images/s": plainly["images"],
            "ours, images/s": ours_now["images"],
            "ratio": ours_now["images"] / plainly["images"],
            "TFLOP/s": achieved / 1e12,
            "of the matrix rate, %": 100 * achieved / rate,
            "plain, MiB": plainly["memory"],
            "ours, MiB": ours_now["memory"],
            "plain, tested/s": plainly["tested"],
            "ours, tested/s": ours_now["tested"],
            "ratio tested": ours_now["tested"] / plainly["tested"],
        }
        print(f"{loss}: {rows[loss]['ratio']:.2f} × the plain step's speed", file=sys.stderr)  # the table takes a while
    for row in rows.values():
        for other, title in (("pl", "PL"), ("cb_fliprot", "CB(Flip, Rot)")):
            if other in rows:
                row[f"of {title}'s speed, %"] = 100 * row["ours, images/s"] / rows[other]["ours, images/s"]
    return rows


def machine() -> dict[str, Any]:
    """Describe the processor, its threads, and how training was measured."""
    return {
        "processor": torch.cuda.get_device_name() if GPU else _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": fast_precision(),
        "batch_size": BATCH,
        "image_size": SIZE,
        "steps": STEPS,
        "warm_up_steps": WARM_UP,
    }


def _processor() -> str:
    try:
        listed = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
        return next(line.split(":")[1].strip() for line in listed.splitlines() if line.startswith("Model name"))
    except (OSError, subprocess.SubprocessError, StopIteration):
        return platform.processor() or "unknown"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure what things cost, beside plain baselines.")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="measure these parts alone")
    parser.add_argument("--losses", choices=LOSSES, nargs="+", default=LOSSES, help="train with these alone")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    arguments = parser.parse_args()
    described = machine()
    print(", ".join(f"{key} {value}" for key, value in described.items()), f"torch {torch.__version__}", sep=", ")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "store" in arguments.only:
            results["store"] = apart(bench_store, Path(folder))
            show("Reading prepared slices", results["store"])
        if "training" in arguments.only:
            results["training"] = bench_training(Path(folder), tuple(arguments.losses))
            show("Training and testing; plain is the authors' step (padding by 100, two passes)", results["training"])
        if "lcfcn" in arguments.only:
            results["lcfcn"] = apart(bench_lcfcn)
            show("LCFCN alone, forward and backward", results["lcfcn"])
        if "prediction" in arguments.only:
            results["prediction"] = apart(prediction.speed, Path(folder)) | apart(prediction.memory, Path(folder))
            show("Predicting volumes; plain is slice by slice, in single precision", results["prediction"])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, provenance() | {"measured_with": described, "results": results})
    print(f"\n{arguments.out}")


def show(title: str, rows: dict[str, Any]) -> None:
    """Print a part's results: a line each, or a column for each loss."""
    first = next(iter(rows.values()))
    table = (
        [[what, *(row[what] for row in rows.values())] for what in first] if isinstance(first, dict) else rows.items()
    )
    headers = ["", *rows] if isinstance(first, dict) else ["", ""]
    print(f"\n{title}\n{tabulate(table, headers, floatfmt=',.2f')}", flush=True)


if __name__ == "__main__":
    main()
