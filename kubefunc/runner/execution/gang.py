"""The ranks of a gang: each knows all others, and none runs its function before all are there.

They meet at rank 0: the others connect to it and say who they are, and it lets all go when nobody is missing. A Pod
needs no rights for that, and no program but this one. Who waits in vain is ended from outside: by the client, when a
Pod cannot be started in time, or by SIGTERM.
"""

from __future__ import annotations

import os
import socket
import time

from kubefunc.runner import ENV_PEERS, ENV_RANK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_GO = b"G"
_RANK_SIZE = 4
_CONNECT_WITHIN = 10.0
_AGAIN = 0.1


def enter(gang: Mapping[str, Any], rank: int) -> None:
    """Set what programs read, then wait for the others.

    Args:
        gang: ``peers``, a host for each rank; ``meeting`` and ``master``, ports of the first of them; ``apart``,
            whether each rank has a machine of its own.
        rank: this one.
    """
    peers = gang["peers"]
    os.environ.update(variables(peers, rank, gang["master"], apart=gang["apart"]))
    for peer in peers:
        _until_known(peer)
    if rank == 0:
        _receive(len(peers), gang["meeting"])
    else:
        _go_to(peers[0], gang["meeting"], rank)


def variables(peers: Sequence[str], rank: int, master: int, *, apart: bool) -> dict[str, str]:
    """What torch.distributed and programs that MPI starts read.

    >>> found = variables(["a", "b"], 1, 29500, apart=True)
    >>> found["MASTER_ADDR"], found["RANK"], found["LOCAL_RANK"], found["OMPI_COMM_WORLD_SIZE"]
    ('a', '1', '0', '2')
    """
    size, node = str(len(peers)), str(rank) if apart else "0"
    local_rank, local_size = ("0", "1") if apart else (str(rank), size)
    return {
        ENV_RANK: str(rank),
        ENV_PEERS: ",".join(peers),
        "MASTER_ADDR": peers[0],
        "MASTER_PORT": str(master),
        "RANK": str(rank),
        "WORLD_SIZE": size,
        "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": local_size,
        "GROUP_RANK": node,
        "NODE_RANK": node,
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_SIZE": size,
        "OMPI_COMM_WORLD_LOCAL_RANK": local_rank,
        "OMPI_COMM_WORLD_LOCAL_SIZE": local_size,
        "PMI_RANK": str(rank),
        "PMI_SIZE": size,
    }


def _receive(size: int, port: int) -> None:
    """At rank 0: wait for the others, then let them go."""
    there: dict[int, socket.socket] = {}
    with _listening(port, size) as server:
        while len(there) < size - 1:
            connection, _ = server.accept()
            rank = _rank_of(connection)
            if rank is None or not 0 < rank < size:
                connection.close()
                continue
            if rank in there:  # it has lost its first connection
                there[rank].close()
            there[rank] = connection
    for connection in there.values():
        with connection:
            try:
                connection.sendall(_GO)
            except OSError:
                pass  # it has gone since: its Pod is lost, and with it the gang


def _listening(port: int, size: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=size, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=size)


def _rank_of(connection: socket.socket) -> int | None:
    connection.settimeout(_CONNECT_WITHIN)
    try:
        said = connection.recv(_RANK_SIZE, socket.MSG_WAITALL)
    except OSError:
        return None
    return int.from_bytes(said, "big") if len(said) == _RANK_SIZE else None


def _until_known(peer: str) -> None:
    """Who comes to the meeting knows where all others are: a function may connect to any of them at once."""
    while True:
        try:
            socket.getaddrinfo(peer, None)
        except OSError:  # its Pod has not started, or its name has not come round yet
            time.sleep(_AGAIN)
        else:
            return


def _go_to(host: str, port: int, rank: int) -> None:
    """At any other rank: be at the meeting until it ends. Names of Pods appear only after a while."""
    while True:
        try:
            with socket.create_connection((host, port), _CONNECT_WITHIN) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                connection.sendall(rank.to_bytes(_RANK_SIZE, "big"))
                connection.settimeout(None)
                if connection.recv(1) == _GO:
                    return
        except OSError:
            pass  # it has not started, or has been replaced
        time.sleep(_AGAIN)
