"""README's examples run as they are written, a mistake in one is shown as what it is, and it lists every command."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from PIL import Image

from cbseg.__main__ import COMMANDS


@pytest.fixture
def written(request, tmp_path):
    """``written("Adding a loss")`` puts that section's files into a checkout, and gives them by their path."""
    root = request.config.rootpath
    for folder in ("cbseg", "conf"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))

    def one(title):
        section = (root / "README.md").read_text().split(f"### {title}\n")[1].split("\n##")[0]
        files = {}
        for code in re.findall(r"```(?:python|yaml)\n(.*?)```", section, re.S):
            name = code.splitlines()[0].removeprefix("# ")
            files[name] = tmp_path / name
            assert not files[name].exists()
            files[name].write_text(code)
        return files

    return one


@pytest.fixture
def example(written):
    """The files of README's new loss."""
    files = written("Adding a loss")
    assert list(files) == ["cbseg/losses/focal.py", "conf/loss/focal.yaml"]
    return files


@pytest.fixture
def command(tmp_path, covid_a, store):
    """``command("loss=focal")`` runs ``python -m cbseg.run`` in that checkout; gives what it printed and its code."""

    def one(*arguments, data="covidA", root=covid_a):
        small = [
            "experiment=phantom", f"data={data}", "logger=csv", "overlays=0", "trainer.enable_progress_bar=false",
            "trainer.max_epochs=1", "data.image_size=64", "data.split.val=2", "data.generate=null",
            f"data.root={root}", f"store={store}", "runs=runs",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "cbseg.run", *arguments, *small],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr, done.returncode

    return one


@pytest.mark.parametrize("arguments", [["loss=focal"], ["loss=cb_fliprot", "loss@loss.supervised=focal"]])
def test_readmes_example_of_a_loss_trains_as_it_is_written(example, command, arguments, tmp_path):
    printed, code = command(*arguments)
    assert code == 0, printed
    (curves,) = tmp_path.glob("runs/covidA/*/*/metrics.csv")
    assert "train/focal" in curves.read_text()


def test_readmes_example_of_a_dataset_trains_as_it_is_written(written, command, covid_a, tmp_path):
    assert list(written("Adding a dataset")) == ["cbseg/data/pairs.py", "conf/data/pairs.yaml"]
    root = tmp_path / "pictures"
    for name, kind in (("images", "Imgs"), ("masks", "GT")):
        (root / name).mkdir(parents=True)
        for k, path in enumerate(sorted(covid_a.glob(f"Dataset/*/*/**/{kind}/*"))):
            Image.open(path).convert("L").save(root / name / f"slice{k}.png")
    printed, code = command("loss=pl", data="pairs", root=root)
    assert code == 0, printed
    assert "10 train, 2 val, 4 test slices" in printed


def test_readmes_example_of_a_network_trains_as_it_is_written(written, command, tmp_path):
    assert list(written("Adding a network")) == ["conf/model/lraspp.yaml", "conf/model/unet.yaml"]
    printed, code = command("loss=pl", "model=lraspp")
    assert code == 0, printed
    assert list(tmp_path.glob("runs/covidA/pl/*model=lraspp*/metrics.json"))


def test_readmes_example_of_a_callback_trains_as_it_is_written(written, command, tmp_path):
    assert list(written("Adding a callback")) == ["conf/trainer/plateau.yaml"]
    printed, code = command("loss=pl", "trainer=plateau")
    assert code == 0, printed
    (config,) = tmp_path.glob("runs/covidA/pl/*trainer=plateau*/config.yaml")
    assert "monitor: train/loss" in config.read_text()


def test_readme_and_the_list_of_commands_name_the_same(request):
    readme = (request.config.rootpath / "README.md").read_text()
    listed = dict(re.findall(r"^\| `python -m ([\w.]+)` \| (.*) \|$", readme, re.M))
    assert listed == COMMANDS
    assert all(find_spec(module) for module in COMMANDS)


def broken(example, old, new):
    """Put a mistake into the example's loss; gives the number of its line."""
    path = example["cbseg/losses/focal.py"]
    text = path.read_text().replace(old, new)
    path.write_text(text)
    return 1 + next(k for k, line in enumerate(text.splitlines()) if new in line)


MISTAKES = {
    "while it trains": ("focal.sum() / ", "focl.sum() / ", "NameError: name 'focl' is not defined"),
    "where it is made": ("self.gamma = gamma", "self.gamma = gama", "NameError: name 'gama' is not defined"),
    "where it is read": ("from torch import Tensor", "from torch import Tenser", "ImportError: cannot import name"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_mistake_in_a_loss_of_ones_own_is_shown_by_its_line_and_exception(example, command, mistake, sweep, tmp_path):
    old, new, exception = mistake
    line = broken(example, old, new)
    printed, code = command(*(["-m"] if sweep else []), "loss=focal")
    assert code == 1
    assert f"cbseg/losses/focal.py:{line}, in " in printed
    assert new in printed
    assert exception in printed
    assert "HYDRA_FULL_ERROR" not in printed
    assert "full_key" not in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) < 16
    (whole,) = tmp_path.glob("runs/covidA/focal/*/error.txt")
    assert "Traceback" in whole.read_text()
    assert exception in whole.read_text()


def test_an_argument_that_the_loss_does_not_have_is_told_by_its_key(example, command, tmp_path):
    printed, code = command("loss=focal", "+loss.gama=3")
    assert code == 1
    assert printed.startswith("error: loss: ")
    assert "gama" in printed
    assert len(printed.splitlines()) == 1
