"""A warm worker as a process of this machine, and a client that speaks to it as one in a Pod is spoken to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kubefunc.envelope import Envelope, verify
from kubefunc.packing.payload import Packer
from kubefunc.runner.execution.request import CALL, ENDED, OUTPUT, RESULT
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.protocol.spec import RunnerSpec
from kubefunc.runner.warm.attach import ATTACH
from kubefunc.runner.warm.code import read_archive, table_of
from kubefunc.runner.warm.frames import ACKNOWLEDGE, BUSY, DATA, HELLO, KEEP, NONCE, PLACE, WELCOME
from kubefunc.runner.warm.kept import FUNCTION, digest_of, name_of, name_of_code
from kubefunc.runner.warm.lease import is_proof, new_nonce, proof, request_key, sign
from kubefunc.runner.warm.request import join_request
from kubefunc.runner.warm.stream import BODY, PIECE
from tests.conftest import ROOT

KEY = b"k" * 32
TOKEN = "the right one"
WITHIN = 60.0


class WarmWorker:
    """The worker's process."""

    def __init__(
        self,
        place: Path,
        *,
        idle: float = 60.0,
        reconnect: float = 60.0,
        alone: float = 60.0,
        preload: Sequence[str] = (),
    ) -> None:
        self.place = place
        self.clients: list[WarmClient] = []
        serve = f"serve({TOKEN!r}, {idle}, {reconnect}, {alone}, {tuple(preload)!r})"
        program = f"from kubefunc.runner.warm.worker import serve; print({serve}, flush=True)"
        self.environ = {**os.environ, "PYTHONPATH": str(ROOT), "KUBEFUNC_OUT": str(place)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], env=self.environ, stdout=subprocess.PIPE, text=True, cwd=place
        )
        until = time.monotonic() + WITHIN
        while not self.socket.exists() and self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)

    @property
    def socket(self) -> Path:
        return self.place / "warm/socket"

    def why(self) -> str:
        """It has ended: why."""
        out, _ = self.process.communicate(timeout=WITHIN)
        return out.strip()

    def attach(self) -> WarmClient:
        self.clients.append(WarmClient(self))
        return self.clients[-1]

    def stop(self) -> None:
        """All of it. In a Pod, the processes of calls end with its first one."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        calls = listed.read_text().split() if self.process.poll() is None and listed.exists() else []
        _end(self.process)
        for pid in calls:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for client in self.clients:
            client.stop()


class WarmClient:
    """A client and its stream."""

    def __init__(self, worker: WarmWorker) -> None:
        self.worker = worker
        self.process = subprocess.Popen(
            [sys.executable, *ATTACH[1:]],
            env=worker.environ,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.frames = wire.Frames()
        self.heard: list[tuple[bytes, bytes]] = []

    def send(self, letter: bytes, data: bytes = b"") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(wire.frame(letter, data))
        self.process.stdin.flush()

    def hello(self, *runs: str, output: int = 0, token: str = TOKEN, client: str = "one") -> None:
        """Say who it is; the answer is still to be read."""
        nonce, _, self.state = self.receive(NONCE).decode().partition(" ")
        self.nonces = nonce, new_nonce()
        told = {"client": client, "nonce": self.nonces[1], "proof": proof(token, client, self.nonces)}
        self.send(HELLO, json.dumps({**told, "runs": runs, "output": output}).encode())

    def welcome(self) -> str | None:
        """The first call that the worker has; it has shown that it is the worker."""
        told = json.loads(self.receive(WELCOME))
        assert is_proof(told["proof"], TOKEN, "worker", self.nonces)
        self.lost: list[str] = told["lost"]
        self.has: list[str] = told["runs"]
        self.kept: list[tuple[str, int]] = told["kept"]
        return next(iter(self.has), None)

    def is_welcome(self) -> bool:
        """Whether the worker takes this client; else another one has it."""
        return self.receive_one_of(WELCOME, BUSY)[0] == WELCOME

    def receive(self, letter: bytes) -> bytes:
        """The next frame of this kind; those before it are kept in ``heard``."""
        return self.receive_one_of(letter)[1]

    def receive_one_of(self, *letters: bytes) -> tuple[bytes, bytes]:
        """The next frame of one of these kinds."""
        until = time.monotonic() + WITHIN
        while True:
            for at, (each, content) in enumerate(self.heard):
                if each in letters:
                    del self.heard[at]
                    return each, content
            data = self.read(max(0.0, until - time.monotonic()))
            assert data, f"the stream ended without {letters!r}, but {self.heard}"
            self.heard += self.frames.feed(data)

    def read(self, seconds: float) -> bytes:
        """What comes next."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, f"nothing came, but {self.heard}"
        return os.read(self.process.stdout.fileno(), 1 << 16)

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        run: str = "run-1",
        stay: str | None = None,
        **options: Any,
    ) -> None:
        """Send a call. ``stay`` names the process that runs it."""
        payload = Packer.for_local().pack(function, args, None, (Exception,))
        code = self.keep_code(payload.code.data)
        self.request(
            {"run": run, "stay": stay, "code": code, "function": None, "items": False}, payload.call, **options
        )

    def batch(
        self, function: Callable[..., Any], items: Mapping[int, tuple[Any, ...]], run: str = "run-1", **options: Any
    ) -> None:
        """Send items of a map."""
        payload = Packer.for_local().pack(function, (), None, (Exception,))
        content = records.join_items([(index, pickle.dumps(args)) for index, args in items.items()])
        kept = {"code": self.keep_code(payload.code.data), "function": self.keep_function(payload.call)}
        self.request({"run": run, "stay": "map-1", "items": True, **kept}, content, **options)

    def keep_code(self, code: bytes) -> list[str]:
        """Send modules; their names."""
        return [self.keep(name_of_code(table_of(read_archive(code))), code)] if code else []

    def keep(self, name: str, data: bytes, base: str = "") -> str:
        """Send what is to be kept: all of it, or a patch of the code with the name ``base``."""
        if data:
            self.send(DATA, data)
        self.send(KEEP, f"{name} {base}".strip().encode())
        return name

    def keep_function(self, call: bytes) -> str:
        """Send a function; its name."""
        return self.keep(name_of(FUNCTION, digest_of(call)), call)

    def request(self, header: Mapping[str, Any], content: bytes, **options: Any) -> None:
        """Send a request."""
        spec = RunnerSpec(call="call-x", function="f", **options).changes()
        data = join_request({**header, "spec": spec, "key": KEY.hex(), "compression": ""}, content)
        for start in range(0, len(data), PIECE):
            self.send(DATA, data[start : start + PIECE])
        self.send(CALL, sign(request_key(TOKEN, self.nonces), hashlib.sha256(data).digest()))

    def outcome(self, run: str = "run-1") -> Envelope:
        """What came of the call, acknowledged."""
        return verify(self.answer(run), KEY, "call-x")

    def outcomes(self, run: str = "run-1") -> dict[int, records.Record]:
        """What came of the items, acknowledged."""
        blocks = records.Blocks(KEY, "call-x", 0)
        return {
            each.index: each for content in blocks.feed(self.answer(run)) for each in records.split_records(content)
        }

    def answer(self, run: str) -> bytes:
        """All that the worker says of an outcome."""
        self.receive(ENDED)
        answer = b"".join(content for letter, content in self.heard if letter in (BODY, RESULT))
        self.heard = [each for each in self.heard if each[0] not in (BODY, RESULT)]
        self.send(ACKNOWLEDGE, run.encode())
        return answer

    def printed(self) -> bytes:
        """The output that came, in order, each byte once."""
        text = b""
        for letter, content in self.heard:
            if letter == OUTPUT:
                start, _ = PLACE.unpack_from(content)
                assert start == len(text)
                text += content[PLACE.size :]
        return text

    def cut(self) -> None:
        """The stream breaks."""
        self.stop()

    def stop(self) -> None:
        _end(self.process)


