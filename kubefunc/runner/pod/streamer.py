"""Sends the values of a generator function to the client at the other end of an exec stream, while it runs."""

from __future__ import annotations

import os
import select
import time

from kubefunc.runner import (
    FOLLOW_DATA,
    READER_ACK,
    READER_HEARTBEAT,
    READER_NOTHING,
    READER_RESULT,
    STREAM,
    STREAM_SEEN,
    STREAM_TAKEN,
    STREAMER_TAKEN,
)
from kubefunc.runner.pod.courier import HEARTBEAT_EVERY, Follower, Out, read_exactly
from kubefunc.runner.protocol import pipes

POLL = 0.005  # seconds between two looks for the next value
POLL_IDLE = 0.025  # and after a while without one
IDLE_AFTER = 1.0
PIECE = 1 << 18


class Streamer(Follower):
    """Follows the values of one generator."""

    def __init__(self, out: Out) -> None:
        super().__init__(out)
        self._came = time.monotonic()
        self._removed = 0

    def run(self, offset: int) -> int:
        """Send the values from this number on, then the result."""
        number = self._removed = offset
        self._show()
        while True:
            ended = self._has_ended()  # first this, then the look for a value: nothing is written after the end
            if self._send_value(number):
                number += 1
                self._came = time.monotonic()
                self._hear(0.0)
            elif ended:
                return self._finish()
            else:
                self._hear(POLL if time.monotonic() - self._came < IDLE_AFTER else POLL_IDLE)

    def _finish(self) -> int:
        try:
            result = self.out.read("result")
        except FileNotFoundError:
            self._write(_frame(READER_NOTHING))
            return 0
        self._send_file(READER_RESULT, result)
        while True:
            ready, _, _ = select.select([0], [], [], HEARTBEAT_EVERY)
            if not ready:
                self._write(_frame(READER_HEARTBEAT))
            elif not self._take_word():
                return 0

    def _send_value(self, number: int) -> bool:
        try:
            value = self.out.read(f"{STREAM}/{number}")
        except FileNotFoundError:
            return False
        self._send_file(FOLLOW_DATA, value)
        return True

    def _send_file(self, letter: bytes, file: int) -> None:
        try:
            self._write(letter + pipes.LENGTH.pack(os.fstat(file).st_size))
            while data := os.read(file, PIECE):
                self._write(data)
        finally:
            os.close(file)

    # -- what the client says

    def _hear(self, seconds: float) -> None:
        if select.select([0], [], [], seconds)[0] and not self._take_word():
            os._exit(0)
        if time.monotonic() - self.heard > HEARTBEAT_EVERY:
            self._write(_frame(READER_HEARTBEAT))
            self._show()

    def _take_word(self) -> bool:
        """False: the client has gone, or has the result."""
        letter = os.read(0, 1)
        if letter == STREAMER_TAKEN:
            self._note_taken(*pipes.UPLOAD_HEAD.unpack(read_exactly(pipes.UPLOAD_HEAD.size)))
        if letter == READER_ACK:
            os.close(self.out.open("ack"))
        return letter == STREAMER_TAKEN

    def _note_taken(self, taken: int) -> None:
        """Tell the generator, and remove what is not needed any more."""
        part = self.out.path(f"{STREAM}/{STREAM_TAKEN}.{os.getpid()}")
        with open(part, "w") as file:
            file.write(str(taken))
        os.chmod(part, 0o644)
        os.replace(part, self.out.path(f"{STREAM}/{STREAM_TAKEN}"))
        while self._removed < taken:
            try:
                os.unlink(self.out.path(f"{STREAM}/{self._removed}"))
            except FileNotFoundError:
                pass
            self._removed += 1

    def _show(self) -> None:
        """A client is there: the generator need not fear that nobody will ever take its values."""
        try:
            with open(self.out.path(f"{STREAM}/{STREAM_SEEN}"), "wb"):
                pass
        except FileNotFoundError:  # there is no value yet
            pass


def _frame(letter: bytes) -> bytes:
    """A frame without data."""
    return letter + pipes.LENGTH.pack(0)


def streamer(out_dir: str, number: int) -> int:
    return Streamer(Out(out_dir)).run(number)
