"""An installed package: it works from any folder, with the configs in it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A wheel of the project, unpacked as pip does it."""
    sources, site = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("site")
    for name in ("cbseg", "conf"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(sources)]
    subprocess.run(build, cwd=sources, check=True)
    (wheel,) = sources.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_it_holds_every_config_and_module_and_no_experiments(installed):
    def below(folder, suffix):
        return {path.relative_to(folder) for path in folder.rglob(f"*{suffix}")}

    assert below(installed / "cbseg/conf", ".yaml") == below(ROOT / "conf", ".yaml")
    assert below(installed / "cbseg", ".py") == below(ROOT / "cbseg", ".py")
    assert not (installed / "experiments").exists()


def test_its_commands_work_from_any_folder(installed, tmp_path):
    def printed(*arguments):
        outside = {**os.environ, "PYTHONPATH": str(installed)}
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=outside, check=True, capture_output=True, text=True).stdout

    assert str(installed) in printed("cbseg.run", "--info", "searchpath")
    assert "runs/covidA/pl/seed0" in printed("cbseg.run", "-m", "loss=pl", "experiment=demo", "dry_run=true")
