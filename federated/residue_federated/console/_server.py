"""The console's server: it reads and never writes, and shows nothing without its link."""

from __future__ import annotations

import hmac
import importlib.resources
import ipaddress
import json
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from residue._html import chart_script, environment, require
from residue_federated.console._pages import NotThere, Page, Pages
from residue_federated.errors import ConsoleError, StoreError

__all__ = ["Console"]

_TIMEOUT = 30.0
"""Seconds for a request to arrive."""
_LONGEST = 2048
"""Characters of an address."""
_HTML, _JSON = "text/html; charset=utf-8", "application/json"
_SHUT = "base-uri 'none'; frame-ancestors 'none'"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{inline}; connect-src 'self'; "
    f"img-src data:; form-action 'self'; {_SHUT}"
)
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; "
    f"script-src 'unsafe-inline'; img-src data: blob:; form-action 'none'; {_SHUT}"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class _Answer:
    status: HTTPStatus
    kind: str
    content: str
    policy: str = _POLICY.format(inline="")
    lasting: bool = False


class _Refused(Exception):
    """An answer that is no page."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Console(ThreadingHTTPServer):
    """Serves the store of `directory` at `url`, whose path is a random token.

    Args:
        directory: that holds run directories, or will.
        address: to listen on.
        port: 0 takes a free one.

    Raises:
        ConsoleError: the address cannot be listened on, or plotly or jinja2 is not installed.
    """

    daemon_threads = True

    def __init__(self, directory: Path, address: str = "127.0.0.1", port: int = 0) -> None:
        require(ConsoleError)
        self.token = secrets.token_urlsafe(24)
        self.root = f"/{self.token}/"
        self.directory = directory.absolute()
        self.pages = Pages(directory, self.root)
        self.files = _files()
        try:
            found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
            self.address_family = found[0]
            super().__init__(found[4][:2], _Handler)  # type: ignore[arg-type]
        except UnicodeError as error:
            raise ConsoleError(
                f"cannot listen on {address!r}: it is no name of a machine"
            ) from error
        except OSError as error:
            raise ConsoleError(
                f"cannot listen on {address}:{port}: {error.strerror}; choose another with --port, "
                "or any free one with --port 0"
            ) from error
        self._bound = ipaddress.ip_address(str(self.server_address[0]))
        self._names = {address.lower(), "localhost"}
        if self._bound.is_unspecified:
            self._names.add(socket.gethostname().lower())

    @property
    def url(self) -> str:
        """The link that shows the console."""
        host = f"[{self._bound}]" if self._bound.version == 6 else str(self._bound)
        if self._bound.is_unspecified:
            host = socket.gethostname()
        return f"http://{host}:{self.server_address[1]}{self.root}"

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return self._bound.is_loopback

    def knows(self, host: str | None) -> bool:
        """Whether a request's Host is a name of this server: against DNS rebinding.

        A name that leads here by somebody else's domain is none; an address needs no name.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        try:
            number = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return number.is_loopback if self.local else True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is no news; nor is anything else worth a traceback."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"console: {type(error).__name__}: {error}", file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    server: Console
    timeout = _TIMEOUT
    server_version = "residue"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: addresses hold the token."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses: methods that are none of ours, malformed requests."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            answer = self._error(HTTPStatus.METHOD_NOT_ALLOWED, "The console only shows.", root="")
        else:
            answer = self._error(HTTPStatus(code), "This is no request of a browser.", root="")
        self._send(answer)

    def _answer(self) -> None:
        live = False
        root = ""
        try:
            parts = self._checked()
            root = self.server.root
            live = parts[-1:] == ["live"]
            answer = self._find(parts)
        except _Refused as refused:
            answer = self._error(refused.status, refused.text, root, live=live)
        except NotThere as error:
            answer = self._error(HTTPStatus.NOT_FOUND, str(error), root, live=live)
        except StoreError as error:
            answer = self._error(HTTPStatus.INTERNAL_SERVER_ERROR, str(error), root, live=live)
        except Exception as error:  # whatever is damaged: the others' pages stay
            print(f"console: {type(error).__name__}: {error}", file=sys.stderr)
            text = "What is stored of this cannot be shown: it is damaged, or another release's."
            answer = self._error(HTTPStatus.INTERNAL_SERVER_ERROR, text, root, live=live)
        self._send(answer)

    def _checked(self) -> list[str]:
        """The parts of the path behind the token, of a request that may be answered."""
        if not self.server.knows(self.headers.get("Host")):
            raise _Refused(HTTPStatus.FORBIDDEN, "This is not a name of the console.")
        if len(self.path) > _LONGEST:
            raise _Refused(HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long.")
        start, *parts = self.path.partition("?")[0].split("/")
        token = "".join(parts[:1]).encode()
        if start or not hmac.compare_digest(token, self.server.token.encode()):
            raise _Refused(
                HTTPStatus.FORBIDDEN, "Open the link that residue fl ui printed: it holds the key."
            )
        return parts[1:]

    def _find(self, parts: list[str]) -> _Answer:
        """What is at a path: names from a fixed list, and numbers of runs; never files."""
        pages = self.server.pages
        match parts:
            case [] | [""]:
                query = self._query()
                return self._page(pages.runs(**query), filter=query)
            case ["live"]:
                return self._live(pages.runs(**self._query()))
            case ["runs", number]:
                return self._page(pages.run(_number(number)))
            case ["runs", number, "live"]:
                return self._live(pages.run(_number(number)))
            case ["runs", number, "report"]:
                report = pages.report(_number(number))
                return _Answer(HTTPStatus.OK, _HTML, report, _REPORT_POLICY)
            case [name] if name in self.server.files:
                kind, content = self.server.files[name]
                return _Answer(HTTPStatus.OK, kind, content, lasting=True)
        raise NotThere("There is nothing here.")

    def _query(self) -> dict[str, Any]:
        """What the list is restricted to; anything else is left aside."""
        try:
            found = parse_qs(self.path.partition("?")[2], max_num_fields=8)
        except ValueError:
            return {}
        chosen: dict[str, Any] = {name: found.get(name, [""])[0] for name in ("text", "state")}
        before = found.get("before", [""])[0]
        return chosen | {"before": _number(before) if before else None}

    def _page(self, page: Page, filter: Mapping[str, Any] | None = None) -> _Answer:
        drawn = filter is None
        html = self._render(page, live=True, drawn=drawn, filter=filter)
        inline = " 'unsafe-inline'" if drawn else ""  # the charts' library sets styles
        return _Answer(HTTPStatus.OK, _HTML, html, _POLICY.format(inline=inline))

    def _live(self, page: Page) -> _Answer:
        return _Answer(HTTPStatus.OK, _JSON, json.dumps(asdict(page)))

    def _error(self, status: HTTPStatus, text: str, root: str, *, live: bool = False) -> _Answer:
        """What went wrong; without root, for those who must not see how the console looks."""
        if live:
            return _Answer(status, _JSON, json.dumps({"error": text}))
        title = f"{status.value} {status.phrase}"
        words = {"title": title, "text": text, "root": root}
        if not root:
            return _Answer(status, _HTML, self._template("refused").render(words))
        page = Page(title, self._template("error").render(words))
        html = self._render(page, live=False, drawn=False, filter=None)
        return _Answer(status, _HTML, html)

    def _template(self, name: str) -> Any:
        return environment("residue_federated").get_template(f"console/{name}.html.j2")

    def _render(self, page: Page, **values: Any) -> str:
        server = self.server
        html: str = self._template("page").render(
            page=page, root=server.root, directory=server.directory, **values
        )
        return html

    def _send(self, answer: _Answer) -> None:
        content = answer.content.encode(errors="replace")
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", answer.policy)
        kept = "private, max-age=3600" if answer.lasting else "no-store"
        self.send_header("Cache-Control", kept)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _number(text: str) -> int:
    """The number of a run, as it stands in an address."""
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise NotThere("There is nothing here.")
    return int(text)


def _files() -> dict[str, tuple[str, str]]:
    """What pages refer to, by name: its kind and its text."""
    own = importlib.resources.files("residue_federated")
    shared = importlib.resources.files("residue")

    def text(*parts: Any) -> str:
        return "\n".join(part.read_text("utf-8") for part in parts)

    style = text(shared / "base.css", own / "run.css", own / "console" / "console.css")
    script = text(shared / "base.js", own / "run.js", own / "console" / "console.js")
    return {
        "console.css": ("text/css; charset=utf-8", style),
        "console.js": ("text/javascript; charset=utf-8", script),
        "charts.js": ("text/javascript; charset=utf-8", chart_script()),
    }
