"""The values of a generator function on their way out: numbered, signed files, a bounded number of them at a time.

What sends them on (a *streamer* in the Pod's courier, or the client itself on this machine) writes to the file
``taken`` how many values the consumer has taken. The generator is not resumed while it is too far ahead of that.
"""

from __future__ import annotations

import os
import sys
import time

from kubefunc.runner import STREAM_BYTES, STREAM_SEEN, STREAM_TAKEN, VALUE
from kubefunc.runner.execution.reports import BodyNotWritten, SealedBody, Settled
from kubefunc.runner.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
    from typing import Any

    from kubefunc.runner.execution.reports import Body
    from kubefunc.runner.protocol.spec import RunnerSpec

    AsValue = Callable[[Any, Callable[[], Body]], tuple[dict[str, Any], Body]]

POLL = 0.002  # seconds before the first look whether there is room again
POLL_AT_MOST = 0.02


class Outlet:
    """Where a generator's values go.

    Attributes:
        count: how many values were written.
    """

    def __init__(self, directory: str, spec: RunnerSpec, key: bytes, as_value: AsValue) -> None:
        limits: Mapping[str, Any] = spec.stream or {}
        self.count = 0
        self._directory = directory
        self._call = spec.call
        self._key = key
        self._as_value = as_value
        self._ahead = int(limits.get("ahead", 1))
        self._bytes = int(limits.get("bytes", STREAM_BYTES))
        self._left_after = limits.get("left_after")  # seconds without a client; None: this process ends with its client
        self._run = os.urandom(8).hex()
        self._taken = 0
        self._sizes: dict[int, int] = {}  # of the values that were not taken yet

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that runs this generator function to its end and returns what the generator returned."""

        def run(*args: Any, **kwargs: Any) -> Any:
            values = function(*args, **kwargs)
            if not hasattr(values, "__anext__"):
                return self._send_all(values)
            import asyncio  # most generators are not asynchronous

            return asyncio.run(self._send_all_async(values))

        return run

    def _send_all(self, values: Any) -> Any:
        values = iter(values)
        try:
            while True:
                self._wait_for_room()
                try:
                    value = next(values)
                except StopIteration as end:
                    return end.value
                self._put(value)
        finally:
            if hasattr(values, "close"):
                values.close()

    async def _send_all_async(self, values: AsyncGenerator[Any, None]) -> None:
        """One task from the first value to the last: what the generator keeps in its context stays there."""
        try:
            while True:
                await self._wait_for_room_async()
                try:
                    value = await values.__anext__()
                except StopAsyncIteration:
                    return
                self._put(value)
        finally:
            await values.aclose()

    def completed(self, header: dict[str, Any]) -> dict[str, Any]:
        """The header of the call's outcome. What has streamed a value is not run again: no value may come twice."""
        if self.count:
            header.pop("retry", None)
        return {**header, "streamed": self.count}

    # -- values

    def _put(self, value: object) -> None:
        header, body = self._as_value(value, self._new_body)
        if header["outcome"] != VALUE:
            raise Settled((_of_value(header, self.count), body))
        header.update(call=self._call, run=self._run, number=self.count, python="{}.{}".format(*sys.version_info))
        tail = wire.tail(header, self._key)
        try:
            self._write(body, tail)
        except OSError as error:
            raise BodyNotWritten(body.path, error) from error
        self._sizes[self.count] = body.size + len(tail)
        self.count += 1

    def _new_body(self) -> Body:
        self._make_directory()
        return SealedBody(os.path.join(self._directory, "part"))

    def _write(self, body: Body, tail: bytes) -> None:
        """Send this value on its way, which is the next one."""
        content = body.content()
        with open(body.path, "ab") if not body.in_memory else wire.new_file(body.path) as file:
            file.write(content + tail)
        os.rename(body.path, os.path.join(self._directory, str(self.count)))

    def _make_directory(self) -> None:
        if self.count:
            return
        try:
            os.makedirs(self._directory, exist_ok=True)
            os.chmod(self._directory, 0o777)  # the courier removes what was taken
        except OSError as error:
            raise BodyNotWritten(self._directory, error) from error

    # -- room

    def _wait_for_room(self) -> None:
        for pause in self._pauses():
            time.sleep(pause)

    async def _wait_for_room_async(self) -> None:
        from asyncio import sleep

        for pause in self._pauses():
            await sleep(pause)

    def _pauses(self) -> Iterator[float]:
        """Seconds to wait, again and again until there is room for a value."""
        pause, since = POLL, time.time()
        while not self._has_room():
            self._refuse_to_wait_for_nobody(since)
            yield pause
            pause = min(POLL_AT_MOST, 1.5 * pause)

    def _has_room(self) -> bool:
        if self._is_full():
            self._look_what_was_taken()
        return not self._is_full()

    def _is_full(self) -> bool:
        return self.count - self._taken >= self._ahead or sum(self._sizes.values()) >= self._bytes

    def _look_what_was_taken(self) -> None:
        try:
            with open(os.path.join(self._directory, STREAM_TAKEN), "rb") as file:
                taken = int(file.read())
        except (OSError, ValueError):
            return
        self._note_taken(taken)

    def _note_taken(self, taken: int) -> None:
        for number in range(self._taken, min(taken, self.count)):
            self._sizes.pop(number, None)
        self._taken = max(self._taken, taken)

    def _refuse_to_wait_for_nobody(self, since: float) -> None:
        if self._left_after is None:
            return
        try:
            seen = os.stat(os.path.join(self._directory, STREAM_SEEN)).st_mtime
        except OSError:
            seen = since
        if time.time() - max(seen, since) > self._left_after:
            raise TimeoutError(f"no client has been connected to this stream for {self._left_after:g} s")


def _of_value(header: dict[str, Any], number: int) -> dict[str, Any]:
    """An error that names its value by its number."""
    detail = header.get("detail")
    if isinstance(detail, dict) and str(detail.get("path", "")).startswith("result"):
        path = f"value {number}" + str(detail["path"])[len("result") :]
        return {**header, "detail": {**detail, "path": path}}
    return header
