"""Whole sweeps through the command line: what kills a run, a process or the sweep, and what is there in the end."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image, ImageOps

from cbseg.data.covid_a import FOLDERS
from cbseg.results import by_setting, find_results
from cbseg.sweep import sweep_jobs

SAME = ("test", "counts", "scans", "val", "best_epoch", "epochs")


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture
def sweep(covid_a, store, tmp_path):
    """``sweep("loss=pl,full", runs=…)`` starts a sweep of short runs and gives its process; ``finish`` waits for it."""
    started = []

    def start(*overrides, runs=tmp_path / "runs", multirun=True):
        command = [
            sys.executable, "-m", "cbseg.run", *(["-m"] if multirun else []), "experiment=phantom", "logger=csv",
            "overlays=0", "trainer.enable_progress_bar=false", "trainer.max_epochs=4", "data=covidA",
            "data.image_size=64", "data.split.val=2", "data.generate=null", f"data.root={covid_a}",
            f"store={store}", f"runs={runs}", *overrides,
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def heed_ctrl_c():
    """As under a terminal: a shell's background jobs, the tests themselves maybe, ignore SIGINT and hand that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process):
    printed, _ = process.communicate(timeout=300)
    return printed, process.returncode


def folders(runs):
    return sorted(path for path in Path(runs).glob("covidA/*/seed*") if path.is_dir())


def results(runs):
    """Each run's scores, by its loss and seed."""
    return {
        f"{folder.parent.name} {metrics(folder)['seed']}": {key: metrics(folder)[key] for key in SAME}
        for folder in folders(runs)
    }


