"""W&B, against a server on this machine that answers, refuses, never answers or dies: no run is lost or waits long."""

import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import wandb

from cbseg.errors import InputError
from cbseg.module import SegmentationModule
from cbseg.wandb_settings import wandb_mode

LOGGERS = ("cbseg.wandb_log", "cbseg.wandb_settings", "cbseg.training")
LOGGED = ["loss=pl", "logger=wandb", "overlays=2"]


class StandIn(BaseHTTPRequestHandler):
    """As much of W&B's server as a run needs; keeps what it got."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.got.append((self.path, body))
        data = {"model": {"bucket": None}}
        if self.path.endswith("/graphql"):
            query, given = (json.loads(body).get(key) or {} for key in ("query", "variables"))
            if "upsertBucket" in query:
                project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "lab"}}
                bucket = {"id": "b", "name": given["name"], "displayName": given["displayName"], "project": project}
                data = {"upsertBucket": {"bucket": bucket, "inserted": True}}
            elif "viewer" in query:
                data = {"viewer": {"id": "u", "entity": "lab", "flags": "{}", "username": "u", "teams": {"edges": []}}}
            elif "createRunFiles" in query:
                url = f"http://127.0.0.1:{self.server.server_port}/files"
                files = [{"name": name, "uploadUrl": f"{url}/{name}"} for name in given["files"]]
                data = {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        reply = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815


class Server(ThreadingHTTPServer):
    """A server that can be told to hang up on everybody, those connected too."""

    daemon_threads = True
    dead = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), StandIn)
        self.got = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def die(self):
        self.RequestHandlerClass = lambda *_: None
        self.shutdown()
        self.server_close()

    def paths(self):
        return [path for path, _ in self.got]

    def text(self):
        return b"".join(body for _, body in self.got).decode(errors="replace")


@pytest.fixture
def logged_in(monkeypatch):
    """``logged_in(port)``: the user is logged in to W&B, which is on this port of this machine."""

    def at(port):
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb.teardown()
    yield at
    wandb.teardown()


@pytest.fixture
def server(logged_in):
    server = Server()
    logged_in(server.server_port)
    yield server
    server.die()


def at_step(monkeypatch, epoch, action):
    real = SegmentationModule.training_step

    def step(self, batch, index):
        if (self.current_epoch, index) == (epoch, 0):
            action()
        return real(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "training_step", step)


def told(caplog):
    """What cbseg said."""
    return [record.getMessage() for record in caplog.records if record.name in LOGGERS]


def is_finished(folder):
    return json.loads((folder / "metrics.json").read_text())["status"] == "finished"


def test_whoever_is_logged_in_uploads_scores_but_no_picture_and_no_slices_name(train, server, caplog):
    folder = train(*LOGGED)
    assert is_finished(folder)
    assert "no pictures" in told(caplog)[0]
    assert f"127.0.0.1:{server.server_port}/lab/cbseg" in told(caplog)[0]
    assert "val/dice" in server.text()
    assert not [path for path in server.paths() if "media" in path or "output.log" in path]
    assert "train-" not in server.text()


def test_a_run_that_goes_on_from_a_shorter_one_has_all_epochs_in_wandb(train, server):
    train(*LOGGED, "trainer.max_epochs=1")
    folder = train(*LOGGED, "trainer.max_epochs=2")
    sent = [body for path, body in server.got if path.endswith(f"{(folder / 'wandb/id').read_text()}/file_stream")]
    files = [json.loads(body).get("files") or {} for body in sent]
    rows = [json.loads(line) for file in files for line in file.get("wandb-history.jsonl", {}).get("content", [])]
    assert [row["epoch"] for row in rows if "val/dice" in row] == [0, 1]


@pytest.mark.parametrize("asked", ["logger.mode=online", "logger.pictures=true"])
def test_pictures_are_uploaded_where_they_are_asked_for_by_name(train, server, caplog, asked):
    assert is_finished(train(*LOGGED, asked))
    assert "validation slices with their names" in told(caplog)[0]
    assert [path for path in server.paths() if path.endswith(".png")]


def test_an_offline_run_keeps_pictures_here_and_says_so(train, caplog):
    folder = train(*LOGGED)
    assert "nothing leaves this machine" in told(caplog)[0]
    assert list(folder.glob("wandb/offline-run-*/files/media/images/val/*.png"))
    assert not list(train(*LOGGED, "logger.pictures=false", "seed=1").glob("wandb/offline-run-*/files/media"))


@pytest.mark.parametrize("answers", ["refuses", "accepts and never answers"])
def test_where_wandb_cannot_be_reached_the_run_goes_on_offline(train, logged_in, caplog, answers):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        logged_in(listening.getsockname()[1])
        if answers == "refuses":
            listening.close()
        folder = train(*LOGGED, "logger.timeout=1")
        assert is_finished(folder)
        assert "did not answer within 1 s" in told(caplog)[0]
        assert "nothing leaves this machine" in told(caplog)[1]
        assert list(folder.glob("wandb/offline-run-*/run-*.wandb"))
        with pytest.raises(InputError, match="logger.mode=online: .* did not answer within 1 s"):
            train(*LOGGED, "logger.timeout=1", "logger.mode=online", "seed=1")


def test_where_wandb_is_lost_during_a_run_the_result_is_written_and_the_end_is_not_waited_for(
    train, server, monkeypatch, caplog
):
    at_step(monkeypatch, 1, server.die)
    folder = train(*LOGGED, "logger.timeout=8")
    assert is_finished(folder)
    assert "did not take all within 8 s" in str(told(caplog))
    assert list(folder.glob("wandb/run-*/run-*.wandb"))
    shown, warned = (next(k for k, line in enumerate(told(caplog)) if x in line) for x in ("test dice", "did not"))
    assert shown < warned


KILLING = """
import os, signal, subprocess, sys
from cbseg.module import SegmentationModule
from cbseg.run import main

