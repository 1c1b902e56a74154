"""A registry that holds nothing and says so in a registry's words, for the node's containerd.

The first part of an image's path chooses the answer: ``private/...`` is what docker.io says of images that
do not exist or are not for us (a token is given, then refused), ``denied/...`` is forbidden, ``busy/...`` is
over its rate limit, all others do not exist. Standard library only: runs inside the node.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 5000
_ANSWERS = {
    "private": (401, "UNAUTHORIZED", "authentication required"),
    "denied": (403, "DENIED", "requested access to the resource is denied"),
    "busy": (429, "TOOMANYREQUESTS", "You have reached your pull rate limit"),
}
_UNKNOWN = (404, "MANIFEST_UNKNOWN", "manifest unknown")
_REALM = f'Bearer realm="http://127.0.0.1:{PORT}/token",service="registry"'


class Handler(BaseHTTPRequestHandler):
    """Answers by the path alone."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Give a token to whoever asks; refuse all else."""
        if self.path.startswith("/token"):
            self._answer(200, {"token": "anonymous"})
            return
        _, _, owner, *_ = [*self.path.split("/"), "", ""]
        status, code, message = _ANSWERS.get(owner, _UNKNOWN)
        self._answer(status, {"errors": [{"code": code, "message": message}]})

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if status == 401:
            refused = ',error="insufficient_scope"' if "Authorization" in self.headers else ""
            self.send_header("WWW-Authenticate", f"{_REALM}{refused}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
