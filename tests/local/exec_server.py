"""An API server whose exec reaches a warm worker of this machine: ``attach`` runs beside the worker, as in its Pod."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading

from kubefunc.runner.warm.attach import ATTACH
from tests.conftest import ROOT
from tests.local.api_server import Gone, Peer, Request, Server
from tests.local.warm import WarmWorker

NOT_FOUND = 404
FORBIDDEN = 403


class ExecServer(Server):
    """Its Pods are workers, by name. A Pod that it does not know is not found.

    Attributes:
        forbidden: exec is.
    """

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.pods: dict[str, WarmWorker] = {}
        self.forbidden = False

    def _answer(self, request: Request, peer: Peer) -> None:
        pod = request.path.split("/")[-2]
        if self.forbidden:
            peer.refuse(FORBIDDEN, "Forbidden", f'pods "{pod}" is forbidden: User "u" cannot create "pods/exec"')
        elif pod not in self.pods:
            peer.refuse(NOT_FOUND, "NotFound", f'pods "{pod}" not found')
        else:
            peer.upgrade(request)
            _bridge(self.pods[pod], peer)


def _bridge(worker: WarmWorker, peer: Peer) -> None:
    """Between ``attach`` and the client, until one of them ends."""
    command = [sys.executable, *ATTACH[1:]]
    with subprocess.Popen(
        command, env=worker.environ, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as attach:
        outward = threading.Thread(target=_send_output, args=(attach, peer), daemon=True)
        outward.start()
        with contextlib.suppress(Gone, OSError):
            while True:
                opcode, payload = peer.receive()
                if opcode == 8:
                    break
                if opcode == 2 and payload[:1] == b"\0":
                    assert attach.stdin is not None
                    attach.stdin.write(payload[1:])
        attach.kill()
        outward.join()


def _send_output(attach: subprocess.Popen[bytes], peer: Peer) -> None:
    assert attach.stdout is not None
    with contextlib.suppress(Gone, OSError, ValueError):
        while data := attach.stdout.read(1 << 16):
            peer.data(1, data)
        if attach.wait() == 0:
            peer.status(status="Success")
        else:
            causes = [{"reason": "ExitCode", "message": str(attach.returncode)}]
            peer.status(status="Failure", reason="NonZeroExitCode", details={"causes": causes})
        peer.cut()
