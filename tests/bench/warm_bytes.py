"""A large argument and a large result on a warm worker, against a stream that carries the same bytes both ways."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Generator, Iterator

from kubefunc import Pool, remote
from kubefunc.backends.kubernetes.api.exec import ExecStream
from tests.bench.figures import Figure, at_most, milliseconds
from tests.bench.on_cluster import Ground
from tests.bench.warm import WITHIN, calling, own_api, seconds_of
from tests.bench.work import measured

SIZE = 10_000_000
PIECE = 1 << 18  # bytes of one message
ROUNDS = 20

# Reads all of them, then writes all of them.
_BOTH_WAYS = f"""
import os
while True:
    data, left = [], {SIZE}
    while left:
        data.append(os.read(0, min(left, {PIECE})))
        left -= len(data[-1])
    for piece in data:
        while piece:
            piece = piece[os.write(1, piece):]
"""


def both_ways(ground: Ground) -> Iterator[Figure]:
    """Bytes that nothing can compress."""
    data = os.urandom(SIZE)
    with calling(ground), contextlib.ExitStack() as stack:
        mine: dict[bool, list[float]] = {}
        calls: dict[bool, Callable[[], object]] = {}
        pod = ""
        for fresh in (True, False):
            pool = stack.enter_context(Pool(max_workers=1, fresh=fresh, share=False))
            call = remote(pool=pool, verbose=False)(measured.same)
            first = call.remote(data)
            if first.result(WITHIN) != data:
                raise RuntimeError("other bytes came back")
            pod = first.stats.pod or ""
            mine[fresh], calls[fresh] = [], lambda call=call: call.remote(data).result(WITHIN)
        raw = stack.enter_context(_raw(ground.space.namespace, pod, data))
        theirs: list[float] = []
        for _ in range(ROUNDS):
            theirs.append(seconds_of(raw))
            for fresh, one in calls.items():
                mine[fresh].append(seconds_of(one))
    for fresh, took in mine.items():
        title = f"10 MB argument and result, fresh={fresh}, against a raw stream with the same bytes, median / median"
        ratio = statistics.median(took) / statistics.median(theirs)
        yield at_most(title, ratio, 1.2, " x", f"ours {milliseconds(took)}; raw {milliseconds(theirs)}")


@contextlib.contextmanager
def _raw(namespace: str, pod: str, data: bytes) -> Generator[Callable[[], None]]:
    """Sends these bytes to a program in that Pod, and reads as many."""
    view = memoryview(data)
    with (
        contextlib.closing(own_api()) as api,
        ExecStream(api, namespace, pod, ("python3", "-c", _BOTH_WAYS)) as stream,
    ):
        pieces = stream.stdout()

        def there_and_back() -> None:
            for start in range(0, len(view), PIECE):
                stream.send(view[start : start + PIECE])
            left = len(view)
            while left > 0:
                left -= len(next(pieces))

        there_and_back()
        yield there_and_back


ROWS = {"pool-10mb": both_ways}
