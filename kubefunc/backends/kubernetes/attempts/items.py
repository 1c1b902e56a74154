"""Some items of a submission, as one Job or one chunk of it reports about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kubefunc.backends.base import Sink, Whereabouts
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Envelope, record_of
from kubefunc.errors import KubefuncError
from kubefunc.runner import CHUNK
from kubefunc.runner.protocol.records import Record


class ItemsSink:
    """The items of one attempt: all of a call or map, or those of one chunk."""

    def __init__(self, whole: Sink, indexes: Sequence[int]) -> None:
        self._whole = whole
        self._indexes = indexes
        self._where: Whereabouts | None = None

    def give_up(self, items: Iterable[int]) -> None:
        """These items run elsewhere from now on."""
        given = set(items)
        self._indexes = [index for index in self._indexes if index not in given]

    @property
    def settled(self) -> bool:
        return self._whole.settled

    def moved(self, where: Whereabouts) -> None:
        self._where = where
        missing = self._whole.missing(self._indexes)
        # The items of a chunk run one after another: those behind the first still wait.
        self._whole.moved(missing[:1] if where.phase is Phase.RUNNING else missing, where)

    def take(self, outcomes: Sequence[Record]) -> None:
        self._whole.take(outcomes)
        if self._where is not None and self._where.phase is Phase.RUNNING:
            self.moved(self._where)

    def output(self, data: bytes) -> None:
        self._whole.output(self._indexes, data)

    def deliver(self, envelope: Envelope) -> None:
        """The result of a call; of a chunk its end, when its records were taken. An error holds for each item."""
        if envelope.header["outcome"] == CHUNK:
            return
        self._whole.take([record_of(envelope, index) for index in self._whole.missing(self._indexes)])

    def fail(self, error: KubefuncError) -> None:
        self._whole.fail(self._whole.missing(self._indexes), error)
