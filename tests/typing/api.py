"""How the public names are typed. Checked by mypy and pyright, never run.

A use that must be refused stands with a ``type: ignore``: where it stops being refused, the comment is an error.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Generator, Iterator
from datetime import timedelta

from typing_extensions import assert_type

import kubefunc
from kubefunc import Call, MapCall, RemoteFunction, Stream, remote


@remote
def bare(x: int, *, scale: float = 1.0) -> str:
    return str(x * scale)


@remote(cpu=2, memory="4Gi", retries=3, timeout=timedelta(minutes=1), env={"A": "b"})
def called(x: int) -> list[int]:
    return [x]


@remote
async def waits(x: int) -> float:
    return float(x)


@remote(gpu=1)
async def waits_called(x: int) -> float:
    return float(x)


@remote
def streams(n: int) -> Iterator[str]:
    yield str(n)


@remote(stream_ahead=1)
def streams_called(n: int) -> Generator[float, None, bool]:
    yield float(n)
    return True


@remote
async def streams_later(n: int) -> AsyncIterator[bytes]:
    yield bytes(n)


class Model:
    @remote
    def rows(self, n: int) -> Iterator[int]:
        yield n

    @remote
    @classmethod
    def names(cls, n: int) -> Iterator[str]:
        yield cls.__name__ * n

    @remote
    def predict(self, row: list[float]) -> float:
        return sum(row)

    @remote
    async def score(self, row: list[float]) -> float:
        return sum(row)

    @staticmethod
    @remote
    def load(path: str) -> bytes:
        return path.encode()

    @remote
    @classmethod
    def named(cls, name: str) -> Model:
        return cls()

    @remote(cpu=2)
    @classmethod
    async def named_later(cls, name: str, size: int = 0) -> Model:
        return cls()


assert_type(streams.remote(1), Stream[str])
assert_type(streams_called.remote(1), Stream[float])
assert_type(streams_later.remote(1), Stream[bytes])
assert_type(streams.options(stream_ahead=2).remote(1), Stream[str])
assert_type(Model().rows.remote(1), Stream[int])
assert_type(Model.names.remote(1), Stream[str])
assert_type(next(streams.remote(1)), str)
assert_type(list(streams.remote(1)), list[str])
streams.remote("1")  # type: ignore[arg-type]


async def take() -> None:
    assert_type([value async for value in streams_later.remote(1)], list[bytes])


assert_type(bare(1, scale=2.0), str)
assert_type(bare.local(1), str)
assert_type(bare.remote(1), Call[str])
assert_type(bare.remote(1).result(), str)
assert_type(called.remote(1).result(timeout=3), list[int])
assert_type(called.options(memory=("1Gi", "8Gi"), detach=True).remote(2).result(), list[int])
assert_type(waits.remote(1).result(), float)
assert_type(waits_called.remote(1).result(), float)
assert_type(Model().predict.remote([1.0]).result(), float)
assert_type(Model().predict([1.0]), float)
assert_type(Model.load.remote("x").result(), bytes)
assert_type(Model.named.remote("x").result(), Model)
assert_type(Model().named.remote("x").result(), Model)
assert_type(Model.named("x"), Model)
assert_type(Model.named.map(["x", "y"]).result(), list[Model])
assert_type(Model.named_later.remote("x", size=2).result(), Model)
assert_type(Model.named_later.options(retries=1).remote("x").result(), Model)
assert_type(Model().score.remote([1.0]).result(), float)
assert_type(Model().score.map([[1.0]]), MapCall[float])


async def called_here() -> None:
    """An ``async def`` gives its coroutine where it is called as a function."""
    assert_type(await waits(1), float)
    assert_type(await waits.local(1), float)
    assert_type(await waits_called.options(retries=1)(1), float)
    assert_type(await Model().score([1.0]), float)
    assert_type(await asyncio.gather(waits(1), waits(2)), tuple[float, float])


assert_type(bare.remote(1).logs(), str)


@remote
def two(a: int, b: str = "") -> float:
    return float(a) + len(b)


assert_type(bare.map([1, 2]), MapCall[str])
assert_type(bare.map(range(3), kwargs={"scale": 2.0}, chunksize=10, max_parallelism=3), MapCall[str])
assert_type(bare.map([1], return_exceptions=True), MapCall[str | BaseException])
assert_type(bare.map([1], fail_fast=True), MapCall[str])
assert_type(two.starmap([(1, "a")], fail_fast=True, return_exceptions=True), MapCall[float | BaseException])
assert_type(two.map([1, 2], ["a", "b"]), MapCall[float])
assert_type(two.map(n for n in range(3)), MapCall[float])
assert_type(two.starmap([(1, "a"), (2, "b")]), MapCall[float])
assert_type(waits.map([1]), MapCall[float])
assert_type(Model().predict.map([[1.0], [2.0]]), MapCall[float])
assert_type(Model.load.map(["x"]).result(), list[bytes])
assert_type(list(bare.map([1])), list[str])
assert_type(list(two.map([1]).as_completed()), list[tuple[int, float]])
assert_type(bare.map([1]).calls[0], Call[str])
assert_type(bare.map([1]).retry_failed(), MapCall[str])
assert_type(bare.map([1]).progress.failed, int)


async def in_a_loop() -> None:
    assert_type([each async for each in bare.map([1])], list[str])
    assert_type(await bare.map([1]), list[str])
    assert_type(await bare.remote(1), str)
    assert_type(await asyncio.wrap_future(bare.remote(1)), str)


def takes_a_future(future: concurrent.futures.Future[str]) -> None: ...


def takes_a_remote_function(function: RemoteFunction[[int], list[int]]) -> None: ...


executor = kubefunc.Executor(2, memory="1Gi", initializer=print, initargs=("ready",))
assert_type(executor.submit(pow, 2, 3), concurrent.futures.Future[int])
assert_type(list(executor.map(str, [1], timeout=3, chunksize=1)), list[str])

takes_a_future(bare.remote(1))
takes_a_remote_function(called)
kubefunc.configure(backend="local", image="python:3.12-slim", timeout=10)
kubefunc.attach("bare-abcdefgh").result()
kubefunc.attach_map("bare-abcdefgh").result()

# -- refused

waits(1) + 1.0  # type: ignore[operator]
Model.named.remote(1)  # type: ignore[arg-type]
Model.named.remote()  # type: ignore[call-arg]
Model.named_later.remote("x", "y")  # type: ignore[arg-type]

bare("1")  # type: ignore[arg-type]
bare.remote("1")  # type: ignore[arg-type]
bare.remote(1, factor=2)  # type: ignore[call-arg]
bare.remote()  # type: ignore[call-arg]
called.remote(1, 2)  # type: ignore[call-arg]
Model().predict.remote("row")  # type: ignore[arg-type]
called.options(memmory="1Gi")  # type: ignore[call-arg]
called.options(retries="3")  # type: ignore[arg-type]
kubefunc.configure(backend="docker")  # type: ignore[arg-type]
remote(cpus=2)  # type: ignore[call-overload]
takes_a_future(called.remote(1))  # type: ignore[arg-type]
kubefunc.attach(7)  # type: ignore[arg-type]
bare.map(["1"])  # type: ignore[list-item]
bare.map(1)  # type: ignore[call-overload]
bare.map()  # type: ignore[call-overload]
bare.map([1], [2])  # type: ignore[call-overload]
bare.map([1], chunk=3)  # type: ignore[call-overload]
bare.map([1], chunksize="3")  # type: ignore[call-overload]
two.map([1], [2])  # type: ignore[list-item]
two.starmap([(1, 2)])  # type: ignore[list-item]
two.starmap([1])  # type: ignore[list-item]
Model().predict.map([1.0])  # type: ignore[list-item]
len(kubefunc.attach_map(7))  # type: ignore[arg-type]
kubefunc.Executor(memmory="1Gi")  # type: ignore[call-arg]
kubefunc.Executor("2")  # type: ignore[arg-type]
executor.submit(len, 3)  # type: ignore[arg-type]
