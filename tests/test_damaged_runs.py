"""Damaged run folders: each reader names the file, and goes on with the others; none ends in a traceback."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_results import SCORES, result, write
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from cbseg import predict, training
from cbseg.errors import InputError
from cbseg.job import Job
from cbseg.module import SegmentationModule
from cbseg.run_folder import RunFolder
from cbseg.run_status import is_resumable, state_of
from cbseg.sweep import print_plan, summarise
from experiments import ablation, compare, figures, report, tables

COUNTS = {"tp": 5, "fp": 2, "fn": 3, "tn": 90, "count_errors": [1, 1, 1, 1, 2], "slices": 3}
SCANS = {"scan-1": COUNTS, "scan-2": COUNTS | {"tp": 7}}
JOB = ("experiment=demo", "loss=full", "trainer.max_epochs=3", "logger=csv")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Two finished runs and what each file of theirs holds; the first is that of ``JOB``."""
    runs = tmp_path_factory.mktemp("sound") / "runs"
    job = Job.of([*JOB, f"runs={runs}"])
    scores = {"test": SCORES, "scans": SCANS, "counts": COUNTS, "last": {"test": SCORES, "scans": SCANS}}
    for loss, keys in (("full", job.keys), ("pl", job.keys | {"loss.is": "pl"})):
        folder = RunFolder(write(runs, result(loss=loss, settings=job.settings, keys=keys, **scores)))
        OmegaConf.save(job.config, folder.config, resolve=True)
        folder.curves.write_text("epoch,step,val/dice,train/loss\n1,1,0.1,1.0\n2,2,0.2,0.5\n3,3,0.3,0.4\n")
        folder.best.write_bytes(b"PK\3\4 no checkpoint")
        folder.slices.mkdir()
        arrays = {name: np.ones((8, 8), np.uint8) for name in ("image", "points", "truth", "prediction")}
        np.savez_compressed(folder.slices / "test-1.npz", **arrays)
    return runs


@pytest.fixture(scope="module")
def again(sound):
    """Where the runs are copied to for each damage, and the job of the first there."""
    runs = sound.with_name("again")
    return runs, Job.of([*JOB, f"runs={runs}"])


COMMANDS = {
    "tables": (tables.main, ["RUNS"]),
    "compare": (compare.main, ["RUNS", "--last"]),
    "figures": (figures.main, ["RUNS"]),
    "report": (report.main, ["RUNS"]),
    "ablation": (ablation.main, ["RUNS"]),
    "predict": (predict.main, ["FOLDER", "none.nii.gz", "--out", "OUT"]),
    "dry run": (print_plan, None),
    "summary": (lambda jobs: summarise(jobs, [0.0]), None),
}
PARSED, OTHERS = ("metrics.json", "config.yaml", "metrics.csv"), ("best.ckpt", "last.ckpt", "slices/test-1.npz")
DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: bytes(byte ^ (k % 7 == 0) * 0x55 for k, byte in enumerate(content)),
    "other": lambda content: b'{"a": [1, {"b": null}]}\n',
    "junk": lambda content: os.urandom(300),
    "deep": lambda content: b"[" * 100_000,
}
COMBINATIONS = [
    (command, file, damage)
    for command in COMMANDS
    for file in (*PARSED, *OTHERS, "error.txt", "refused.txt")
    for damage in list(DAMAGES)[: 6 if file in PARSED else 4 if file in OTHERS else 2]
]


@pytest.mark.parametrize(("command", "file", "damage"), COMBINATIONS)
def test_a_damaged_file_ends_no_reader_in_a_traceback(
    sound, again, tmp_path, monkeypatch, capsys, caplog, command, file, damage
):
    runs, job = again
    shutil.rmtree(runs, ignore_errors=True)
    shutil.copytree(sound, runs)
    path = job.folder.path / file
    path.write_bytes(DAMAGES[damage](path.read_bytes() if path.is_file() else b"content of it\n" * 9))
    if file == "last.ckpt":
        job.folder.metrics.unlink()
    monkeypatch.setattr(Figure, "savefig", lambda *args, **options: None)  # which takes long
    main, arguments = COMMANDS[command]
    told = ""
    if arguments is None:
        main([job])
    else:
        named = {"RUNS": str(runs), "FOLDER": str(job.folder), "OUT": str(tmp_path / "out")}
        monkeypatch.setattr(sys, "argv", ["command", *(named.get(one, one) for one in arguments)])
        try:
            main()
        except SystemExit as end:
            told = str(end.code)
    told = "".join((told + "".join(capsys.readouterr()) + caplog.text).split())
    assert "Traceback" not in told
    if file == "metrics.json" and damage != "empty" and command not in ("predict", "summary"):
        assert f"{path}:" in told
    if file == "config.yaml" and command in ("predict", "dry run"):
        assert f"{job.folder}" in told
    if file == "slices/test-1.npz" and command in ("figures", "report"):
        assert f"{path}:" in told
    if file in ("best.ckpt", "config.yaml") and command == "predict":
        assert f"error:{path}:" in told or file == "config.yaml"
    if command in ("tables", "compare", "figures", "report", "ablation"):
        assert "error:" not in told


