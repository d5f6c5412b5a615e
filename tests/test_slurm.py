"""A sweep on a real one-node Slurm (Debian's packages): jobs that are cancelled, preempted and queued again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

START = Path(__file__).parent / "slurm" / "start_slurm.sh"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A running cluster; gives the environment in which its commands work."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run(["bash", START, folder], capture_output=True, text=True, check=False)
    if started.returncode:
        pytest.skip(f"no Slurm: {(started.stderr or started.stdout).strip().splitlines()[-1]}")
    yield os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    subprocess.run(["bash", START, folder, "stop"], check=False)


def test_a_sweep_ends_complete_though_a_job_is_queued_again_and_another_is_cancelled(slurm, covid_a, store, tmp_path):
    runs = tmp_path / "runs"
    command = [
        sys.executable, "-m", "cbseg.run", "-m", "experiment=phantom", "loss=pl,full,cb_flip", "data=covidA",
        "data.image_size=64", "data.split.val=2", "data.generate=null", f"data.root={covid_a}", f"store={store}",
        f"runs={runs}", "logger=csv", "overlays=0", "trainer.enable_progress_bar=false", "trainer.max_epochs=60",
        "hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.mem_gb=null",
        "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=60",
    ]  # fmt: skip
    sweep = subprocess.Popen(command, env=slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    begun = wait_for(runs, "covidA/*/seed0*/last.ckpt", sweep)
    jobs = subprocess.run(
        ["squeue", "-h", "-r", "-t", "R", "-o", "%F_%K"], env=slurm, capture_output=True, text=True, check=True
    ).stdout.split()
    number = {"pl": 0, "full": 1, "cb_flip": 2}[begun.parent.parent.name]
    job = next(job for job in jobs if job.endswith(f"_{number}"))
    subprocess.run(["scancel", "--signal=USR2", job], env=slurm, check=True)
    cancelled = next(f"{job.split('_')[0]}_{k}" for k in (2, 1, 0) if k != number)
    subprocess.run(["scancel", cancelled], env=slurm, check=True)
    printed, _ = sweep.communicate(timeout=240)
    restarts = subprocess.run(
        ["scontrol", "show", "job", job], env=slurm, capture_output=True, text=True, check=False
    ).stdout
    logs = "".join(path.read_text() for path in (runs / ".submitit").glob(f"{job}/*.out"))
    assert sweep.returncode == 1, printed
    assert "3 runs: 2 finished" in printed
    assert "Restarts=1" in restarts
    assert "goes on after epoch" in logs
    assert json.loads((begun.parent / "metrics.json").read_text())["epochs"] == 60

    printed = subprocess.run(command, env=slurm, capture_output=True, text=True, check=False, timeout=240).stdout
    assert "3 runs: " in printed
    assert len(list(runs.glob("covidA/*/seed0*/metrics.json"))) == 3


def wait_for(runs, pattern, process, timeout=120):
    until = time.monotonic() + timeout
    while time.monotonic() < until and process.poll() is None:
        found = list(runs.glob(pattern))
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no {pattern}: {process.communicate()[0] if process.poll() is not None else 'too slow'}")
