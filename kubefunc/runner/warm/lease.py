"""Who may use a warm worker: one client at a time, which has shown that it knows the worker's token.

Worker and client each choose a nonce, and each proves by an HMAC over both that it knows the token. So the token itself
never travels on a stream, and a client sends nothing to a Pod that only looks like its worker.
"""

from __future__ import annotations

import hashlib
import hmac
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DROPPED_KEPT = 64  # runs without an acknowledged outcome, for clients that come back late


def new_nonce() -> str:
    """A text that no earlier stream had."""
    return os.urandom(16).hex()


def proof(token: str, who: str, nonces: Sequence[str]) -> str:
    """What only somebody with the token can say on a stream with these nonces.

    Args:
        token: the worker's.
        who: ``worker``, or the client's id: the one cannot repeat what the other has said.
        nonces: the worker's and the client's.
    """
    return hmac.new(token.encode(), "\n".join((who, *nonces)).encode(), hashlib.sha256).hexdigest()


def is_proof(claimed: str, token: str, who: str, nonces: Sequence[str]) -> bool:
    """Whether it is that proof; compared in constant time."""
    return hmac.compare_digest(claimed.encode(), proof(token, who, nonces).encode())


def request_key(token: str, nonces: Sequence[str]) -> bytes:
    """The key under which requests are signed on a stream with these nonces."""
    return hmac.digest(token.encode(), "\n".join(("requests", *nonces)).encode(), "sha256")


def sign(key: bytes, digest: bytes) -> bytes:
    """The signature of a request with this sha256. A request names itself and all that it needs by digest."""
    return hmac.digest(key, digest, "sha256")


class Lease:
    """Which client has the worker.

    Attributes:
        client: its id; None: nobody.
        seen: when it was last heard (monotonic clock).
    """

    def __init__(self, reconnect: float, now: float) -> None:
        """``reconnect``: seconds without a word from its client after which anybody may have the worker."""
        self._reconnect = reconnect
        self._dropped: list[str] = []
        self.client: str | None = None
        self.seen = now

    def is_lapsed(self, now: float) -> bool:
        """Whether its client has been away for too long."""
        return now - self.seen >= self._reconnect

    def is_taken(self, client: str, now: float, *, in_use: bool, runs: bool) -> bool:
        """Whether this client must go elsewhere.

        Args:
            client: who asks.
            now: by the monotonic clock.
            in_use: the worker's client has a stream, or has not acknowledged an outcome.
            runs: a call runs, perhaps of a client that has gone.
        """
        if client == self.client:
            return False
        return runs or (in_use and self.client is not None and not self.is_lapsed(now))

    def give(self, client: str, now: float) -> None:
        """It is this client's."""
        self.client, self.seen = client, now

    def free(self) -> None:
        """It is nobody's."""
        self.client = None

    def drop(self, run: str) -> None:
        """The outcome of this run is no longer kept, though nobody has acknowledged it."""
        self._dropped = [*self._dropped[1 - DROPPED_KEPT :], run]

    def has_dropped(self, run: str) -> bool:
        return run in self._dropped
