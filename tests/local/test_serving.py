"""Functions that listen, on this machine."""

from __future__ import annotations

import socket

import pytest

from kubefunc import errors, remote


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@remote
def answer_once(port: int, wait: float = 0.0) -> str:
    """Listen, after a while, for one connection; what it says."""
    import time

    time.sleep(wait)
    with socket.create_server(("", port)) as server:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"hello")
            return connection.recv(100).decode()


def test_a_function_of_this_machine_is_reached_at_its_own_port() -> None:
    """forward waits until it listens, and hands it no other connection than the program's."""
    port = free_port()
    call = answer_once.options(ports={"http": port}, service="scores").remote(port, 0.3)
    assert call.endpoint == f"127.0.0.1:{port}"
    with call.forward("http") as address:
        assert address == ("127.0.0.1", port)
        with socket.create_connection(address, timeout=20) as connection:
            assert connection.recv(100) == b"hello"
            connection.sendall(b"goodbye")
    assert call.result(20) == "goodbye"


def test_a_port_may_be_left_out_where_there_is_one() -> None:
    """Given by number it need not be named; a wrong name lists the right ones."""
    port = free_port()
    call = answer_once.options(ports={"http": port}).remote(port)
    with pytest.raises(errors.ConfigurationError, match=r"'htp'.* ports= has 'http'"), call.forward("htp"):
        pass
    with pytest.raises(errors.ConfigurationError, match="70000"), call.forward(70000):
        pass
    with call.forward(port), call.forward() as address, socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"!")
    assert call.result(20) == "!"
    with pytest.raises(errors.PortForwardError, match="has ended"), call.forward():
        pass


def test_a_function_that_fails_before_it_listens() -> None:
    """The error says how it ended."""
    call = answer_once.options(ports={"http": 1}).remote(-1)
    with pytest.raises(errors.PortForwardError, match=r"has ended.* It raised OverflowError"), call.forward():
        pass


def test_a_map_on_this_machine() -> None:
    """Its endpoint is the same as that of a call."""
    port = free_port()
    a_map = answer_once.options(ports={"http": port}).map([port])
    with a_map.forward() as address, socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"map")
    assert a_map.result(20) == ["map"]


def test_without_ports_there_is_no_endpoint() -> None:
    """The error says what to give; a service without ports is refused."""
    call = answer_once.remote(free_port())
    with pytest.raises(errors.ConfigurationError, match=r"has no service: give the function service="):
        _ = call.endpoint
    call.cancel()
    with pytest.raises(errors.ConfigurationError, match="needs ports="):
        answer_once.options(service="scores").remote(1)
