"""Where the time of a training step goes: ``make profile`` prints operators of the plain step, then of ours.

``python -m experiments.step_profile cb_fliprot`` profiles another loss; ``--overrides trainer.precision=32-true``
changes its config; ``--out <folder>`` also writes traces for Perfetto or Chrome.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from tabulate import tabulate
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from experiments.bench import LOSSES, apart, machine
from experiments.benchmarks import training
from experiments.benchmarks.training import GPU, Clock, ours, plain

ROWS = 15


def profile_plain(loss: str, trace: Path | None) -> str:
    """Profile the plain step and return its table; see :func:`experiments.benchmarks.training.plain`."""
    profiler = _profiler()
    plain(loss, profiler.start, profiler.stop)
    return _table(profiler, training.PLAIN_STEPS, trace)


def profile_ours(loss: str, folder: Path, overrides: tuple[str, ...], trace: Path | None) -> str:
    """Profile our step and return its table: Lightning, logging and the reading of slices included."""
    profiler = _profiler()
    ours(loss, folder, overrides, Clock(profiler.start, profiler.stop))
    return _table(profiler, training.STEPS, trace)


def _profiler() -> profile:
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if GPU else [])])


def _table(profiler: profile, steps: int, trace: Path | None) -> str:
    """Operators by their own share of the time, in milliseconds a step."""
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
    times = "self_device_time_total" if GPU else "self_cpu_time_total"
    rows = [
        (event.key, getattr(event, times) / 1000 / steps, event.count / steps)
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU  # an operator has its kernels' time; they are listed again by themselves
    ]
    total = sum(time for _, time, _ in rows)
    largest = sorted(rows, key=lambda row: -row[1])[:ROWS]
    shown = [(name[:60], time, f"{time / total:.1%}", calls) for name, time, calls in largest]
    headers = ["operator", "ms a step", "share", "calls"]
    return tabulate([*shown, ("all", total, "100.0%")], headers, floatfmt=",.1f", colalign=("left", *["right"] * 3))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Where the time of a training step goes.")
    parser.add_argument("loss", choices=LOSSES, nargs="?", default="cb_fliprot")
    parser.add_argument("--overrides", nargs="+", default=[], help="of model, loss, optim, trainer, compile; for ours")
    parser.add_argument("--out", type=Path, help="a folder for traces")
    arguments = parser.parse_args()
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    traces = {name: arguments.out and arguments.out / f"{arguments.loss}-{name}.json" for name in ("plain", "ours")}
    print(", ".join(f"{key} {value}" for key, value in machine().items()), f"torch {torch.__version__}", sep=", ")
    print(f"\nThe plain step, {arguments.loss}\n{apart(profile_plain, arguments.loss, traces['plain'])}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        table = apart(profile_ours, arguments.loss, Path(folder), tuple(arguments.overrides), traces["ours"])
    print(f"\nOur step, {arguments.loss}\n{table}")


if __name__ == "__main__":
    main()
