"""The server of the page: whom it answers, and what is in a scan's file after each request."""

import http.client
import json
import re
import sys
import threading
from importlib.resources import files

import nibabel as nib
import numpy as np
import pytest

from cbseg.click import __main__ as command
from cbseg.click.scans import ClickScans, find
from cbseg.click.server import ClickServer
from cbseg.click.study import Study
from cbseg.data.markups import MarkedPoint, read_markups, write_markups
from cbseg.data.own import CLASSES
from cbseg.data.phantom_files import draw_volume

INFECTION = {"scan": 0, "slice": 4, "row": 7, "column": 30, "name": "infection", "seconds": 1.234}
HEALTHY = INFECTION | {"name": "healthy"}


@pytest.fixture(scope="module")
def hu():
    return draw_volume(4, 1, slices=12, size=64)[0]


@pytest.fixture
def root(tmp_path, hu):
    """A folder with a CT that is stored in another orientation, and one that cannot be read."""
    image = nib.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-2.0, -3.0, 4.0, 1.0]))
    nib.save(image.as_reoriented([[1, -1], [2, 1], [0, -1]]), tmp_path / "anna.nii.gz")
    (tmp_path / "torn.nii").write_bytes(b"no volume")
    return tmp_path


@pytest.fixture
def server(root):
    one = ClickServer(Study(ClickScans(find(root, CLASSES), (-1250.0, 250.0)), CLASSES))
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield one
    one.shutdown()
    one.server_close()