def child_of(process, timeout=60):
    """The process that trains, once its run's folder shows that it does."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
        if found.split():
            return int(found.split()[0])
        time.sleep(0.05)
    raise AssertionError("no process trains")


def wait_for(pattern, runs, timeout=120):
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        found = list(Path(runs).glob(pattern))
        if found:
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"no {pattern}")


def test_a_sweep_killed_at_random_moments_ends_as_an_undisturbed_one(sweep, tmp_path):
    """``CHAOS_KILLS=25`` makes it a long one."""
    stops = ("selection.patience=1", "+trainer.min_epochs=3", "+optim/scheduler=cosine")
    overrides = ("loss=pl,cb_lcfcn", "seed=0,1", *stops)
    begun = time.monotonic()
    undisturbed = sweep(*overrides, runs=tmp_path / "undisturbed")
    wait_for("covidA/pl/seed0*/last.ckpt", tmp_path / "undisturbed")
    first = time.monotonic() - begun  # the first epoch, on this machine and as busy as it is
    rng, kills = random.Random(0), int(os.environ.get("CHAOS_KILLS", "2"))
    printed, code = finish(undisturbed)
    assert code == 0, printed
    for _ in range(kills):
        process = sweep(*overrides)
        try:
            process.wait(first * rng.uniform(0.8, 1.6))
        except subprocess.TimeoutExpired:
            process.kill()  # the sweep alone: its child must notice
        process.wait()
    printed, code = finish(sweep(*overrides))
    assert code == 0, printed
    assert len(folders(tmp_path / "runs")) == 4
    assert results(tmp_path / "runs") == results(tmp_path / "undisturbed")
    assert not list((tmp_path / "runs").glob("**/old"))
    assert not list((tmp_path / "runs").glob("**/*.part"))


def test_a_dataset_that_is_broken_fails_alone_and_says_why(sweep, tmp_path, covid_a):
    broken = tmp_path / "broken"
    for name in ("broken", "good", "whole"):
        shutil.copytree(covid_a, tmp_path / name)
    next((broken / "Dataset" / FOLDERS["train"] / "Imgs").iterdir()).write_bytes(b"no picture")
    three = ["data.name=broken,good,whole", "data.root=${data_dir}/${data.name}", f"data_dir={tmp_path}"]
    overrides = ["loss=pl", "trainer.max_epochs=1", *three]
    printed, code = finish(sweep(*overrides))
    assert code == 1
    assert "3 runs: 1 failed, 2 finished" in printed
    (failed,) = (folder for folder in folders(tmp_path / "runs") if (folder / "error.txt").is_file())
    text = (failed / "error.txt").read_text()
    assert text.startswith(str(broken))
    assert "Traceback" not in text
    assert f"root: {broken}" in text
    assert not (failed / "metrics.json").exists()
    shutil.rmtree(broken)
    shutil.copytree(covid_a, broken)
    printed, code = finish(sweep(*overrides))
    assert code == 0
    assert "3 runs: 1 finished, 2 skipped, finished before" in printed
    assert not list((tmp_path / "runs").glob("**/error.txt"))


def test_data_that_moved_is_the_same_run_and_other_data_in_its_place_is_refused(sweep, tmp_path, covid_a):
    moved, other = tmp_path / "moved", tmp_path / "other"
    for root in (moved, other):
        shutil.copytree(covid_a, root)
    mask = next((other / "Dataset" / FOLDERS["test"] / "GT").iterdir())
    ImageOps.mirror(Image.open(mask)).save(mask)
    run = ("loss=pl", "trainer.max_epochs=1")
    assert finish(sweep(*run))[1] == 0
    for free in (["overlays=3", "trainer.enable_model_summary=true", f"data.root={moved}"], ["data.root=/nowhere"]):
        printed, code = finish(sweep(*run, *free))
        assert (code, "1 runs: 1 skipped, finished before" in printed) == (0, True), printed
    printed, code = finish(sweep(*run, f"data.root={other}"))
    assert code == 1
    assert "1 runs: 1 refused" in printed
    (folder,) = folders(tmp_path / "runs")
    reason = (folder / "refused.txt").read_text()
    assert metrics(folder)["fingerprint"] in reason
    assert f"data.root={other}" in reason
    assert "rerun=true" in reason
    printed, code = finish(sweep(*run))
    assert (code, (folder / "refused.txt").exists()) == (0, False), printed


def test_an_override_that_refers_to_the_seed_names_one_setting_before_and_in_the_sweep(sweep, tmp_path):
    printed, code = finish(sweep("loss=pl", "trainer.max_epochs=1", "seed=0,1", "data.annotate.seed=${seed}"))
    assert code == 0, printed
    assert "2 runs: 2 finished" in printed
    (setting,) = by_setting(find_results(tmp_path / "runs"))
    assert len(setting.results) == len(folders(tmp_path / "runs")) == 2
    assert {result.keys["data.annotate.seed"] for result in setting.results.values()} == {"${seed}"}


def test_a_sweep_whose_data_is_not_there_fails_once_before_it_starts(tmp_path):
    command = [
        sys.executable, "-m", "cbseg.run", "-m", "loss=pl,cb_flip,cb_fliprot", "data=covidA,covidB_sep,covidC_mixed",
        f"runs={tmp_path / 'runs'}", f"data_dir={tmp_path / 'there'}",
    ]  # fmt: skip
    (tmp_path / "there/covidC").mkdir(parents=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    told = done.stderr.splitlines()
    assert told[0] == "error: nothing was started, as data is not there"
    assert [line.split(":")[0] for line in told[1:4]] == ["covidC", "covidA", "covidB"]
    assert "COVID-19-CT-Seg_20cases" in told[1]
    assert "by hand" in told[2]
    assert told[3].endswith(f"python -m cbseg.data.download covidB --root {tmp_path / 'there/covidB'} fetches it")
    assert "data_dir=" in told[4]
    assert "experiment=demo" in told[5]
    assert len(told) == 6
    assert not (tmp_path / "runs").exists()


def test_data_dir_holds_the_datasets_and_tells_no_runs_apart(tmp_path, store, covid_a):
    shutil.copytree(covid_a, tmp_path / "moved" / covid_a.name)
    for data_dir, outcome in ((covid_a.parent, "1 finished"), (tmp_path / "moved", "1 skipped, finished before")):
        command = [
            sys.executable, "-m", "cbseg.run", "-m", "loss=pl", "data=covidA", "data.split.val=2", "data.image_size=64",
            "model=fcn8_tiny", "trainer.max_epochs=1", "logger=csv", "trainer.enable_progress_bar=false",
            f"data_dir={data_dir}", f"store={store}", f"runs={tmp_path / 'runs'}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"1 runs: {outcome}" in done.stdout


def test_a_run_that_the_system_kills_fails_alone(sweep, tmp_path):
    process = sweep("loss=pl,full", "trainer.max_epochs=15")
    wait_for("covidA/pl/seed0*/last.ckpt", tmp_path / "runs")
    os.kill(child_of(process), signal.SIGKILL)
    printed, code = finish(process)
    assert code == 1
    assert "2 runs: 1 failed, 1 finished" in printed
    assert "killed by SIGKILL: the system does this where memory runs out" in printed
    printed, code = finish(sweep("loss=pl,full", "trainer.max_epochs=15"))
    assert code == 0
    assert "goes on after epoch" in printed


@pytest.mark.parametrize("several", [(), ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")])
def test_ctrl_c_ends_a_single_run_with_exit_code_130_and_it_can_go_on(sweep, tmp_path, several):
    process = sweep("loss=pl", "trainer.max_epochs=1000", *several, multirun=False)
    wait_for("covidA/pl/seed0*/last.ckpt", tmp_path / "runs")
    process.send_signal(signal.SIGINT)
    printed, code = finish(process)
    assert (code, "Traceback" in printed) == (130, False), printed
    assert not list((tmp_path / "runs").glob("**/error.txt"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_told_to_stop_stops_within_the_run_and_can_go_on(sweep, tmp_path, sent):
    process = sweep("loss=pl,full", "trainer.max_epochs=1000")
    wait_for("covidA/pl/seed0*/last.ckpt", tmp_path / "runs")
    os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
    printed, code = finish(process)
    assert code == 128 + sent
    assert "2 runs: 1 resumable, 1 new" in printed
    assert "Traceback" not in printed
    assert not list((tmp_path / "runs").glob("**/error.txt"))
    assert not subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, check=False).stdout


def test_two_sweeps_at_once_train_each_run_once(sweep, tmp_path):
    both = [sweep("loss=pl,full", "trainer.max_epochs=2") for _ in range(2)]
    printed = "".join(finish(process)[0] for process in both)
    for folder in folders(tmp_path / "runs"):
        assert printed.count(f"{folder}: test dice") == 1
    assert len(folders(tmp_path / "runs")) == 2


def test_several_runs_train_at_once_with_joblib(sweep, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    printed, code = finish(
        sweep("loss=pl,full", "trainer.max_epochs=1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    )
    assert code == 0, printed
    assert "2 runs: 2 finished" in printed
    assert printed.count("test dice") == 2


def test_a_sweep_over_datasets_takes_keys_that_they_share_and_glob_is_planned():
    jobs = sweep_jobs(["data=covidB_sep,covidB_mixed", "data.find_scans.window=[-1000,200]"], multirun=True)
    assert [job.data for job in jobs] == ["covidB_sep", "covidB_mixed"]
    assert [job.loss for job in sweep_jobs(["loss=glob(cb_f*)"], multirun=True)] == ["cb_flip", "cb_fliprot"]


def test_optuna_looks_for_the_best_validation_score_and_the_summary_tells_of_its_trials(sweep, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    search = (
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_jobs=1",
        "hydra/sweeper/sampler=random",
    )
    settings = ("loss=pl", "trainer.max_epochs=1", "optim.lr=interval(0.0001,0.01)", *search)
    printed, code = finish(sweep(*settings))
    assert code == 1
    assert "hydra.sweeper.direction=minimize" in printed
    printed, code = finish(sweep(*settings, "hydra.sweeper.direction=maximize", "hydra.sweeper.sampler.seed=1"))
    assert code == 0, printed
    assert "3 runs: 3 finished" in printed
    found = OmegaConf.load(tmp_path / "runs" / "optimization_results.yaml")
    assert found.best_value == max(metrics(folder)["val"]["val/dice"] for folder in folders(tmp_path / "runs"))


OPINION = """
import pytorch_lightning as pl
import torch

