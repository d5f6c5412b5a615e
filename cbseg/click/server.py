"""The page's server: on the loopback address alone, below a secret path, for requests of the page itself."""

import json
import logging
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cbseg.click.study import GET, POST, Answer, Study
from cbseg.errors import InputError

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

_PAGE = {
    "": ("page.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
}
_MOST_BYTES = 10_000  # of a request
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class ClickServer(ThreadingHTTPServer):
    """Serves the page for some scans.

    Other pages in the browser are kept out in three ways: the path begins with a secret, the Host must be the loopback
    address with the port (so that no foreign name can be made to point here), and what another Origin sends is refused.

    Args:
        study: What the page shows and changes.
        port: 0 takes a free one.

    Attributes:
        url: What to open in the browser.

    Raises:
        OSError: If the port is taken.
    """

    daemon_threads = True

    def __init__(self, study: Study, port: int = 0) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.study = study
        self.secret = secrets.token_urlsafe(16)
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}
        self.url = f"http://{LOOPBACK}:{self.server_port}/{self.secret}/"


class _Handler(BaseHTTPRequestHandler):
    server: ClickServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "cbseg", ""
    timeout = 60  # seconds for a request

    def do_GET(self) -> None:
        """Answer with a file of the page, a picture, or what is known."""
        path = self._own_path()
        if path is None:
            return
        if path in _PAGE:
            name, kind = _PAGE[path]
            self._send((files("cbseg.click") / "page" / name).read_bytes(), f"{kind}; charset=utf-8")
        elif path in GET:
            self._answer(GET[path])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        """Add or remove a click."""
        path = self._own_path()
        if path is None:
            return None
        if path not in POST or self.headers.get_content_type() != "application/json":
            return self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        return self._answer(POST[path])

    def _own_path(self) -> str | None:
        """Return the request's path behind the secret; refuse a foreign Host, Origin or path."""
        origin = self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        host = self.headers.get("Host", "")
        if (
            host not in self.server.hosts
            or origin not in (None, f"http://{host}")
            or site not in ("same-origin", "none")
        ):
            self._refuse(HTTPStatus.FORBIDDEN, "another page asks; open the address that cbseg.click printed")
            return None
        first, _, path = urlsplit(self.path).path.removeprefix("/").partition("/")
        if not secrets.compare_digest(first.encode(), self.server.secret.encode()):
            self._refuse(
                HTTPStatus.FORBIDDEN, "open the address that cbseg.click printed, with all that follows the port"
            )
            return None
        return path

    def _answer(self, find: Answer) -> None:
        """Send what a function makes of the request's query or JSON, or why it refuses."""
        try:
            found = find(self.server.study, self._arguments())
        except InputError as error:
            return self._refuse(HTTPStatus.CONFLICT, str(error))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, f"not what the page asks ({type(error).__name__}: {error})")
        except Exception as error:
            log.warning("%s", error)
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
        if found is None:
            return self._send(b"", "text/plain", HTTPStatus.NO_CONTENT)
        if isinstance(found, bytes):
            return self._send(found, "image/png")
        return self._send(json.dumps(found).encode(), "application/json")

    def _arguments(self) -> dict[str, Any]:
        if self.command == "GET":
            return {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        length = int(self.headers["Content-Length"])
        if not 0 <= length <= _MOST_BYTES:
            self.close_connection = True
            raise ValueError(f"{length} bytes")
        content = json.loads(self.rfile.read(length))
        if not isinstance(content, dict):
            raise TypeError("no object")
        return content

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True  # what it sent may be unread
        self._send(json.dumps({"error": reason}).encode(), "application/json", status)

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: each slice is a request."""
