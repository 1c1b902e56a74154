"""The requests that a worker was sent: one runs, others wait, and outcomes are kept until they are acknowledged."""

from __future__ import annotations

import hashlib
import hmac

from kubefunc.runner.warm.frames import STREAMED_HEAD
from kubefunc.runner.warm.kept import Store
from kubefunc.runner.warm.lease import sign
from kubefunc.runner.warm.places import Places
from kubefunc.runner.warm.request import WarmRequest
from kubefunc.runner.warm.sent import Sent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from kubefunc.runner.warm.lease import Lease
    from kubefunc.runner.warm.stream import Stream
    from kubefunc.runner.warm.values import Values

MOST = 4  # that have not ended; a client sends one ahead of the one that runs


class Incoming:
    """What comes in pieces, hashed while more of it is on its way.

    Attributes:
        digest: sha256 of all so far.
    """

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> None:
        self.digest.update(piece)
        self._pieces.append(piece)

    def joined(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces)


class Requests:
    """In the order in which they came, which is that in which they run."""

    def __init__(self, where: str, lease: Lease) -> None:
        """
        Args:
            where: the worker's directory.
            lease: remembers which outcomes are not kept any more.
        """
        self._where = where
        self._lease = lease
        self._store = Store(where)
        self._places = Places(where)
        self._incoming = Incoming()
        self._sent: list[Sent] = []

    def __bool__(self) -> bool:
        return bool(self._sent)

    @property
    def unfinished(self) -> bool:
        """Whether one runs or waits."""
        return any(each.ended is None for each in self._sent)

    @property
    def running(self) -> Sent | None:
        """The one that has begun and not ended."""
        return next((each for each in self._sent if each.ended is None and not each.waits), None)

    @property
    def next(self) -> Sent | None:
        """The one that is to begin next: not before the client has fetched the files that another one has returned."""
        return None if self.has_files else next((each for each in self._sent if each.waits), None)

    @property
    def has_files(self) -> bool:
        """Whether the client is still to fetch files."""
        return any(each.returned for each in self._sent)

    @property
    def streaming(self) -> list[Values]:
        """Of a generator function that runs: where its values come in."""
        running = self.running
        return [] if running is None or running.values is None else [running.values]

    # -- what the client sends

    def receive(self, piece: bytes) -> None:
        """A piece of the next one, or of what is to be kept."""
        self._incoming.add(piece)

    def discard_incoming(self) -> None:
        """The stream broke: what came of the next one is of no use."""
        self._incoming = Incoming()
        self._store.kept.release()

    def keep(self, name: bytes) -> bool:
        """Keep what has come under this name. False if it is not what its name says."""
        return self._store.put(name, self._take_incoming().joined())

    def accept(self, claimed: bytes, key: bytes) -> bool:
        """What has come is a request with this signature. False if it is not, or one too many."""
        incoming = self._take_incoming()
        if not hmac.compare_digest(claimed, sign(key, incoming.digest.digest())):
            return False
        request = WarmRequest(incoming.joined(), self._where)
        self._store.use(request)
        if any(each.run == request.run for each in self._sent):
            return True  # sent again after the stream broke
        if sum(each.ended is None for each in self._sent) >= MOST:
            return False
        for each in [each for each in self._sent if each.ended is not None][:-1]:
            self._drop(each)  # the client has it: it sends one request ahead at most
        self._sent.append(Sent(request, self._where))
        self._places.make(request)
        self._close_places()
        return True

    def _close_places(self) -> None:
        """Remove the files of arguments that none needs any more."""
        self._places.keep_only([each.request for each in self._sent if each.ended is None])

    def clear_up(self, ended: Sent) -> None:
        """This one needs no files more."""
        self._places.clear_up(ended.request)

    def _take_incoming(self) -> Incoming:
        incoming, self._incoming = self._incoming, Incoming()
        return incoming

    def ask_to_end(self, run: bytes) -> None:
        """The client wants this one to end, whether it runs or waits."""
        for each in self._sent:
            if each.run.encode() == run:
                each.asked_to_end = True

    def give_back(self) -> list[str]:
        """Forget those that wait: their names. The one that runs is to give back what of it has not begun."""
        if self.running is not None:
            self.running.asked_back = True
        waiting = [each.run for each in self._sent if each.waits]
        self.drop_waiting()
        return waiting

    def drop_waiting(self) -> None:
        """Those that wait will never begin."""
        self._sent = [each for each in self._sent if not each.waits]

    def note_taken(self, content: bytes) -> None:
        """The client's program has taken values of this one."""
        (taken,) = STREAMED_HEAD.unpack_from(content)
        for each in self._sent:
            if each.values is not None and each.run.encode() == content[STREAMED_HEAD.size :]:
                each.values.note_taken(taken)

    def acknowledge(self, run: bytes) -> None:
        """The client has this one's outcome."""
        for each in self._sent:
            if each.ended is not None and each.run.encode() == run:
                self._drop(each)
                return

    # -- for a client that comes (again)

    def welcome(self, runs: Sequence[str]) -> dict[str, Any]:
        """What is here of the requests that the client waits for. Others that have ended, nobody waits for."""
        for each in self._sent[:]:
            if each.run not in runs and each.ended is not None:
                self._forget(each)
        return {
            "runs": [each.run for each in self._sent],
            "lost": [run for run in runs if self._lease.has_dropped(run)],
            "kept": self._store.kept.entries(),
        }

    def resume(self, runs: Sequence[str], have: int, stream: Stream) -> None:
        """Tell the client what it has not got: of the first one's output it has so many bytes."""
        for each in self._sent:
            if each.run in runs:
                each.resume(stream, have if each.run == runs[0] else 0)

    def forget(self) -> None:
        """Nobody waits for any of them any more."""
        for each in self._sent[:]:
            self._forget(each)
        self._close_places()

    def _forget(self, one: Sent) -> None:
        if not one.waits:
            self._lease.drop(one.run)
        self._drop(one)

    def _drop(self, one: Sent) -> None:
        one.remove()
        self._sent.remove(one)
