"""The command line: what it says of mistakes, its help, and a whole sweep with its tables and figures."""

import json
import subprocess
import sys

import pytest

from cbseg.config import CONF
from cbseg.finite import NonFiniteLossError
from cbseg.module import SegmentationModule
from cbseg.run import main
from cbseg.run_folder import RunFolder


def command_line(*arguments, monkeypatch, capsys):
    """Run ``python -m cbseg.run`` in this process; gives what it printed and its exit code."""
    monkeypatch.setattr(sys, "argv", ["cbseg.run", *arguments])
    code = 0
    try:
        main()
    except SystemExit as error:
        code = 1 if isinstance(error.code, str) else error.code or 0
        print(error.code if isinstance(error.code, str) else "")
    printed = capsys.readouterr()
    return printed.out + printed.err, code


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("loss=plx", ["cb_flip", "cb_fliprot", "cb_lcfcn", "full", "lcfcn", "pl"]),
        ("data=covidZ", ["covidA"]),
        ("trainer.max_epoch=3", ["trainer.max_epoch does not exist", "max_epochs", "precision"]),
        ("dat.root=x", ["dat", "data", "trainer"]),
        ("loss.compare=probz", ["loss.compare=probz", "probs, logits"]),
        ("data.root=/nowhere", ["/nowhere", "data.root=<folder>", "experiment=demo"]),
        ("model.weights=/nowhere.pth", ["/nowhere.pth", "imagenet"]),
        ("model.padding=valid", ["model.padding=valid", "same, caffe"]),
        ("data.image_size=[352,288]", ["loss.transforms.rotations", "not square"]),
        ("selection.monitor=val/dise", ["val/dice, val/iou"]),
        ("+trainer.check_val_every_n_epoch=5", ["trainer.check_val_every_n_epoch=5", "selection.monitor=last"]),
        (
            "selection.monitor=last +trainer.check_val_every_n_epoch=3 trainer.max_epochs=10",
            ["trainer.check_val_every_n_epoch=3", "a divisor of trainer.max_epochs=10"],
        ),
        ("+trainer.limit_val_batches=0", ["trainer.limit_val_batches=0"]),
        ("+trainer.max_steps=100", ["trainer.max_steps", "trainer.max_epochs"]),
        ("+trainer.max_time=00:12:00:00", ["trainer.max_time", "goes on"]),
        ("+trainer.gradient_clip_val=1.0", ["trainer.gradient_clip_val", "optim.fused=false"]),
        ("trainer.limit_train_batches=0", ["trainer.limit_train_batches=0"]),
        ("+trainer.limit_test_batches=1", ["trainer.limit_test_batches", "whole test split"]),
        ("+trainer.overfit_batches=1", ["trainer.overfit_batches", "shares them out"]),
        ("+trainer.logger=true", ["trainer.logger", "logger=csv"]),
        ("+trainer.plugins=[]", ["trainer.plugins", "leave it out"]),
        ("+trainer.default_root_dir=x", ["trainer.default_root_dir", "runs"]),
        ("+trainer.use_distributed_sampler=true", ["trainer.use_distributed_sampler", "leave it out"]),
        ("+trainer.strategy=ddp_spawn", ["trainer.strategy=ddp_spawn", "auto, ddp, "]),
        ("+trainer.strategy=fsdp", ["trainer.strategy=fsdp", "auto, ddp, "]),
        (
            "+trainer.strategy={_target_:pytorch_lightning.strategies.FSDPStrategy}",
            ["trainer.strategy:", "DDPStrategy"],
        ),
        ("+trainer.accumulate_grad_batches=0", ["trainer.accumulate_grad_batches=0", "1 or more"]),
        ("+trainer.num_nodes=2", ["trainer.num_nodes", "one machine"]),
        ("trainer.precision=bf16-true", ["trainer.precision=bf16-true", "auto, bf16-mixed, 16-mixed, 32-true"]),
        ("trainer.precision=16-mixed", ["trainer.precision=16-mixed", "bf16-mixed"]),
        ("logger.pictures=maybe", ["logger.pictures=maybe", "auto, true, false"]),
        ("logger.timeout=true", ["logger.timeout=True", "give seconds"]),
        ("+weight_decay=0.1", ["weight_decay: nothing reads it", "the config has: compile, data, data_dir, decision"]),
        ("+selection.mode=max", ["selection.mode: nothing reads it", "selection has: monitor, patience"]),
        ("+protocol.lr=1", ["protocol.lr: nothing reads it", "betas"]),
        ("+logger.tags=[a]", ["logger.tags: nothing reads it", "entity, mode, pictures"]),
        ("data.name=../mine", ["data.name=../mine", "a folder of the store"]),
        ("logger.timeout=0", ["logger.timeout=0", "more than 0"]),
        ("+optim.scheduler={_target_:torch.optim.lr_scheduler.StepLR}", ["optim.scheduler:", "step_size"]),
        ("+optim.scheduler={_target_:torch.optim.lr_scheduler.StepLR,step_size:1,interval:batch}", ["epoch, step"]),
        ("+optim.scheduler={_target_:torch.optim.lr_scheduler.ReduceLROnPlateau}", ["optim.scheduler.mode: give max"]),
        ("+optim.scheduler={_target_:torch.optim.lr_scheduler.NoSuch}", ["optim.scheduler._target_", "imported"]),
        ("rerun=maybe", ["rerun=maybe", "true or false"]),
        ("seed=4294967296", ["seed=4294967296"]),
        ("loss.transforms.flip=maybe", ["loss.transforms.flip=maybe"]),
        ("loss@loss.supervised=cb_flip", ["loss.supervised: Consistency"]),
        ("model.fc_channels=0", ["model.fc_channels=0", "1 or more"]),
        ("runs=/proc/none", ["error: ", "/proc/none"]),
        ("bogus", ["bogus"]),
        ("data.image_size=[64]", ["data.image_size=[64]", "[height,width]"]),
        ("trainer.devices=[0,1]", ["trainer.devices=[0, 1]", "trainer=ddp"]),
        ("trainer.devices=auto", ["trainer.devices=auto", "trainer=ddp"]),
        ("selection.patience=0", ["selection.patience=0", "1 or more"]),
        ("trainer.precision=bf17", ["trainer.precision=bf17", "bf16-mixed"]),
        ("trainer.accelerator=xyz", ["trainer:", "xyz"]),
        ("trainer.max_epochs=0", ["trainer.max_epochs=0", "1 or more"]),
        ("trainer.devices=2", ["trainer.devices=2", "trainer=ddp"]),
        ("optim.lr=-1", ["optim:", "-1"]),
        ("optim.lr=abc", ["optim:"]),
        ("overlays=-1", ["overlays=-1"]),
        ("data.num_workers=-1", ["data.num_workers=-1"]),
        ("data.batch_size=abc", ["data.batch_size=abc"]),
        ("data.split.val=abc", ["data.split.val=abc"]),
        ("data.annotate.sampler=middle", ["data.annotate.sampler=middle", "uniform"]),
        ("seed=-1", ["seed=-1"]),
        ("seed=abc", ["seed=abc"]),
        ("loss.weight=abc", ["loss.weight=abc"]),
        ("+loss.wait=1", ["loss:", "wait"]),
        ("loss._target_=cbseg.losses.focal.Focal", ["loss._target_=cbseg.losses.focal.Focal", "cannot be imported"]),
        ("loss.transforms.rotations=90", ["loss.transforms.rotations=90", "[0, 90, 180, 270]"]),
        ("loss.supervised.reduction=pixel", ["loss.supervised.reduction=pixel", "image, batch"]),
        ("model.dropout=2", ["model.dropout=2", "0 to 1"]),
        ("model.num_classes=1", ["model.num_classes=1"]),
        ("logger.mode=onlin", ["auto, online, offline"]),
    ],
)
def test_a_misspelt_key_or_value_ends_with_one_message_that_lists_what_exists(
    argument, expected, monkeypatch, capsys, tmp_path, covid_a, store
):
    base = [
        "experiment=phantom", "data.generate=null", f"data.root={covid_a}", f"store={store}",
        f"runs={tmp_path / 'runs'}",
    ]  # fmt: skip
    base = [default for default in base if default.split("=")[0] != argument.split("=")[0]]
    printed, code = command_line(*base, *argument.split(), monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert "Traceback" not in printed
    assert all(word in printed for word in expected), printed
    assert not list((tmp_path).glob("runs/*/"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["optim._target_=torch.optim.NoSuch"], ["optim._target_=torch.optim.NoSuch: cannot be imported"]),
        (["loss._target_=torch.nn.Identity"], ["loss._target_=torch.nn.Identity: is no loss", "loss=<name>"]),
        (["model._target_=builtins.dict"], ["model._target_=builtins.dict: is no network"]),
        (["model._target_=nonsense"], ["model._target_=nonsense: cannot be imported"]),
        (["~optim"], ["optim: a run needs it", "leave ~optim"]),
        (["~data"], ["data: a run needs it", "leave ~data"]),
        (["-m", "~optim", "seed=0,1"], ["optim: a run needs it"]),
        (["trainer=null"], ["trainer=null does not exist; choose one of: ddp, default"]),
        (["logger=null"], ["logger=null does not exist; choose one of: csv, wandb"]),
        (["-m", "optim=adam,null"], ["optim=null does not exist", "sps"]),
        (
            ["-m", "hydra.sweeper.params={optim.lr: 'interval(0,1)'}"],
            ["hydra.sweeper.params: give each key", "optim.lr="],
        ),
        (["-m", "optim.lr=interval(0,1)"], ["optim.lr=interval(0,1): a sweep takes values", "optim.lr=0.1,0.2"]),
        (["data.root=/d/${b}"], ["data.root: ", "'b' not found", "rename a folder"]),
        (["-m", "data.root=/d/${b}"], ["data.root: ", "'b' not found", "rename a folder"]),
        (["data.root=/d/CT (1)"], ["data.root=/d/CT (1)", "quoted twice: 'data.root="]),
        (["-m", "data.root=/d/[1]"], ["data.root=/d/[1]", "quoted twice: 'data.root="]),
        (["data.root=/d/B\u00fccher"], ["data.root=/d/B\u00fccher", "quoted twice: 'data.root="]),
    ],
)
def test_overrides_that_make_no_run_end_with_one_message_that_says_what_to_do(
    arguments, expected, monkeypatch, capsys, tmp_path, covid_a, store
):
    base = [f"store={store}", f"runs={tmp_path / 'runs'}", "model=fcn8_tiny", "trainer.accelerator=cpu"]
    changed = {argument.lstrip("~").split("=")[0] for argument in arguments}
    base = [default for default in base if default.split("=")[0].split(".")[0] not in changed]
    base += [] if any("data" in key for key in changed) else [f"data.root={covid_a}"]
    printed, code = command_line(*arguments, *base, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert "Traceback" not in printed
    assert all(word in printed for word in expected), printed
    assert printed.count("error:") == 1, printed
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_key_of_ones_own_to_which_another_refers_is_read(train):
    folder = train("loss=pl", "trainer.max_epochs=1", "+few=3", "data.batch_size=${few}")
    assert json.loads((folder / "metrics.json").read_text())["keys"]["data.batch_size"] == 3


@pytest.mark.parametrize("taken_out", ["~logger", "logger=csv"])
def test_a_run_without_its_logger_logs_to_csv_alone(taken_out, monkeypatch, capsys, tmp_path, covid_a, store):
    monkeypatch.setenv("WANDB_MODE", "online")  # without a login, W&B would end the run
    base = ["experiment=phantom", "data.generate=null", f"data.root={covid_a}", f"store={store}", "overlays=0"]
    small = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", f"runs={tmp_path / 'runs'}"]
    printed, code = command_line(*base, *small, taken_out, monkeypatch=monkeypatch, capsys=capsys)
    (folder,) = map(RunFolder, tmp_path.glob("runs/covidA/*/seed0*"))
    assert (code, folder.has_result, folder.epochs, folder.wandb.exists()) == (0, True, 1, False), printed
    assert "logger" not in folder.path.name


def test_a_single_run_that_breaks_leaves_its_reason(monkeypatch, capsys, tmp_path, covid_a, store):
    def diverge(self, batch, index):
        raise NonFiniteLossError("the loss is NaN")

    monkeypatch.setattr(SegmentationModule, "training_step", diverge)
    base = ["experiment=phantom", "logger=csv", "data.generate=null", f"data.root={covid_a}", f"store={store}"]
    runs = tmp_path / "runs"
    printed, code = command_line(*base, f"runs={runs}", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, "Traceback" in printed) == (1, False)
    (folder,) = runs.glob("covidA/*/seed0*")
    assert RunFolder(folder).failure().endswith("NonFiniteLossError: the loss is NaN")


def test_help_and_cfg_are_readable(monkeypatch, capsys):
    printed, code = command_line("--help", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    for words in (
        "one click a region",
        "loss: " + ", ".join(sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))),
        "python -m cbseg.run",
        "max_epochs: 100",
    ):
        assert words in printed
    printed, code = command_line("--cfg", "job", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert "rotations:" in printed


def test_the_command_line_sweeps_with_wandb_offline_and_its_tables_and_figure_follow(covid_a, store, tmp_path):
    """The only test through a real shell: one multirun over two losses, then tables and the picture."""
    runs = tmp_path / "runs"
    sweep = [
        "-m", "loss=pl,cb_flip", "data=covidA", "experiment=phantom", "trainer.max_epochs=1", "data.image_size=64",
        "data.split.val=2", "data.generate=null", f"data.root={covid_a}", f"store={store}", f"runs={runs}",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "cbseg.run", *sweep], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folders = sorted(runs.glob("covidA/*/seed0,*"))
    assert [folder.parent.name for folder in folders] == ["cb_flip", "pl"]
    assert [done.stdout.count(f"{folder}: test dice") for folder in folders] == [1, 1]
    for folder in folders:
        assert len(list(folder.glob("wandb/offline-run-*/run-*.wandb"))) == 1
    for program in ("tables", "figures"):
        made = subprocess.run(
            [sys.executable, "-m", f"experiments.{program}", str(runs)], capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
    (settings,) = {json.loads((folder / "metrics.json").read_text())["settings"] for folder in folders}
    assert {path.name for path in (runs / "tables" / settings).iterdir()} == {
        f"table{name}.{suffix}" for name in (*range(1, 9), "_covidA_counting") for suffix in ("csv", "tex")
    }
    assert (runs / "figures" / f"covidA,{settings}-counting.png").stat().st_size > 10_000
    assert (runs / "figures" / f"covidA,{settings}.png").stat().st_size > 10_000