class Opinion(pl.Callback):
    def on_fit_start(self, trainer, module):
        generator = torch.Generator().manual_seed(0)
        for parameter in module.parameters():
            if not parameter.any():  # the last layers are zeros at first, and predict nothing
                parameter.data = torch.randn(parameter.shape, generator=generator)
"""


def test_two_processes_score_each_slice_once_and_as_one_process_does_whatever_the_strategy(
    sweep, tmp_path, monkeypatch
):
    (tmp_path / "opinion.py").write_text(OPINION)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    strategies = ("auto", "ddp_find_unused_parameters_true")
    untrained = ("loss=pl", "optim.lr=0", "trainer.max_epochs=1", "+trainer.callbacks.some._target_=opinion.Opinion")
    two = ("trainer.devices=2", "trainer.accelerator=cpu")
    several = [("trainer=ddp", *two), *((f"+trainer.strategy={name}", *two) for name in strategies)]
    found = []
    for k, strategy in enumerate([(), ("+trainer.strategy=ddp",), *several]):
        printed, code = finish(sweep(*untrained, *strategy, runs=tmp_path / str(k)))
        assert code == 0, printed
        (folder,) = folders(tmp_path / str(k))
        found.append({key: metrics(folder)[key] for key in SAME})
    assert found == [found[0]] * len(found)
    assert sum(counts["tp"] + counts["fp"] > 0 for counts in found[0]["scans"].values()) > 4


def test_two_processes_train_and_go_on_after_one_died(sweep, tmp_path):
    overrides = ("loss=cb_flip", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=20")
    process = sweep(*overrides)
    wait_for("covidA/cb_flip/seed0*/last.ckpt", tmp_path / "runs")
    os.kill(child_of(process), signal.SIGKILL)
    printed, code = finish(process)
    assert code == 1
    assert "1 runs: 1 failed" in printed
    printed, code = finish(sweep(*overrides))
    assert code == 0, printed
    assert "goes on after epoch" in printed
    (folder,) = folders(tmp_path / "runs")
    assert metrics(folder)["epochs"] == 20


def test_a_dry_run_lists_what_would_be_done_and_starts_nothing(sweep, tmp_path):
    assert finish(sweep("loss=pl", "trainer.max_epochs=1"))[1] == 0
    printed, code = finish(sweep("loss=pl,full", "trainer.max_epochs=1", "dry_run=true"))
    assert code == 0
    states = [line.split()[0] for line in printed.splitlines() if "/covidA/" in line]
    assert states == ["finished", "new"]
    assert "Nothing was started" in printed
    (folder,) = folders(tmp_path / "runs")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 8", "batch_size: 4"))
    for again, state in {"false": "refused", "true": "finished, again"}.items():
        printed, _ = finish(sweep("loss=pl", "trainer.max_epochs=1", "dry_run=true", f"rerun={again}"))
        assert any(line.startswith(state) for line in printed.splitlines())
    assert [folder.parent.name for folder in folders(tmp_path / "runs")] == ["pl"]
