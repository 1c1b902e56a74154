"""When the cluster knew: a second, independent watch beside kubefunc's own, with the times at which news came."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Generator
from typing import IO

from tests.cluster.cache import cache_root
from tests.cluster.kubectl import Kubectl


class Witness:
    """What the cluster said of the Pods of a namespace and in its Events, and when."""

    def __init__(self) -> None:
        self._news: list[tuple[float, str]] = []

    def listen(self, watch: IO[str]) -> None:
        """Note each line with the time of its coming, to the end."""
        for line in watch:
            self._news.append((time.monotonic(), line))

    def first(self, job: str, words: str) -> float | None:
        """When (``time.monotonic``) these words, a regular expression, were first said of this Job or its Pods."""
        pattern = re.compile(words)
        found = [at for at, line in list(self._news) if job in line and pattern.search(line)]
        return min(found, default=None)


@contextlib.contextmanager
def witnessing(admin: Kubectl) -> Generator[Witness]:
    """Watch by kubectl, as the administrator."""
    witness = Witness()
    environ = {**os.environ, "KUBECACHEDIR": str(cache_root() / "kubectl")}
    watches: list[subprocess.Popen[str]] = []
    listeners: list[threading.Thread] = []
    try:
        for kind in ("pods", "events"):
            path = f"/api/v1/namespaces/{admin.namespace}/{kind}?watch=true"
            command = ["kubectl", "--kubeconfig", str(admin.kubeconfig), "get", "--raw", path]
            watches.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ))
            listeners.append(threading.Thread(target=witness.listen, args=(watches[-1].stdout,), daemon=True))
            listeners[-1].start()
        yield witness
    finally:
        for watch in watches:
            watch.kill()
        for listener in listeners:
            listener.join()
        for watch in watches:
            watch.communicate()
