"""Downloads, from a server on this machine that also fails half-way, lies about checksums, and serves bad archives."""

import dataclasses
import hashlib
import io
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cbseg.data import covid_c, download, phantom
from cbseg.data.download import SOURCES, Source, from_doi, unpack, verify
from cbseg.errors import InputError


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A phantom of COVID-19-C in two archives, as its record has them."""
    root = tmp_path_factory.mktemp("zips") / "covidC"
    phantom.generate(root, "covidC", scans=2, size=32)
    packed = {}
    for folder in (covid_c.IMAGES, covid_c.MASKS):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path in sorted((root / folder).iterdir()):
                archive.write(path, f"some folder/{path.name}")
        packed[f"{folder}.zip"] = buffer.getvalue()
    return packed


class Server(ThreadingHTTPServer):
    """Serves bytes with ranges; breaks off the first ``failures`` answers half-way."""

    def __init__(self, files, failures=0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.failures, self.ranges = files, failures, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def locate(self, doi, archive):
        checksum = hashlib.md5(self.files[archive]).hexdigest()
        return f"http://127.0.0.1:{self.server_port}/{archive}", f"md5:{checksum}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files[self.path.strip("/")]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.server.ranges.append(start)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.server.failures:
            self.server.failures -= 1
            self.wfile.write(content[start : start + (len(content) - start) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    servers = []

    def one(*arguments, **settings):
        servers.append(Server(*arguments, **settings))
        return servers[-1]

    yield one
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def source():
    return dataclasses.replace(SOURCES["covidC"], scans=2)


def test_it_downloads_unpacks_verifies_and_does_nothing_the_second_time(archives, serve, source, tmp_path):
    server = serve(archives)
    download.download(source, tmp_path / "covidC", server.locate)
    assert len(covid_c.find_scans(tmp_path / "covidC")) == 2
    assert sorted(path.name for path in (tmp_path / "covidC").iterdir()) == [covid_c.IMAGES, covid_c.MASKS]
    download.download(source, tmp_path / "covidC", server.locate)
    assert server.ranges == [0, 0]


def test_a_download_that_breaks_off_goes_on_where_it_stopped(archives, serve, source, tmp_path):
    server = serve(archives, failures=2)
    download.download(source, tmp_path / "covidC", server.locate)
    first, second, third, masks = server.ranges
    assert first == masks == 0
    assert 0 < second < third
    assert len(covid_c.find_scans(tmp_path / "covidC")) == 2


def test_a_server_that_keeps_failing_is_an_error_and_the_next_call_goes_on(archives, serve, source, tmp_path):
    server = serve(archives, failures=5)
    with pytest.raises(InputError, match="download failed.*run the command again"):
        download.download(source, tmp_path / "covidC", server.locate)
    download.download(source, tmp_path / "covidC", server.locate)
    assert server.ranges[5] > 0
    assert len(covid_c.find_scans(tmp_path / "covidC")) == 2


def test_a_wrong_checksum_keeps_nothing(archives, serve, source, tmp_path):
    server = serve(archives)
    with pytest.raises(InputError, match="another checksum"):
        download.download(
            source, tmp_path / "covidC", lambda doi, name: (server.locate(doi, name)[0], "md5:" + "0" * 32)
        )
    assert not [path for path in (tmp_path / "covidC").rglob("*") if path.is_file()]


def zip_of(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name.replace("__", "/")), content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zip_of(**{"..__evil.nii.gz": b"x"}), "leads out of its folder"),
        (zip_of(**{"__tmp__evil.nii.gz": b"x"}), "leads out of its folder"),
        (zip_of(**{"..\\evil.nii": b"x"}), "leads out of its folder"),
        (zip_of(**{"readme.txt": b"x"}), "no NIfTI files"),
        (b"not a zip", "cannot be unpacked"),
    ],
)
def test_a_malicious_or_broken_archive_leaves_nothing(tmp_path, content, message):
    archive = tmp_path / "in" / "x.zip"
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(InputError, match=message):
        unpack(archive, tmp_path / "in" / "x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_link_in_an_archive_is_refused(tmp_path):
    link = zipfile.ZipInfo("link.nii.gz")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="leads out of its folder"):
        unpack(tmp_path / "x.zip", tmp_path / "x")


def test_what_must_be_fetched_by_hand_is_explained_and_verified(covid_a, tmp_path):
    with pytest.raises(InputError, match=r"(?s)by hand.*Dataset/TestingSet/LungInfection-Test/GT.*First thing missing"):
        download.download(SOURCES["covidA"], tmp_path)
    with pytest.raises(InputError, match="holds 16 scans of 98"):
        verify(SOURCES["covidA"], covid_a)
    verify(dataclasses.replace(SOURCES["covidA"], scans=16), covid_a)


def test_a_repository_that_cannot_be_reached_says_so(monkeypatch):
    import requests

    def offline(*arguments, **settings):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "get", offline)
    with pytest.raises(InputError, match="cannot find x.zip.*are you online"):
        from_doi(SOURCES["covidC"].doi, "x.zip")


def test_every_source_states_licence_and_citation():
    assert all(isinstance(source, Source) and source.licence and source.citation for source in SOURCES.values())
