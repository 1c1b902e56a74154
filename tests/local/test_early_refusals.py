"""A server that refuses a request before it has read all of it, and closes: Go's does so with bodies above 256 KiB."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from kubefunc.backends.kubernetes.api.requests import Api, ApiError
from tests.local.api_server import config_of

REFUSAL = b'{"kind": "Status", "code": 403, "reason": "Forbidden", "message": "secrets is forbidden"}'


def test_the_answer_counts_and_not_the_broken_connection(tmp_path: Path) -> None:
    """A large Secret that may not be created is a missing permission, not a server that cannot be reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(REFUSAL)}\r\n\r\n"
                connection.sendall(head.encode() + REFUSAL)
                connection.shutdown(socket.SHUT_WR)
                threading.Event().wait(0.3)

        thread = threading.Thread(target=refuse)
        thread.start()
        api = Api(config_of(f"http://127.0.0.1:{server.getsockname()[1]}", tmp_path))
        try:
            with pytest.raises(ApiError) as caught:
                api.request("POST", "/api/v1/namespaces/n/secrets", body=b"x" * 8_000_000)
        finally:
            api.close()
            thread.join()
    assert caught.value.status == 403
