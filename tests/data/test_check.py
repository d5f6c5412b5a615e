"""The check: what it finds, every problem at once, and the contact sheet."""

import re
import shutil

import pydicom
import pytest

from cbseg.config import build, compose
from cbseg.data import phantom
from cbseg.data.check import check, main


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("check") / "covidB"
    phantom.generate(root, "covidB", scans=9, size=32)
    return root


def lines(data, root, sheet):
    config = compose([f"data={data}", f"data.root={root}", "model=fcn8_tiny"])
    return list(check(build(config.data, "data"), sheet))


def test_it_reports_scans_counts_split_and_draws_the_sheet(drawn, tmp_path):
    report = lines("covidB_sep", drawn, tmp_path / "sheet.png")
    assert report[0].startswith("scan-1: 21 slices of 32 × 32, scan-1-00 to scan-1-20, ")
    assert "stored as LPS" in report[0]
    assert "mm, values -1024…" in report[0]
    assert report[9].startswith("in all 9 scans, 193 slices")
    assert report[10] == "split: 107 train, 22 val, 64 test"
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


def test_it_reports_every_problem_and_goes_on(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "covidB")
    (tmp_path / "covidB/OpenSourceDCMs/DCM2/phantom2s0004.dcm").write_text("hello")
    (tmp_path / "covidB/OpenSourceDCMs/DCM5/phantom5s0004.dcm").unlink()
    report = lines("covidB_mixed", tmp_path / "covidB", tmp_path / "sheet.png")
    problems = [line for line in report if line.startswith("problem:")]
    assert len(problems) == 2
    assert "phantom2s0004.dcm: not a DICOM file" in problems[0]
    assert "missing" in problems[1]
    assert any(line.startswith("in all 9 scans") for line in report)


def test_a_data_config_that_does_not_exist_ends_with_those_that_do(monkeypatch):
    monkeypatch.setattr("sys.argv", ["cbseg.data.check", "covidD"])
    with pytest.raises(SystemExit, match=r"(?s)error: .*covidD.*covidB_sep"):
        main()


def test_a_folder_without_the_dataset_is_a_problem(tmp_path):
    assert lines("covidC_sep", tmp_path, tmp_path / "sheet.png")[0].startswith("problem:")
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("~/ct", "quoted twice: 'data.root="),
        ("/data/CT (1)", "quoted twice: 'data.root="),
        ("/home/müller/ct", "quoted twice: 'data.root="),
        ("/data/[x]", "quoted twice: 'data.root="),
        ("/data/a,b", "quoted twice: 'data.root="),
        ("/data/${b}", "rename a folder with such a name"),
    ],
)
def test_a_root_that_hydra_cannot_read_says_what_to_quote(monkeypatch, root, message):
    monkeypatch.setattr("sys.argv", ["cbseg.data.check", "covidC_mixed", f"data.root={root}"])
    with pytest.raises(SystemExit, match=rf"(?s)error: .*{re.escape(message)}"):
        main()


@pytest.mark.parametrize("name", ["CT (1)", "müller [x], y"])
def test_a_quoted_root_of_any_name_is_found(drawn, tmp_path, name, monkeypatch):
    shutil.copytree(drawn, tmp_path / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for root in (tmp_path / name, f"~/{name}"):
        report = lines("covidB_sep", f'"{root}"', tmp_path / "sheet.png")
        assert report[9].startswith("in all 9 scans, 193 slices")


def test_values_that_are_no_hu_are_a_problem(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "covidB")
    for path in (tmp_path / "covidB/OpenSourceDCMs/DCM3").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.RescaleIntercept = -2048
        dataset.save_as(path)
    problems = [line for line in lines("covidB_sep", tmp_path / "covidB", tmp_path / "s.png") if "problem" in line]
    assert len(problems) == 2  # and the split lacks a scan
    assert "DCM3: its values -1024" in problems[0]
    assert "are no HU" in problems[0]
