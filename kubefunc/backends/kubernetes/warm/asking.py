"""What warm workers do just now: they say so to all who may exec into their Pods."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from kubefunc.backends.kubernetes.api.exec import ExecStream
from kubefunc.backends.kubernetes.api.exec_errors import TransportError
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.attach import ATTACH
from kubefunc.runner.warm.frames import NONCE, STATES

AT_ONCE: Final = 8  # streams
SILENCE: Final = 5.0  # seconds


def states_of(api: Api, pods: Sequence[tuple[str, str]]) -> list[str]:
    """What the workers in these Pods do, given by namespace and name; empty where one does not say."""
    if not pods:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(pods))) as threads:
        return list(threads.map(lambda pod: _state_of(api, *pod), pods))


def _state_of(api: Api, namespace: str, pod: str) -> str:
    frames = wire.Frames()
    try:
        with ExecStream(api, namespace, pod, ATTACH, silence=SILENCE) as stream:
            for piece in stream.stdout():
                for letter, content in frames.feed(bytes(piece)):
                    said = content.decode("ascii", "replace").partition(" ")[2]
                    return said if letter == NONCE and said in STATES else ""
    except (TransportError, OSError):
        pass  # it has ended, or exec is not permitted
    return ""