real = SegmentationModule.training_step

def step(self, batch, index):
    if (self.current_epoch, index) == (1, 0):
        found = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, check=True)
        for pid in found.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
    return real(self, batch, index)

SegmentationModule.training_step = step
main()
"""


def test_where_wandbs_service_dies_the_run_goes_on_without_it(server, covid_a, store, tmp_path):
    small = [
        *LOGGED, "experiment=phantom", "trainer.enable_progress_bar=false", "trainer.max_epochs=2", "data=covidA",
        "data.image_size=64", "data.split.val=2", "data.generate=null", f"data.root={covid_a}", f"store={store}",
        f"runs={tmp_path}",
    ]  # fmt: skip
    command = [sys.executable, "-c", KILLING, *small]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("W&B fails") == 1
    assert "Traceback" not in done.stdout + done.stderr
    (folder,) = (path for path in tmp_path.glob("covidA/pl/seed0*") if path.is_dir())
    assert is_finished(folder)


def test_pictures_that_cannot_be_made_end_neither_a_run_nor_its_curves_in_wandb(train, server, monkeypatch, caplog):
    gone = "wandb.sdk.data_types._private.MEDIA_TMP.name"  # as where /tmp is full, or cleared during a long sweep
    monkeypatch.setattr(gone, "/nowhere")
    assert is_finished(train(*LOGGED, "logger.pictures=true"))
    assert str(told(caplog)).count("W&B gets no pictures ([Errno 2] No such file") == 1
    assert not [path for path in server.paths() if path.endswith(".png")]
    assert '"exitcode":0' in server.text().replace(" ", "")


def test_names_are_as_long_as_wandb_takes_them_and_the_project_is_that_of_the_environment(train, server, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "lungs")
    train(*LOGGED, "loss.reduction=batch", "optim.lr=0.00012345")
    sent = [json.loads(body)["variables"] for path, body in server.got if b"mutation UpsertBucket" in body]
    given = next(variables for variables in sent if variables.get("displayName"))
    assert len(given["displayName"]) <= 128
    assert given["project"] == "lungs"
    assert all(len(tag) <= 64 for tag in given["tags"])


@pytest.mark.parametrize(
    ("given", "mode"), [("", "offline"), (" ", "offline"), ("dryrun", "offline"), ("disabled", "disabled")]
)
def test_the_environments_mode_is_heeded_and_an_empty_one_is_none(monkeypatch, given, mode):
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    monkeypatch.setenv("WANDB_MODE", given)
    assert wandb_mode("auto") == mode


def test_a_mode_that_does_not_exist_and_a_key_that_is_none_are_named(monkeypatch, logged_in, caplog):
    monkeypatch.setenv("WANDB_MODE", "offlin")
    with pytest.raises(InputError, match="WANDB_MODE=offlin does not exist; choose one of: .*offline"):
        wandb_mode("auto")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    wandb.teardown()
    assert wandb_mode("auto") == "offline"
    assert "WANDB_API_KEY invalid" in str(told(caplog))
    wandb.teardown()
    with pytest.raises(InputError, match="logger.mode=online: WANDB_API_KEY invalid"):
        wandb_mode("online")


def test_whoever_disabled_wandb_in_the_environment_gets_none_of_it(train, server, monkeypatch):
    monkeypatch.setenv("WANDB_DISABLED", "true")
    folder = train(*LOGGED)
    assert is_finished(folder)
    assert not (folder / "wandb").exists()
    assert not server.got


@pytest.mark.parametrize("mode", ["offline", "auto"])
@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("WANDB_BASE_URL", "api.wandb.ai", "base_url: Input should be a valid URL"),
        ("WANDB_CONSOLE", "nonsense", "console: Input should be 'auto'"),
        ("WANDB_API_KEY", f" {'a' * 40} ", "API key cannot start or end with whitespace"),
        ("WANDB_PROJECT", "a/b", "Invalid project name 'a/b'"),
    ],
)
def test_a_setting_that_wandb_refuses_is_named_before_training(
    train, monkeypatch, tmp_path, logged_in, mode, variable, value, told
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"W&B refuses a setting .{told}.*logger=csv"):
        train(*LOGGED, f"logger.mode={mode}")
    assert not (tmp_path / "runs").exists()
    monkeypatch.delenv(variable)  # for what is torn down


def test_a_project_that_wandb_refuses_is_no_server_that_does_not_answer(train, server):
    with pytest.raises(InputError, match="W&B refuses a setting .Invalid project name 'a/b'"):
        train(*LOGGED, "logger.project=a/b")
