"""The report: one page from run folders, whatever they hold, that loads nothing from elsewhere."""

import base64
import io
import math
import re
import shutil
import subprocess
from html import escape

import made_results
import numpy as np
import pytest
from browser import BROWSER
from PIL import Image

from cbseg.drawing import CORRECT, FALSE, MISSED
from cbseg.errors import InputError
from cbseg.run_folder import RunFolder
from cbseg.run_state import RunState
from experiments import figures, report

CURVES = """epoch,step,val/dice,val/mae,train/loss,train/point
1,3,0.2,5.0,0.9,0.9
2,7,0.4,3.0,0.5,0.5
"""
COUNTS = {"tp": 1, "fp": 1, "fn": 0, "tn": 2, "count_errors": [0] * 5, "slices": 1}


def record_slices(folder, count=2):
    """Slices of 8 x 8 pixels: two true regions of a pixel each, one found and one missed, and one predicted falsely."""
    (folder / "slices").mkdir()
    truth, prediction, points = np.zeros((3, 8, 8), np.uint8)
    truth[1, 1] = truth[6, 6] = prediction[1, 1] = prediction[1, 6] = 1
    points += 255
    points[1, 1] = points[6, 6] = 1
    points[3, 3] = points[4, 0] = 0
    for k in range(count):
        image = np.full((8, 8), 10 * k, np.uint8)
        np.savez(folder / f"slices/slice-{k}.npz", image=image, points=points, truth=truth, prediction=prediction)


@pytest.fixture
def finished(tmp_path):
    """``finished("covidA", "pl")`` writes a finished run's folder, with ``pictures=False`` without recorded slices."""

    def one(data="covidA", loss="pl", seed=0, settings="", dice=0.6, pictures=True, **more):
        more = {
            "test": made_results.SCORES | {"dice": dice}, "scans": {"one": COUNTS}, "versions": {"torch": "2.6.0"},
            "dataset": dict.fromkeys(("cases", "slices", "slices_with_infections", "infected_regions"), 98),
            "machine": {"cpus": 2}, "git": {"commit": "c0ffee", "dirty": True},
        } | more  # fmt: skip
        folder = made_results.write(tmp_path, made_results.result(data, loss, seed, settings, **more))
        (folder / "metrics.csv").write_text(CURVES)
        (folder / "config.yaml").write_text("seed: 0\nnote: a < b\n")
        if pictures:
            record_slices(folder)
        return folder

    return one


def failed(runs, loss="cb_flip", settings=""):
    folder = runs / "covidA" / loss / ("seed0" + (f",{settings}" if settings else ""))
    folder.mkdir(parents=True)
    reason = "Traceback (most recent call last):\n  in <module>\nNonFiniteLossError: the loss is nan"
    (folder / "error.txt").write_text(f"{reason}\n\n# config\nseed: 0\n")
    return folder


def written(runs):
    return report.write(runs).read_text(encoding="utf-8")