DEEPER = {
    "a score is text": {"test": SCORES | {"dice": "high"}},
    "a score is missing": {"test": {"dice": 0.5}},
    "scores are a list": {"last": {"test": [1, 2]}},
    "a scan has no counts": {"scans": {"scan-1": {}}},
    "counts of other lengths": {"scans": {"scan-1": COUNTS | {"tp": [1, 2]}}},
    "counts are text": {"scans": {"scan-1": COUNTS | {"tp": "5"}}},
    "errors of other levels": {"scans": {"scan-1": COUNTS | {"count_errors": [1]}}},
    "no epoch": {"epochs": 0},
    "statistics of another kind": {"dataset": {"cases": "many"}},
}


@pytest.mark.parametrize("change", DEEPER.values(), ids=DEEPER)
def test_a_result_of_other_values_is_damage_too(sound, tmp_path, caplog, change):
    runs = tmp_path / "runs"
    shutil.copytree(sound, runs)
    (file,) = runs.glob("*/full/*/metrics.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    tables.write(runs)
    assert f"{file}: is damaged ({next(iter(change))} missing or of another type)" in caplog.text


def test_an_empty_result_is_none_and_nothing_of_its_run_is_lost(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "runs")
    job = Job.of([*JOB, f"runs={tmp_path / 'runs'}"])
    assert state_of(job.folder, job.config).name == "finished"
    job.folder.metrics.write_text("")
    assert state_of(job.folder, job.config).name == "new"
    assert not is_resumable(job.folder, job.config)
    job.folder.open(job.config, goes_on=False)
    assert [path.name for path in job.folder.path.parent.glob("old/*/best.ckpt")] == ["best.ckpt"]


def test_a_slice_that_claims_more_than_it_has_is_not_unpacked(sound, tmp_path, caplog):
    shutil.copytree(sound, tmp_path / "runs")
    (file,) = tmp_path.glob("runs/*/full/*/slices/*.npz")
    np.savez_compressed(file, image=np.zeros((2**14, 2**14 + 1), np.uint8))
    figures.write(tmp_path / "runs")
    assert f"{file}: holds no recorded slice (it claims more than a slice has)" in caplog.text
    np.savez(file, image=np.array([{}], object))
    figures.write(tmp_path / "runs")
    assert f"{file}: holds no recorded slice (Object arrays cannot be loaded" in caplog.text


@pytest.mark.parametrize(
    "name", ["/etc", "../../out", "a\0b", "x" * 300, "..", ".", "a\nb", "~", "C:\\x", "$(touch x)"]
)
def test_names_in_a_result_become_plain_names_of_files(sound, tmp_path, monkeypatch, name):
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: file.touch())  # which takes long
    runs = tmp_path / "runs"
    shutil.copytree(sound, runs)
    for file in runs.glob("*/*/*/metrics.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"data": name, "loss": name, "settings": name}))
    (
        tables.write(runs),
        figures.write(runs),
        report.write(runs),
        compare.write(runs, "dice", next(iter(tables.find_results(runs).values())).loss),
    )
    written = [path.relative_to(runs) for path in runs.rglob("*")]
    assert {path.parts[0] for path in written} == {"covidA", "tables", "figures", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    assert all(set(path.name) <= set(map(chr, range(33, 127))) for path in written)


def test_no_run_writes_where_a_link_in_its_folder_leads(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "runs")
    job, victim = Job.of([*JOB, f"runs={tmp_path / 'runs'}"]), tmp_path / "victim"
    victim.write_text("mine")
    for file in (job.folder.refusal, Path(f"{job.folder.refusal}.part")):
        file.symlink_to(victim)
    job.folder.refuse("other data")
    assert (victim.read_text(), job.folder.refusal.read_text()) == ("mine", "other data")
    job.folder.metrics.unlink()
    job.folder.last.symlink_to(victim)
    with pytest.raises(InputError, match=r"last\.ckpt: is a link"):
        job.folder.open(job.config, goes_on=is_resumable(job.folder, job.config))


class GoesOnError(Exception):
    """Instead of what a run does once its parts and its folder are ready."""


@pytest.fixture(scope="module")
def unfinished(covid_a, store, tmp_path_factory):
    """Gives the job of a run that was killed in its second epoch, with its folder below some ``runs``."""
    began = tmp_path_factory.mktemp("unfinished") / "runs"

    def job(runs):
        small = ["experiment=phantom", "logger=csv", "trainer.enable_progress_bar=false", "data.image_size=64"]
        data = ["data.split.val=2", "data.generate=null", f"data.root={covid_a}", f"store={store}"]
        return Job.of([*small, *data, "trainer.max_epochs=3", "loss=pl", f"runs={runs}"])

    def killed_in_the_second(self, *args, real=SegmentationModule.training_step):
        if self.current_epoch:
            raise GoesOnError
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", killed_in_the_second)
        with pytest.raises(GoesOnError):
            training.run(job(began))

    def copied(runs):
        shutil.copytree(began, runs)
        return job(runs)

    return copied


@pytest.fixture
def resume(unfinished, tmp_path, monkeypatch, caplog):
    """Gives the unfinished run's folder, and what the same command says of it: that it goes on, or why it does not."""
    job = unfinished(tmp_path / "runs")
    caplog.set_level("INFO", "cbseg")

    def ready(*_):
        raise GoesOnError

    monkeypatch.setattr(training, "fit_and_test", ready)

    def told():
        try:
            training.run(job)
        except GoesOnError:
            return caplog.text
        except InputError as error:
            return f"error: {error}"

    return job.folder, told


def test_an_undamaged_run_goes_on(resume):
    folder, told = resume
    assert f"{folder}: 6 train, 2 val, 8 test slices, goes on after epoch 1 of 3" in told()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["last.ckpt", "config.yaml", "metrics.csv", "best.ckpt", "error.txt"])
def test_a_damaged_run_goes_on_whole_or_names_the_file_and_the_way_out(resume, file, damage):
    folder, told = resume
    path = folder.path / file
    path.write_bytes(DAMAGES[damage](path.read_bytes() if path.is_file() else b"content of it\n" * 9))
    message = told()
    if file in ("metrics.csv", "best.ckpt", "error.txt"):  # all that they hold is in last.ckpt
        assert "goes on after epoch 1 of 3" in message
        assert folder.epochs == 1
        assert file != "best.ckpt" or "state_dict" in torch.load(path, weights_only=True)
    elif message.startswith("error:"):
        assert message.startswith(f"error: {path}: is ")
        assert "begins anew" in message or "rerun=true" in message
    else:  # a config that can be read, and is another run's
        assert file == "config.yaml"
        assert f"{folder}: " in message
        assert "; begins anew, and the old run is kept in old/" in message
        assert list(folder.path.parent.glob("old/*/last.ckpt"))


def inside(change):
    """Change what ``last.ckpt`` holds, by functions of its content and of what the run's state keeps in it."""

    def damage(path):
        content = torch.load(path, weights_only=True)
        (state,) = (kept for name, kept in content["callbacks"].items() if name.startswith("RunState"))
        change(content, state)
        torch.save(content, path)

    return damage


def flip_a_weight(path):
    """A byte of a tensor, far from all that is parsed, as a bad disk leaves it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(bytes(content))


DEEPLY_DAMAGED = {
    "no optimizer": inside(lambda content, state: content.pop("optimizer_states")),
    "no callbacks": inside(lambda content, state: content.update(callbacks={})),
    "callbacks are a list": inside(lambda content, state: content.update(callbacks=[1])),
    "no history": inside(lambda content, state: state.update(history=[])),
    "history is a number": inside(lambda content, state: state.update(history=3)),
    "the best is a text": inside(lambda content, state: state.update(best="high")),
    "the best is to come": inside(lambda content, state: state["best"].update(epoch=7)),
    "a flipped weight": flip_a_weight,
}


@pytest.mark.parametrize("damage", DEEPLY_DAMAGED.values(), ids=DEEPLY_DAMAGED)
def test_a_checkpoint_that_opens_and_is_damaged_inside_is_damage_too(resume, damage):
    folder, told = resume
    damage(folder.last)
    message = told()
    assert message.startswith(f"error: {folder.last}: is damaged")
    assert "Remove the file, and the run begins anew" in message
    folder.last.unlink()
    assert "6 train, 2 val, 8 test slices\n" in told()
