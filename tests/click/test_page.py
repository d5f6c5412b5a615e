"""The page in a real browser: what is clicked lies in the file, and what is predicted lies beneath."""

import shutil
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browser import BROWSER

from cbseg.click.predictions import Predictions, last_run
from cbseg.click.scans import ClickScans, find
from cbseg.click.server import ClickServer
from cbseg.click.study import Study
from cbseg.data.markups import MarkedPoint, read_markups, write_markups
from cbseg.data.own import CLASSES
from cbseg.data.phantom_files import draw_volume
from cbseg.prediction.predictor import PredictedSlice

playwright = pytest.importorskip("playwright.sync_api")
itk = pytest.importorskip("SimpleITK")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        one = running.chromium.launch(executable_path=shutil.which(BROWSER), args=["--no-sandbox"])
        yield one
        one.close()


class Network:
    """Sees infection in rows 10 to 19 and columns 20 to 39 of each slice, and is the less sure the nearer slice 5."""

    run = Path("runs/own/pl/seed0")

    def slices(self, count, grey, probabilities):
        for k in range(count):
            image = grey(k)
            classes = np.zeros(image.shape, np.uint8)
            classes[10:20, 20:40] = 1
            sure = 130 + 5 * abs(k - 5)
            likely = np.stack([np.where(classes == c, sure, 255 - sure) for c in (0, 1)]).astype(np.uint8)
            yield PredictedSlice(image, classes, likely)


@pytest.fixture
def opened(browser):
    """``opened(root)`` serves a folder and opens the page; at the end nothing may have gone wrong or elsewhere."""
    servers, wrong = [], []

    def one(root, predicted=False, errors=True):
        scans = ClickScans(find(root, CLASSES), (-1250.0, 250.0))
        study = Study(scans, CLASSES, Predictions(Network(), scans) if predicted else None)
        server = ClickServer(study)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(60_000)
        if errors:
            page.on("console", lambda message: message.type != "error" or wrong.append(message.text))
            page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith((server.url, "data:")) or wrong.append(request.url))
        page.goto(server.url)
        return page

    yield one
    for server in servers:
        server.shutdown()
        server.server_close()
    assert wrong == []


@pytest.fixture
def phantom_root(tmp_path):
    """12 slices of 64 × 64 pixels, twice as high as wide."""
    hu = draw_volume(4, 1, slices=12, size=64)[0]
    image = nib.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-2.0, -4.0, 5.0, 1.0]))
    nib.save(image.as_reoriented([[1, -1], [2, 1], [0, -1]]), tmp_path / "anna.nii.gz")
    return tmp_path


def at(page, row, column, shape):
    """Where the middle of a pixel is on the screen."""
    box = page.locator("#stage").bounding_box()
    return box["x"] + (column + 0.5) / shape[1] * box["width"], box["y"] + (row + 0.5) / shape[0] * box["height"]


def on_slice(page, k):
    page.locator(f"body[data-slice='{k}']").wait_for()


def clicked(page, count):
    """Wait until the page says that there are so many clicks."""
    page.locator("#status", has_text=f"; {count} clicks").wait_for()


def in_file(root):
    return [(point.class_name, point.position) for point in read_markups(root / "anna.mrk.json")]


