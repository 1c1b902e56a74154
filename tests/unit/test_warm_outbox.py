"""What a warm worker is told: in order, by the thread that gives it where that needs no wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kubefunc.backends.kubernetes.api.exec_errors import StreamCut
from kubefunc.backends.kubernetes.warm import outbox
from kubefunc.backends.kubernetes.warm.outbox import AT_ONCE, Outbox


class Stream:
    """Notes each message that is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unsent = 0
        self.has_room = True
        self.is_cut = False
        self.closed = False

    def send(self, data: bytes) -> None:
        self.written.append(data)

    def send_at_once(self, data: bytes) -> bool:
        if self.is_cut:
            raise StreamCut("cut")
        if self.has_room:
            self.send(data)
        return self.has_room

    def close(self) -> None:
        self.closed = True


class Worker:
    """An outbox with an open stream, and batches that are given."""

    def __init__(self) -> None:
        self.unsent: list[bytes] = []
        self.stream = Stream()
        self.woken = 0
        self.outbox = Outbox(self._take_unsent, self._wake)
        self.outbox.open(self.stream)

    def _wake(self) -> None:
        self.woken += 1

    def _take_unsent(self) -> Iterator[bytes]:
        while self.unsent:
            yield self.unsent.pop(0)

    def give(self, *frames: bytes) -> None:
        self.unsent += frames
        self.outbox.add()


@pytest.fixture
def worker() -> Worker:
    """One that listens."""
    return Worker()


def test_who_gives_a_call_writes_it(worker: Worker) -> None:
    """No other thread is woken for it."""
    worker.give(b"call,", b"signature")
    assert worker.stream.written == [b"call,signature"]


def test_without_room_the_reading_thread_writes(worker: Worker) -> None:
    """In the order in which all was given: the wish to end a call never comes before the call."""
    worker.stream.has_room = False
    worker.give(b"one,")
    worker.give(b"two,")
    worker.outbox.add(b"end two")
    assert worker.stream.written == []
    assert worker.woken == 3
    worker.outbox.write(worker.stream)
    assert worker.stream.written == [b"one,two,end two"]


def test_much_is_left_to_the_reading_thread(worker: Worker) -> None:
    """To write it may take long."""
    worker.give(b"x" * (AT_ONCE + 1))
    assert worker.stream.written == []
    worker.outbox.write(worker.stream)
    assert [len(each) for each in worker.stream.written] == [AT_ONCE + 1]


def test_before_the_worker_listens_nothing_is_written(worker: Worker) -> None:
    """It is sent when the next stream is open, unless that finds it there already."""
    worker.outbox.shut()
    worker.give(b"call")
    worker.outbox.add(b"end")
    worker.outbox.forget()
    worker.outbox.open(worker.stream)
    worker.outbox.write(worker.stream)
    assert worker.stream.written == [b"call"]


def test_what_was_taken_for_a_stream_is_of_no_use_on_the_next(worker: Worker) -> None:
    """It is signed for that one. The worker says what it has, and the rest is given anew."""
    worker.stream.has_room = False
    worker.give(b"call, signed for the first stream")
    worker.outbox.shut()
    worker.outbox.open(worker.stream)
    worker.outbox.write(worker.stream)
    assert worker.stream.written == []


def test_an_acknowledgement_goes_with_the_next_call(worker: Worker) -> None:
    """Alone it would be a message more for each call."""
    worker.outbox.owe(b"A,")
    worker.outbox.write(worker.stream)
    assert worker.stream.written == []
    worker.give(b"call")
    assert worker.stream.written == [b"A,call"]


def test_an_acknowledgement_goes_alone_after_a_while(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker need not keep an outcome for a call that never comes."""
    assert worker.outbox.patience > 3600
    worker.outbox.owe(b"A")
    assert 0 < worker.outbox.patience <= outbox.OWED_FOR
    monkeypatch.setattr(outbox, "OWED_FOR", 0.0)
    worker.outbox.write(worker.stream)
    assert worker.stream.written == [b"A"]
    assert worker.outbox.patience > 3600


def test_a_stream_that_breaks_under_a_caller_is_its_readers_matter(worker: Worker) -> None:
    """The caller need not know: another stream tells what has arrived."""
    worker.stream.is_cut = True
    worker.give(b"call")
    assert worker.stream.closed


def test_an_interrupted_caller_leaves_no_call_behind(worker: Worker) -> None:
    """Ctrl-C while it is packed or written: nobody knows how much has arrived, and another stream tells."""

    def interrupted() -> Iterator[bytes]:
        yield b"half of a call"
        raise KeyboardInterrupt

    worker.outbox = Outbox(interrupted, lambda: None)
    worker.outbox.open(worker.stream)
    with pytest.raises(KeyboardInterrupt):
        worker.outbox.add()
    assert worker.stream.closed
