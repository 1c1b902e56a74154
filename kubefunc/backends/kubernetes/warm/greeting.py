"""The first frames on a stream to a warm worker: both ends show that they know the worker's token."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from kubefunc.backends.kubernetes.api.exec_errors import StreamGarbled, TransportError
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.records import Record
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.frames import BUSY, HELLO, NONCE, WELCOME
from kubefunc.runner.warm.lease import is_proof, new_nonce, proof, request_key

log = logging.getLogger("kubefunc.kubernetes.pool")


class WorkerTaken(TransportError):
    """Another client has this worker."""


class Greeting:
    """Of one stream. Nothing else is sent before it is done.

    Attributes:
        done: the far end has shown that it is the worker.
    """

    def __init__(self, record: Record, client: str) -> None:
        self._record = record
        self._client = client
        self._mine = new_nonce()
        self._theirs: str | None = None
        self.done = False

    def hear(self, letter: bytes, content: bytes) -> dict[str, Any] | None:
        """What the worker says of its call; None while it has not said so, and is to be told :meth:`hello`.

        Raises:
            WorkerTaken: another client has it.
            StreamGarbled: it is not the worker.
        """
        if letter == NONCE and self._theirs is None:
            self._theirs = content.decode("ascii", "replace").partition(" ")[0]
            return None
        if letter == BUSY:
            raise WorkerTaken(f"another program uses {self._record.call}")
        told = _told_by(content) if letter == WELCOME else {}
        if not is_proof(str(told.get("proof")), self._record.token, "worker", self._nonces):
            log.warning("%s in the Pod %s does not know its token: nothing is sent there", *self._names)
            raise StreamGarbled(f"the Pod {self._names[1]} is not the worker {self._names[0]}")
        self.done = True
        return told

    def hello(self, given: Sequence[Batch]) -> bytes:
        """What the worker is told first.

        Args:
            given: what it was given before the last stream broke.
        """
        given = [each for each in given if not each.returned.is_settled]
        told = {
            "client": self._client,
            "nonce": self._mine,
            "proof": proof(self._record.token, self._client, self._nonces),
            "runs": [each.id for each in given],
            "output": given[0].printed if given else 0,
        }
        return wire.frame(HELLO, json.dumps(told).encode())

    @property
    def key(self) -> bytes:
        """Of the requests on this stream."""
        return request_key(self._record.token, self._nonces)

    @property
    def _nonces(self) -> tuple[str, str]:
        return self._theirs or "", self._mine

    @property
    def _names(self) -> tuple[str, str]:
        return self._record.call, self._record.pod


def _told_by(content: bytes) -> dict[str, Any]:
    try:
        told = json.loads(content)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