@pytest.mark.parametrize("kind", ["nifti", "dicom_series"])
def test_clicks_on_real_ct_come_back_on_the_voxel_clicked_at_two_zooms(opened, shared, tmp_path, kind):
    if kind == "nifti":
        (source,) = (shared / "data/nifti").glob("*.nii.gz")
        shutil.copy(source, tmp_path / "anna.nii.gz")
        image = itk.ReadImage(str(source))
    else:
        shutil.copytree(shared / "data" / kind, tmp_path / "anna")
        reader = itk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "anna")))
        image = reader.Execute()
    page = opened(tmp_path)
    columns, rows, slices = image.GetSize()
    first = slices // 2
    on_slice(page, first)
    wanted = []
    for zoom in range(2):
        for number, (row, column) in enumerate([(rows // 3, columns // 3), (rows // 2, columns // 2 - 1)]):
            button = ("left", "right")[number]
            row, column = row + zoom, column + 2 * zoom
            page.mouse.click(*at(page, row, column, (rows, columns)), button=button)
            wanted.append((("infection", "background")[number], (column, row, first + zoom)))
            clicked(page, len(wanted))
        page.keyboard.press("ArrowUp")
        on_slice(page, first + zoom + 1)
        page.keyboard.press("+")
    found = [(name, image.TransformPhysicalPointToIndex(position)) for name, position in in_file(tmp_path)]
    assert found == wanted


def test_healthy_undo_removal_and_the_time_of_each_click(opened, phantom_root):
    page = opened(phantom_root)
    on_slice(page, 6)
    page.mouse.click(*at(page, 10, 50, (64, 64)))
    clicked(page, 1)
    (point,) = read_markups(phantom_root / "anna.mrk.json")
    assert 0 < point.seconds < 60
    page.mouse.wheel(0, -100)
    on_slice(page, 7)
    page.keyboard.press("h")
    page.locator("#healthy[aria-pressed=true]").wait_for()
    assert [name for name, _ in in_file(phantom_root)] == ["infection", "healthy"]
    page.keyboard.press("z")
    page.locator("#healthy[aria-pressed=false]").wait_for()
    clicked(page, 1)
    page.keyboard.press("ArrowDown")
    on_slice(page, 6)
    page.mouse.move(*at(page, 10, 50, (64, 64)))
    page.keyboard.press("x")
    clicked(page, 0)
    assert in_file(phantom_root) == []
    page.keyboard.press("z")
    clicked(page, 1)
    assert [name for name, _ in in_file(phantom_root)] == ["infection"]
    assert page.locator("#clicks .infection").count() == 1


def test_windows_change_the_slice_and_one_is_what_the_network_sees(opened, phantom_root):
    page = opened(phantom_root)
    on_slice(page, 6)

    def grey():
        return np.array(
            page.locator("#slice").evaluate("c => [...c.getContext('2d').getImageData(0, 0, 64, 64).data]")
        ).reshape(64, 64, 4)[..., 0]

    hu = draw_volume(4, 1, slices=12, size=64)[0][6].astype(float)
    assert (grey() == np.round((hu.clip(-1250, 250) + 1250) / 1500 * 255)).all()
    page.select_option("#window", "lung")
    page.wait_for_timeout(500)
    assert (grey() == np.round((hu.clip(-1350, 150) + 1350) / 1500 * 255)).all()


def test_the_prediction_lies_beneath_and_the_most_doubtful_slices_come_first(opened, phantom_root):
    page = opened(phantom_root, predicted=True)
    on_slice(page, 6)
    page.locator("#prediction[data-of='6']").wait_for()
    alpha = np.array(
        page.locator("#prediction").evaluate("c => [...c.getContext('2d').getImageData(0, 0, 64, 64).data]")
    ).reshape(64, 64, 4)[..., 3]
    assert (alpha[10:20, 20:40] > 0).all()
    assert np.count_nonzero(alpha) == 200
    page.locator("#status", has_text="doubt").wait_for()
    page.wait_for_timeout(1000)
    page.keyboard.press("d")
    on_slice(page, 5)
    seen = []
    for _ in range(3):
        page.keyboard.press("ArrowDown")
        page.wait_for_timeout(300)
        seen.append(int(page.locator("body").get_attribute("data-slice")))
    assert [abs(k - 5) for k in seen] == [1, 1, 2]
    page.keyboard.press("p")
    page.locator("#prediction[data-of='']").wait_for(state="attached")


def test_two_tabs_show_each_others_clicks_and_undo_their_own(opened, phantom_root):
    first, second = opened(phantom_root), opened(phantom_root)
    on_slice(first, 6)
    on_slice(second, 6)
    first.mouse.click(*at(first, 10, 20, (64, 64)))
    clicked(first, 1)
    second.mouse.click(*at(second, 40, 20, (64, 64)))
    clicked(second, 2)
    first.keyboard.press("z")
    first.locator("#undo:disabled").wait_for()
    clicked(first, 1)
    ((_, (x, y, z)),) = in_file(phantom_root)
    assert (x, y, z) == pytest.approx((40, 160, 30))
    second.keyboard.press("z")
    clicked(second, 0)


def test_a_full_disk_a_scan_that_cannot_be_read_and_what_contradicts_are_said_on_the_page(
    opened, phantom_root, monkeypatch
):
    (phantom_root / "torn.nii").write_bytes(b"no volume")
    page = opened(phantom_root, errors=False)
    on_slice(page, 6)

    def full(file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cbseg.data.markups.os.fsync", full)
        page.mouse.click(*at(page, 10, 20, (64, 64)))
        page.get_by_role("alert").filter(has_text="No space left on device").wait_for()
    assert page.locator("#clicks .click").count() == 0
    page.keyboard.press("n")
    page.get_by_role("alert").filter(has_text="torn.nii: not a readable NIfTI file").wait_for()
    page.keyboard.press("b")
    on_slice(page, 6)
    page.mouse.click(*at(page, 10, 20, (64, 64)))
    clicked(page, 1)
    assert page.get_by_role("alert").count() == 0
    page.keyboard.press("h")
    page.get_by_role("alert").filter(has_text="slice 7: has clicks; remove them").wait_for()
    assert len(in_file(phantom_root)) == 1


def test_slicers_points_are_shown(opened, phantom_root):
    write_markups(phantom_root / "anna.second.mrk.json", [MarkedPoint("infection-9", (40, 160, 30))])
    page = opened(phantom_root)
    on_slice(page, 6)
    assert page.locator("#clicks .infection.fixed title").text_content() == "infection-9"


def test_the_last_run_is_the_newest_on_this_folder(tmp_path):
    root = tmp_path / "my_ct"
    root.mkdir()
    for k, (name, of) in enumerate([("own", root), ("own", root), ("own", tmp_path), ("covidB", root)]):
        run = tmp_path / f"runs/own/pl/seed{k}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(f"data: {{name: {name}, root: {of}}}")
        (run / "best.ckpt").touch()
    (tmp_path / "runs/own/pl/seed1/config.yaml").write_text("data: &a [*a]")
    assert last_run(tmp_path / "runs", root).name == "seed0"
    assert last_run(tmp_path / "nowhere", root) is None
