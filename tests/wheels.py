"""Small wheels that a test makes itself, and a package index that serves a directory of wheels (PEP 503)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import io
import re
import socket
import threading
import zipfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def wheel(
    directory: Path, name: str, version: str, files: Mapping[str, str] | None = None, requires: Sequence[str] = ()
) -> Path:
    """Write a pure-Python wheel; without files it has one module of its name, which knows its version."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in _content(name, version, files, requires, "py3-none-any").items():
            archive.writestr(path, text)
    target = directory / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    target.write_bytes(buffer.getvalue())
    return target


def install(
    site: Path,
    name: str,
    version: str,
    files: Mapping[str, str] | None = None,
    requires: Sequence[str] = (),
    tag: str = "py3-none-any",
) -> None:
    """Put the content of such a wheel into a directory of installed packages."""
    for path, text in _content(name, version, files, requires, tag).items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)


def _content(
    name: str, version: str, files: Mapping[str, str] | None, requires: Sequence[str], tag: str
) -> dict[str, str]:
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    content = {
        **(files or {f"{name.replace('-', '_')}.py": f"VERSION = {version!r}\n"}),
        f"{info}/METADATA": "\n".join([*metadata, *(f"Requires-Dist: {each}" for each in requires), ""]),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    return content


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


@dataclass
class Index:
    """A running index: its URL, and the paths that it was asked for. With credentials it wants them."""

    directory: Path
    host: str
    port: int
    credentials: str = ""
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """What ``package_index=`` takes."""
        login = f"{self.credentials}@" if self.credentials else ""
        return f"http://{login}{self.host}:{self.port}/simple"


@contextlib.contextmanager
def served(directory: Path, credentials: str = "", listening: socket.socket | None = None) -> Generator[Index]:
    """Serve the wheels of a directory, on loopback or where the socket listens."""
    own = socket.create_server(("127.0.0.1", 0)) if listening is None else listening
    host, port = own.getsockname()[:2]
    index = Index(directory, host, port, credentials)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """A page of links, or a wheel."""
            index.asked.append(self.path)
            wanted = f"Basic {base64.b64encode(credentials.encode()).decode()}"
            if credentials and self.headers.get("Authorization") != wanted:
                self._answer(401, b"login, please", "text/plain")
            else:
                self._answer(*_found(directory, self.path))

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing on the test's output."""

    server = ThreadingHTTPServer((host, port), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = own
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _found(directory: Path, path: str) -> tuple[int, bytes, str]:
    parts = path.partition("?")[0].strip("/").split("/")
    if parts[0] == "files" and (directory / parts[-1]).is_file():
        return 200, (directory / parts[-1]).read_bytes(), "application/octet-stream"
    wheels = [each.name for each in sorted(directory.glob("*.whl"))]
    mine = [name for name in wheels if len(parts) == 2 and _canonical(name.partition("-")[0]) == _canonical(parts[1])]
    if not mine:
        return 404, b"not found", "text/plain"
    links = "".join(f'<a href="/files/{html.escape(name)}">{html.escape(name)}</a>\n' for name in mine)
    return 200, f"<!DOCTYPE html><html><body>\n{links}</body></html>".encode(), "text/html"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