def send(server, path, body=None, secret=None, **headers):
    """Ask as a browser's page does; the status and the answer, of JSON what it holds."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    host = f"127.0.0.1:{server.server_port}"
    usual = {"Host": host} | ({} if body is None else {"Content-Type": "application/json", "Origin": f"http://{host}"})
    headers = {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request(
        "GET" if body is None else "POST",
        f"/{server.secret if secret is None else secret}/{path}",
        None if body is None else json.dumps(body),
        usual | headers,
    )
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content) if answer.headers["Content-Type"] == "application/json" else content


def points(root):
    return [(point.label, point.seconds) for point in read_markups(root / "anna.mrk.json")]


def test_it_listens_on_the_loopback_address_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url.startswith(f"http://127.0.0.1:{server.server_port}/")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}, {"secret": "guess"}, {"secret": ""},
    ],
)  # fmt: skip
def test_foreign_hosts_and_origins_and_who_does_not_know_the_secret_are_refused(server, root, headers):
    for path, body in (("study", None), ("", None), ("add", INFECTION)):
        assert send(server, path, body, **headers)[0] == 403
    assert send(server, "study", Origin=f"http://127.0.0.1:{server.server_port + 1}")[0] == 403
    assert not (root / "anna.mrk.json").exists()


def test_a_form_of_another_page_is_refused_even_with_the_secret(server, root):
    assert send(server, "add", INFECTION, Content_Type="text/plain")[0] == 404
    assert send(server, "add", INFECTION, Content_Type="application/x-www-form-urlencoded")[0] == 404
    assert send(server, "../../etc/passwd")[0] == 404
    assert not (root / "anna.mrk.json").exists()


def test_the_page_loads_nothing_from_elsewhere_and_is_kept_nowhere(server):
    for name in ("page.html", "page.js", "page.css"):
        text = (files("cbseg.click") / "page" / name).read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|//cdn|@import|url\(", text)
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", f"/{server.secret}/")
    headers = connection.getresponse().headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers


def test_clicks_are_written_by_where_they_lie_and_undone_one_by_one(server, root):
    status, clicks = send(server, "add", INFECTION)
    assert status == 200
    assert clicks == [{"slice": 4, "row": 7, "column": 30, "name": "infection", "label": "infection-1", "fixed": False}]
    status, clicks = send(server, "add", INFECTION | {"name": "background", "column": 31, "seconds": 3600})
    assert points(root) == [("infection-1", 1.2), ("background-1", None)]
    assert read_markups(root / "anna.mrk.json")[0].position == pytest.approx((60, 21, 16))
    assert send(server, "remove", {"scan": 0, **clicks[0]})[1] == clicks[1:]
    status, answer = send(server, "remove", {"scan": 0, **clicks[0]})
    assert (status, answer["error"]) == (409, "infection-1: is gone already; another page or 3D Slicer removed it")
    assert points(root) == [("background-1", None)]


def test_what_slicer_added_meanwhile_is_kept_and_other_files_are_shown(server, root):
    send(server, "add", INFECTION)
    there = read_markups(root / "anna.mrk.json")
    write_markups(root / "anna.mrk.json", [*there, MarkedPoint("unheard-7", (10, 21, 12))])
    _, clicks = send(server, "add", INFECTION | {"row": 9})
    assert [click["label"] for click in clicks] == ["infection-1", "unheard-7", "infection-2"]
    write_markups(root / "anna.second.mrk.json", [MarkedPoint("infection", (20, 30, 16))])
    study = Study(ClickScans(find(root, CLASSES), (-1250.0, 250.0)), CLASSES)
    shown = study.scan({"scan": 0})["clicks"]
    assert [shown[0][key] for key in ("slice", "row", "column", "fixed")] == [4, 10, 10, True]
    assert study.overview({})["scans"][0]["clicks"] == 4


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (INFECTION, INFECTION, "slice 5: this pixel is clicked already"),
        (INFECTION, INFECTION | {"name": "background"}, "slice 5: this pixel is clicked already"),
        (INFECTION, HEALTHY, "slice 5: has clicks; remove them before you call it healthy"),
        (HEALTHY, INFECTION | {"row": 1}, "slice 5: is called healthy; take that back"),
        (INFECTION, INFECTION | {"row": 64}, "slice 5, row 64, column 30: is no pixel of this scan"),
        (INFECTION, INFECTION | {"slice": -1}, "is no pixel of this scan"),
        (INFECTION, INFECTION | {"name": "ggo", "row": 1}, "ggo is no class; there are infection, background, healthy"),
    ],
)
def test_clicks_that_contradict_others_are_refused_and_change_nothing(server, root, first, second, message):
    assert send(server, "add", first)[0] == 200
    before = (root / "anna.mrk.json").read_bytes()
    status, answer = send(server, "add", second)
    assert status == 409
    assert message in answer["error"]
    assert (root / "anna.mrk.json").read_bytes() == before


@pytest.mark.parametrize(
    "body",
    [{}, [], {"scan": 9} | INFECTION | {"scan": 9}, INFECTION | {"row": "x"}, INFECTION | {"seconds": "x" * 20_000}],
)
def test_what_no_page_asks_is_refused(server, root, body):
    assert send(server, "add", body)[0] == 400
    assert not (root / "anna.mrk.json").exists()


def test_a_full_disk_is_said_and_loses_nothing(server, root, monkeypatch):
    send(server, "add", INFECTION)
    before = (root / "anna.mrk.json").read_bytes()

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cbseg.data.markups.os.fsync", full)
    for path, body in (("add", INFECTION | {"row": 8}), ("remove", INFECTION | {"label": "infection-1"})):
        status, answer = send(server, path, body)
        assert status == 409
        assert "anna.mrk.json: cannot be written (No space left on device); free some space" in answer["error"]
    assert (root / "anna.mrk.json").read_bytes() == before
    assert not list(root.glob(".part*"))


def test_a_scan_or_clicks_that_cannot_be_read_are_said_and_the_others_go_on(server, root):
    status, answer = send(server, "scan?scan=1")
    assert status == 409
    assert "torn.nii: not a readable NIfTI file" in answer["error"]
    send(server, "add", INFECTION)
    whole = (root / "anna.mrk.json").read_text()
    (root / "anna.mrk.json").write_text(whole[:200])
    overview = send(server, "study")[1]["scans"]
    assert "anna.mrk.json: not a whole markups file" in overview[0]["error"]
    assert send(server, "add", INFECTION | {"row": 8})[0] == 409
    assert (root / "anna.mrk.json").read_text() == whole[:200]


def test_two_pages_at_once_lose_no_click(server, root):
    def many(column):
        for row in range(10):
            send(server, "add", INFECTION | {"row": row, "column": column})

    pages = [threading.Thread(target=many, args=(column,)) for column in range(3)]
    for page in pages:
        page.start()
    for page in pages:
        page.join()
    assert len(points(root)) == 30
    assert len({label for label, _ in points(root)}) == 30


def command_line(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["cbseg.click", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        command.main()
    return end.value.code


def test_folders_without_ct_settings_that_do_not_exist_and_a_port_in_use_end_with_what_to_do(
    tmp_path, root, server, monkeypatch
):
    (tmp_path / "none").mkdir()
    assert "none: holds no CT; put NIfTI files or folders" in command_line(monkeypatch, tmp_path / "none")
    assert "error:" in command_line(monkeypatch, root, "nonsense=1")
    assert "window" in command_line(monkeypatch, root, "data.find_scans.window=x")
    assert "nowhere: holds no best.ckpt" in command_line(monkeypatch, root, "--run", tmp_path / "nowhere", "--port", 0)
    taken = command_line(monkeypatch, root, f"runs={tmp_path}", "--port", server.server_port)
    assert f"error: --port {server.server_port}: " in taken
    assert taken.endswith("give another one, or 0 for a free one")
