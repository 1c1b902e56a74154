"""Files (:class:`kubefunc.File`) into a warm worker's Pod and out of it, by the programs that Jobs use."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from kubefunc import errors
from kubefunc.backends.kubernetes.api.exec_errors import TransportError
from kubefunc.backends.kubernetes.api.file_transfer import FileRefused, send_file
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.api.transfer import ResultStream
from kubefunc.backends.kubernetes.attempts.file_receipt import FileReceipts, NotStoredHere
from kubefunc.backends.kubernetes.attempts.receipt import PROGRAM, fetch_files
from kubefunc.backends.kubernetes.diagnose import files
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.warm.arguments import Brought
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.records import Record
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.packing.sent_files import SentFile
from kubefunc.runner import MAIN
from kubefunc.runner.protocol.records import Record as Outcome
from kubefunc.runner.warm.places import name_of_argument, name_of_body

FIRST_PAUSE = 0.05  # seconds before the next stream: the worker may not have read the request yet
PAUSE_AT_MOST = 5.0
GIVE_UP = 60.0  # seconds without a further byte after which a file that a call has returned is lost


class Courier(Protocol):
    """A worker, as its files see it.

    Attributes:
        brought: the files that it has.
    """

    brought: Brought

    def address(self) -> Record:
        """Where it is now."""
        ...

    def has(self, batch: Batch) -> bool:
        """Whether it was given this, and somebody waits for it."""
        ...

    def end_run(self, run: Batch) -> None:
        """Have it end this."""
        ...

    def finish(self, batch: Batch) -> None:
        """All of this has come."""
        ...


class _Unwanted(Exception):
    """Nobody waits for the batch any more, or the worker has gone."""


# -- of arguments


def send_files(api: Api, worker: Courier, batch: Batch) -> None:
    """Send the files that the worker has not got. Its function waits for them."""
    files_of = batch.arguments
    own = files_of.own(batch.indexes)
    try:
        for number, file in files_of.of(batch.indexes).items():
            if number in worker.brought:
                continue
            _send(api, worker, batch, number, file)
            if own is not None and number not in own and worker.has(batch):
                worker.brought.add(files_of.place, number)
    except _Unwanted:
        pass
    except _NotSent as why:
        batch.fail(why.finding.as_error(_known(worker.address(), batch)))
        worker.end_run(batch)


class _NotSent(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def _send(api: Api, worker: Courier, batch: Batch, number: int, file: SentFile) -> None:
    """Stream after stream, each on from where the last was cut, until it is there or the function waits no more."""
    command = (*PROGRAM, "receiver", name_of_argument(batch.arguments.place, number))
    for pause in _pauses():
        to = worker.address()
        _check_wanted(worker, batch)
        try:
            send_file(api, to.namespace, to.pod, command, file.path, file.check, container=MAIN)
            return
        except FileRefused as error:
            raise _NotSent(files.refused(file.file.name, file.size, to.pod, str(error))) from error
        except errors.FileError as error:
            raise _NotSent(files.not_sent(str(error))) from error
        except TransportError:
            pass
        except OSError as error:
            raise _NotSent(files.not_sent(f"{file.file!r} cannot be read any more: {error.strerror}.")) from error
        time.sleep(pause)


# -- of results


def fetch_returned(api: Api, worker: Courier, batch: Batch) -> None:
    """Fetch the files of what has come of this batch, hand that on, and let the worker go on."""
    receipts = FileReceipts(batch.call)
    try:
        _fetch(api, worker, batch, receipts)
    except _Unwanted:
        if not worker.has(batch):
            return
    except errors.ResultCorruptedError as error:
        batch.fail(error)
    except NotStoredHere as error:
        batch.fail(files.not_stored_here(str(error)).as_error(_known(worker.address(), batch)))
    except TransportError as error:
        batch.fail(files.not_fetched(str(error)).as_error(_known(worker.address(), batch)))
    if batch.returned.end():
        worker.finish(batch)


def _fetch(api: Api, worker: Courier, batch: Batch, receipts: FileReceipts) -> None:
    """Raises TransportError when nothing more has come for long."""

    def fetch(record: Outcome) -> None:
        fetch_files(record, receipts, name_of_body(batch.call, batch.reported_as(record.index)), open_sender)

    def open_sender(name: str, offset: int) -> ResultStream:
        to = worker.address()
        command = (*PROGRAM, "sender", name, str(offset))
        stream = _Sender(api, to.namespace, to.pod, command, MAIN)
        stream.check = functools.partial(_check_wanted, worker, batch)
        return stream

    got_at, received = time.monotonic(), 0
    for pause in _pauses():
        _check_wanted(worker, batch)
        try:
            batch.fetch_returned(fetch)
            return
        except TransportError:
            if receipts.received > received:
                got_at, received = time.monotonic(), receipts.received
            if time.monotonic() - got_at > GIVE_UP:
                raise
        time.sleep(pause)


class _Sender(ResultStream):
    """Ends when nobody wants the file any more, however much of it is still to come."""

    check: Callable[[], None]

    def stdout(self) -> Iterator[memoryview]:
        for piece in super().stdout():
            self.check()
            yield piece


# -- of both


def _check_wanted(worker: Courier, batch: Batch) -> None:
    if batch.over or not worker.has(batch):
        raise _Unwanted


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, PAUSE_AT_MOST)


def _known(where: Record, batch: Batch) -> Diagnosis:
    return Diagnosis(
        "", "", phase=Phase.RUNNING, call=batch.call, namespace=where.namespace, pod=where.pod, node=where.node
    )
