"""A proxy in front of the API server that cuts or holds connections: what networks do, done on purpose.

The client speaks plain HTTP to it, so that it sees which connection is an exec stream; it speaks TLS to the server.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

from tests.cluster.kubectl import Kubectl

CHUNK = 16384


class Proxy:
    """Listens on this machine until it is closed.

    Attributes:
        cuts: for each exec stream in turn, how many bytes of the server's answer come through; then nothing is cut.
        execs: how many exec streams there were.
        holding: while cleared, requests wait.
    """

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(
            Kubectl(kubeconfig).run("config", "view", "--raw", "--minify", "--flatten", "-o", "json")
        )
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
        self.execs = 0
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
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            stack.enter_context(client)
            raw = stack.enter_context(socket.create_connection(self._upstream, 10))
            raw.settimeout(None)
            server = stack.enter_context(self._tls.wrap_socket(raw))
            with self._lock:
                self._open |= {client, server}
            connection = _Connection(self, client, server)
            answers = threading.Thread(target=connection.answers, daemon=True)
            answers.start()
            connection.requests()
            _end(server)
            answers.join(5)
            with self._lock:
                self._open -= {client, server}

    def next_cut(self) -> int | None:
        """For an exec stream that begins now."""
        with self._lock:
            self.execs += 1
            return self.cuts.popleft() if self.cuts else None


class _Connection:
    def __init__(self, proxy: Proxy, client: socket.socket, server: ssl.SSLSocket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        self.left: int | None = None

    def requests(self) -> None:
        """From the client to the server."""
        with contextlib.suppress(OSError):
            while data := self.client.recv(CHUNK):
                if data.startswith(b"GET ") and b"/exec?" in data.partition(b"\r\n")[0]:
                    self.left = self.proxy.next_cut()
                self.proxy.holding.wait()
                self.server.sendall(data)

    def answers(self) -> None:
        """From the server to the client, as far as that is let through."""
        with contextlib.suppress(OSError):
            while data := self.server.recv(CHUNK):
                if self.left is not None:
                    data = data[: self.left]
                    self.left -= len(data)
                self.client.sendall(data)
                if self.left == 0:
                    break
        _end(self.client)
        _end(self.server)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
