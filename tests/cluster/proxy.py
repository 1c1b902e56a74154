"""A proxy in front of the API server that cuts, holds or loses connections: what networks do, done on purpose.

The client speaks plain HTTP to it, so that it sees which connection is an exec stream; it speaks TLS to the server.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.cluster.kubectl import Kubectl

CHUNK = 16384


@dataclass(frozen=True)
class AnswerCut:
    """The answer to the next request with this method and this text in its path ends after so many bytes."""

    method: str
    in_path: str
    size: int


class Proxy:
    """Listens on this machine until it is closed.

    Attributes:
        cuts: for each exec stream in turn, how many bytes of the server's answer come through; then nothing is cut.
        late: seconds that the answer of an exec stream is held back.
        answer_cuts: each for one request, whichever comes first of those it fits.
        execs: how many exec streams there were.
        lost: the first so many exec streams stay open at both ends, and carry nothing any more.
        holding: while cleared, requests wait.
    """

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(Kubectl(kubeconfig).run("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        server = urlsplit(config["clusters"][0]["cluster"]["server"])
        self._upstream = (str(server.hostname), server.port or 443)
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        self._config = config
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.cuts: deque[int] = deque()
        self.answer_cuts: list[AnswerCut] = []
        self.late = 0.0
        self.execs = self.lost = 0
        self.closed = threading.Event()
        self.holding = threading.Event()
        self.holding.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def kubeconfig(self, file: Path) -> Path:
        """Write a kubeconfig whose server is this proxy."""
        port = self._listener.getsockname()[1]
        self._config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
        file.write_text(json.dumps(self._config))
        return file

    def close(self) -> None:
        """End the proxy and every connection through it."""
        self._listener.close()
        self.holding.set()
        self.closed.set()
        with self._lock:
            open_now = list(self._open)
        for each in open_now:
            _end(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as stack:
            stack.enter_context(client)
            raw = stack.enter_context(socket.create_connection(self._upstream, 10))
            raw.settimeout(None)
            server = stack.enter_context(self._tls.wrap_socket(raw))
            with self._lock:
                self._open |= {client, server}
            _Connection(self, client, server).run()
            with self._lock:
                self._open -= {client, server}

    def next_cut(self) -> int | None:
        """For an exec stream that begins now."""
        with self._lock:
            self.execs += 1
            return self.cuts.popleft() if self.cuts else None

    def cut_of(self, method: str, path: str) -> int | None:
        """For the answer to a request that is being sent."""
        with self._lock:
            for cut in self.answer_cuts:
                if cut.method == method and cut.in_path in path:
                    self.answer_cuts.remove(cut)
                    return cut.size
        return None


class _Connection:
    """Both directions in one thread: a TLS connection is not for two at a time."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: ssl.SSLSocket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        self.left: int | None = None
        self.late = 0.0
        self.number: int | None = None  # of an exec stream

    def run(self) -> None:
        """Until one side ends, or the connection is cut."""
        while True:
            ready = [self.server] if self.server.pending() else select.select([self.client, self.server], [], [])[0]
            if self.number is not None and self.number <= self.proxy.lost:
                self.proxy.closed.wait()
                return
            if self.client in ready and not self._request():
                return
            if self.server in ready and not self._answer():
                return

    def _request(self) -> bool:
        data = self.client.recv(CHUNK)
        if data.startswith(b"GET ") and b"/exec?" in data.partition(b"\r\n")[0]:
            self.left = self.proxy.next_cut()
            self.number = self.proxy.execs
            self.late = self.proxy.late
        elif request := _REQUEST.match(data):
            self.left = self.proxy.cut_of(request[1].decode(), request[2].decode())
        self.proxy.holding.wait()
        self.server.sendall(data)
        return bool(data)

    def _answer(self) -> bool:
        self.server.setblocking(False)
        try:
            data = self.server.recv(CHUNK)
        except ssl.SSLWantReadError:  # what came was TLS's own, a session ticket
            return True
        finally:
            self.server.setblocking(True)
        time.sleep(self.late)
        self.late = 0.0
        if self.left is None:
            self.client.sendall(data)
            return bool(data)
        self.client.sendall(data[: self.left])
        self.left -= min(len(data), self.left)
        return bool(data) and self.left > 0


_REQUEST = re.compile(rb"(GET|POST|PATCH|DELETE) (\S+) HTTP/1\.1\r\n")


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
