# ruff: noqa: D103 - what they do is in their names and bodies
"""Functions that run as gangs. They travel with this module: standard library only."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time

from kubefunc import current, remote

RING_PORT = 29600
_NUMBERS = struct.Struct("!8d")


@remote
def reduce_in_a_ring(seed: int, port: int = RING_PORT) -> list[float]:
    """The sum of all ranks' numbers, each passing on to the next rank what it has received from the one before."""
    rank, size, peers = current.rank() or 0, current.world_size(), current.peers()
    on_one_machine = len(set(peers)) == 1
    own = numbers_of(seed, rank)
    with socket.create_server(("", port + rank * on_one_machine)) as server:
        behind = (rank + 1) % size
        following = connected(peers[behind], port + behind * on_one_machine)
        before, _ = server.accept()
    total, passing = own, own
    with following, before:
        for _ in range(size - 1):
            following.sendall(_NUMBERS.pack(*passing))
            passing = list(_NUMBERS.unpack(before.recv(_NUMBERS.size, socket.MSG_WAITALL)))
            total = [one + other for one, other in zip(total, passing, strict=True)]
    return total


def connected(host: str, port: int) -> socket.socket:
    """All ranks run, but the other may not listen yet."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection((host, port), timeout=30)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def numbers_of(seed: int, rank: int) -> list[float]:
    return [float((seed + rank) * (place + 1)) for place in range(8)]


@remote
def variables() -> dict[str, str]:
    """What torch.distributed's env:// and MPI programs read."""
    names = "MASTER_ADDR MASTER_PORT RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE"
    print(f"rank {current.rank()} is here")
    return {name: os.environ[name] for name in names.split()}


@remote
def fail_at(rank: int) -> None:
    """The others wait for it in vain."""
    if current.rank() == rank:
        raise ValueError("this rank is wrong")
    time.sleep(600)


@remote
def fail_once() -> int:
    """Rank 1 fails in the first attempt, while the others wait for it; which attempt this is."""
    if current.attempt() == 1:
        fail_at(1)
    return current.attempt()


@remote
def meet_behind() -> list[str]:
    """What the ranks answer through the Service in front of them: each a file of its volume, and its number."""
    with open("/conf/text") as file:
        text = f"{file.read()} {current.rank()}"
    server = socket.create_server(("", 8080), backlog=64)
    threading.Thread(target=_answer, args=(server, text.encode()), daemon=True).start()
    deadline, found = time.monotonic() + 60, set[str]()
    while len(found) < current.world_size() and time.monotonic() < deadline:
        found = found.union(_asked("ranks", 8080))
        time.sleep(0.05)
    time.sleep(3)  # the other may still ask
    return sorted(found)


def _answer(server: socket.socket, text: bytes) -> None:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(text)


def _asked(host: str, port: int) -> list[str]:
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            return [connection.recv(100).decode()]
    except OSError:  # nobody listens yet
        return []


@remote
def started(seconds: float) -> float:
    """When it began."""
    now = time.time()
    time.sleep(seconds)
    return now


@remote
def wait_once() -> int:
    """Waits in the first Job for ever; how often the gang began again."""
    print("running", flush=True)
    if current.disruptions() == 0:
        time.sleep(600)
    return current.disruptions()