class PipeClient(WarmClient):
    """The same without the program ``attach``: it hands over two pipes itself, and says byte by byte what it sends."""

    def __init__(self, worker: WarmWorker) -> None:
        worker.clients.append(self)
        self.worker = worker
        self.frames = wire.Frames()
        self.heard = []
        self._recorder: bytearray | None = None
        to_worker, self._to = os.pipe()
        self._from, from_worker = os.pipe()
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.connect(str(worker.socket))
        socket.send_fds(self._door, [b"a"], [to_worker, from_worker])
        os.close(to_worker)
        os.close(from_worker)

    def send(self, letter: bytes, data: bytes = b"") -> None:
        self.write(wire.frame(letter, data))

    def write(self, data: bytes) -> None:
        """Send these bytes, or note them."""
        if self._recorder is not None:
            self._recorder += data
            return
        with contextlib.suppress(BrokenPipeError):  # the worker has had enough
            wire.write_all(self._to, data)

    def recorded(self, work: Callable[[PipeClient], None]) -> bytes:
        """The bytes that this would send."""
        self._recorder = recorder = bytearray()
        work(self)
        self._recorder = None
        return bytes(recorder)

    def read(self, seconds: float) -> bytes:
        ready, _, _ = select.select([self._from], [], [], seconds)
        assert ready, f"nothing came, but {self.heard}"
        return os.read(self._from, 1 << 16)

    def is_over(self) -> bool:
        """Whether the worker lets the stream go."""
        while data := self.read(WITHIN):
            self.heard += self.frames.feed(data)
        return True

    def stop(self) -> None:
        if self._door.fileno() >= 0:
            os.close(self._to)
            os.close(self._from)
            self._door.close()


def _end(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait(WITHIN)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