def plain(page):
    """A page's text without tags, white space as one blank."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_a_page_shows_tables_curves_scans_slices_and_how_each_run_was_made(tmp_path, finished):
    finished(loss="pl")
    finished(loss="lcfcn", dice=0.7)
    page = written(tmp_path)
    text = plain(page)
    assert "Table 2: covidA segmentation" in text
    assert re.search(r"Point loss \(PL\) 0\.60 \(0\.54\)", text)
    assert page.count("<polyline") == 2 * 4  # val/dice, val/mae, train/loss and its term, of each loss
    assert "Point loss (PL), seed 0: 0.4 in epoch 2." in page
    assert "<title>one, seed 0: 0.67</title>" in page
    assert "Truth 2 regions" in text
    assert "Dice 0.50, 2 regions" in text
    assert "Dice 0.60, best epoch 2 of 3, 76 s, 12.3 images/s" in text
    assert "c0ffee , with uncommitted changes" in text
    assert "torch 2.6.0" in text
    assert "note: a &lt; b" in page


def test_settings_are_kept_apart_and_the_overview_counts_their_runs(tmp_path, finished):
    finished(dice=0.6)
    finished(dice=0.2, settings="optim=sps")
    failed(tmp_path, settings="optim=sps")
    text = plain(written(tmp_path))
    assert "the defaults covidA 1 0 0" in text
    assert "optim=sps covidA 1 1 0" in text
    assert text.index("0.60 (0.54)") < text.index("Settings: optim=sps") < text.index("0.20 (0.54)")


def test_a_failure_shows_its_last_line_and_folds_the_whole_text(tmp_path):
    failed(tmp_path)
    page = written(tmp_path)
    summary, text = re.search(r'<details class="failure"><summary>(.*?)</summary><pre>(.*?)</pre>', page, re.S).groups()
    assert plain(summary).strip() == "covidA/cb_flip/seed0 NonFiniteLossError: the loss is nan"
    assert "in &lt;module&gt;" in text
    assert "# config\nseed: 0" in text


def test_a_page_of_failures_only_says_so_and_shows_no_table_of_scores(tmp_path):
    failed(tmp_path)
    empty = failed(tmp_path, loss="cb_fliprot")
    (empty / "error.txt").write_text("")
    text = plain(written(tmp_path))
    assert "the defaults covidA 0 2 0" in text
    assert "error.txt is empty" in text
    assert "Table 2" not in text


def test_a_run_that_neither_finished_nor_failed_is_unfinished_and_its_curves_are_shown(tmp_path):
    folder = tmp_path / "covidA/pl/seed0"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").touch()
    assert "covidA/pl/seed0 , 0 epochs so far" in plain(written(tmp_path))
    (folder / "metrics.csv").write_text("\n".join(CURVES.splitlines()[:2]))
    page = written(tmp_path)
    assert "covidA/pl/seed0 , 1 epoch so far" in plain(page)
    assert 'class="cross"' in page


def test_what_a_run_lacks_is_shown_as_missing(tmp_path, finished):
    folder = finished(dice=None, pictures=False, scans={}, best_epoch=None, images_per_second=None)
    (folder / "metrics.csv").unlink()
    (folder / "config.yaml").unlink()
    text = plain(written(tmp_path))
    assert "– (0.54)" in text
    assert "Dice –, best epoch – of 3, 76 s, – images/s" in text
    assert "No learning curves" in text
    assert "No config.yaml" in text
    (folder / "metrics.csv").touch()
    assert "No learning curves" in plain(written(tmp_path))


def test_losses_that_recorded_slices_are_shown_beside_one_that_did_not(tmp_path, finished):
    finished(loss="pl")
    finished(loss="lcfcn", pictures=False)
    labels = re.findall(r'aria-label="slice-0, ([^"]*)"', written(tmp_path))
    assert labels == ["8 × 8 pixels", "4 points", "2 regions", "Dice 0.50, 2 regions"]


def test_a_folder_without_runs_says_so(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        report.write(tmp_path)


def test_all_text_is_escaped(tmp_path, finished):
    nasty = "x=<script>alert(1)<&\"'"
    folder = finished(data="<i>data", loss="<u>loss", settings=nasty)
    (folder / "config.yaml").write_text("a: </pre><script>alert(2)</script>\n")
    shutil.move(folder / "slices/slice-0.npz", folder / 'slices/"><b>.npz')
    (failed(tmp_path, settings=nasty) / "error.txt").write_text("</pre><script>alert(3)</script>")
    page = written(tmp_path)
    assert page.count("<script>") == 1
    for tag in ("<i>", "<u>", '"><b>'):
        assert tag not in page
        assert escape(tag, quote=False) in page.replace("&#34;", '"')


def test_a_page_loads_nothing_from_elsewhere(tmp_path, finished):
    finished()
    page = written(tmp_path)
    links = re.findall(r'(?:src|href|action|data)\s*=\s*["\']?([^"\'> ]*)', page)
    assert links
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in links)
    assert not re.search(r"url\(|@import|<link|<iframe|\bfetch\(|XMLHttpRequest|https?://", page)
    assert "default-src 'none'" in page


def test_every_link_within_a_page_has_its_target_and_no_target_is_there_twice(tmp_path, finished):
    finished()
    finished(data="covidB_sep")
    failed(tmp_path, settings="optim=sps")
    page = written(tmp_path)
    targets = re.findall(r'\bid="([^"]*)"', page)
    assert len(targets) == len(set(targets))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(targets)


def test_a_slices_image_points_and_truth_are_embedded_once_for_all_losses(tmp_path, finished):
    for loss in ("pl", "cb_flip", "lcfcn"):
        finished(loss=loss)
    page = written(tmp_path)
    assert page.count("data:image/webp") == 2 * (1 + 1 + 3)
    assert page.count('<circle class="infected"') == page.count('<rect class="healthy"') == 2 * 2


def test_an_overlay_has_the_colours_of_the_figures_and_is_transparent_elsewhere():
    truth, prediction = np.zeros((2, 4, 4), np.uint8)
    truth[0, :2] = prediction[0, 1:3] = 1
    encoded = report.overlay(truth, prediction).removeprefix("data:image/webp;base64,")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA"))
    assert pixels[0, :3, :3].tolist() == [list(MISSED), list(CORRECT), list(FALSE)]
    assert pixels[0, :, 3].tolist() == [128, 128, 128, 0]
    assert not pixels[1:, :, 3].any()


def test_a_large_slice_is_embedded_small():
    picture = Image.fromarray(np.zeros((1200, 600), np.uint8))
    encoded = report.embed(picture, Image.Resampling.LANCZOS).removeprefix("data:image/webp;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (report.LONGEST_SIDE // 2, report.LONGEST_SIDE)


def test_curves_count_epochs_as_runs_write_them(tmp_path, finished):
    state = RunState(RunFolder(finished(pictures=False)), "val/dice", "max")
    state.history = [{"epoch": 1, "val/dice": 0.2, "train/loss": 0.9}, {"epoch": 2, "val/dice": 0.4, "train/loss": 0.5}]
    state.write_curves()
    ((_, (run,)),) = report.find_runs(tmp_path).values()
    assert run.curves["val/dice"] == {1: 0.2, 2: 0.4}
    assert run.curves["train/loss"] == {1: 0.9, 2: 0.5}


def test_values_that_are_not_finite_are_left_out_of_curves(tmp_path, finished):
    folder = finished(pictures=False)
    (folder / "metrics.csv").write_text("epoch,step,train/loss\n1,1,inf\n2,2,nan\n3,3,0.5\n")
    ((_, (run,)),) = report.find_runs(tmp_path).values()
    assert run.curves["train/loss"] == {3: 0.5}
    assert "<polyline" in written(tmp_path)


@pytest.mark.parametrize(
    ("score", "values", "low", "high", "log"),
    [
        ("val/dice", [0.2, 0.4], 0, 1, False),
        ("val/mae", [3.0, 9.0], 0, 9, False),
        ("train/loss", [0.01, 1.0], 0.01, 1, True),
        ("train/loss", [0.0, 1.0], 0, 1, False),
        ("train/loss", [-3.0], -3, 1, False),
        ("val/mae", [0.0], 0, 1, False),
    ],
)
def test_an_axis_holds_all_values_between_its_ends(score, values, low, high, log):
    axis = report.Axis.around(score, values)
    assert (axis.low, axis.high, axis.log) == (low, high, log)
    assert all(axis.end <= axis.at(value) <= axis.start for value in values)
    assert len(axis.ticks) >= 2
    assert (axis.at(axis.low), axis.at(axis.high)) == (axis.start, axis.end)


def test_dice_by_scan_is_the_mean_over_classes_and_undefined_where_there_is_no_infection(tmp_path, finished):
    two = COUNTS | {"tp": [1, 0], "fp": [1, 1], "fn": [0, 1], "tn": [2, 2]}
    empty = COUNTS | {"tp": 0, "fp": 0, "fn": 0, "tn": 4}
    finished(scans={"one": COUNTS, "two": two, "empty": empty}, pictures=False)
    ((_, (run,)),) = report.find_runs(tmp_path).values()
    dice = report.scan_dice(run)
    assert dice["one"] == pytest.approx(2 / 3)
    assert dice["two"] == pytest.approx(1 / 3)
    assert math.isnan(dice["empty"])
    (row,) = report.distribution([run])
    assert (row["scans"], row["undefined"]) == (3, 1)
    assert row["quartiles"] == pytest.approx([5 / 12, 1 / 2, 7 / 12])
    assert "3 (1 undefined)" in plain(written(tmp_path))


def test_figures_of_no_run_end_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"holds no finished run.*python -m cbseg\.run"):
        figures.write(tmp_path / "runs")


def test_every_figure_is_written_as_png_and_as_pdf(tmp_path, finished):
    finished(settings="a.b=1")  # a dot is part of the name
    lines = figures.write(tmp_path)
    names = [f"covidA,a.b=1{suffix}" for suffix in ("", "-annotation", "-counting")]
    assert [line.split(": ")[0] for line in lines] == names
    for name in names:
        assert (tmp_path / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")


def test_figure_1_counts_what_is_labelled_on_the_slice_with_most_regions(tmp_path, finished):
    folder = finished()
    slices = figures.common_slices({"pl": (folder, {})})
    titles = [axes.get_title() for axes in figures.annotation("covidA", slices).axes]
    assert titles == ["slice-0", "full supervision: 64 pixels", "points: 2 on infected regions, 2 on the background"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_shows_the_page_without_errors_and_the_slider_changes_the_slice(tmp_path, finished):
    finished()
    hook = (
        "<head><script>const errors = []; addEventListener('error', e => errors.push(e.message), true);"
        "addEventListener('securitypolicyviolation', e => errors.push(e.blockedURI));</script>"
    )
    drive = (
        "<script>const slider = document.querySelector('input[type=range]'); slider.value = 1;"
        "slider.dispatchEvent(new Event('input')); addEventListener('load', () => { document.body.dataset.seen = ["
        "errors.length, document.querySelectorAll('table').length > 2, slider.getAttribute('aria-valuetext'),"
        "...[...document.querySelectorAll('.slice')].map(s => s.checkVisibility())].join('|'); });</script></body>"
    )
    page = written(tmp_path).replace("<head>", hook).replace("</body>", drive)
    (tmp_path / "driven.html").write_text(page, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", (tmp_path / "driven.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    assert re.search('data-seen="([^"]*)"', done.stdout)[1] == "0|true|2 of 2: slice-1|false|true"
