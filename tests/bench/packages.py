"""What packages add to a call: sent from this machine, and installed in the Pod, against an image that has them."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kubefunc import remote
from kubefunc.packing.packages import sync
from kubefunc.sizes import size_text
from tests.bench.figures import Figure, spread
from tests.bench.on_cluster import Ground
from tests.bench.work import measured
from tests.cluster.conftest import fresh_session
from tests.cluster.images import image_with
from tests.cluster.sandbox import listen_inside
from tests.cluster.wheels import real_wheels
from tests.wheels import served

NAMES = ("numpy", "pandas", "scikit-learn")
WITHIN = 300.0
ROUNDS = 3
PODS = 4
PYTHON = "3.11"


def sizes(ground: Ground) -> Iterator[Figure]:
    """What is sent to each Pod, and what packing it takes once."""
    del ground
    modules = ["numpy", "pandas", "sklearn"]
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        wanted = sync.plan(modules, Path(directory))
        took = time.perf_counter() - began
    if wanted.sent is None:
        raise RuntimeError("nothing is sent")
    words = f"{size_text(wanted.sent.size)} of {size_text(sync.on_disk(modules))} on disk, packed once in {took:.1f} s"
    yield Figure(f"`sync` of {', '.join(NAMES)}: sent to each Pod", words)


def seconds(ground: Ground) -> Iterator[Figure]:
    """A call whose function imports them; the ways in turn."""
    listening = listen_inside(ground.cluster.sandbox)
    with served(real_wheels(NAMES), listening=listening) as index, _calling(ground):
        there = {"image": _image(ground, "pip", *NAMES)}
        ways: Mapping[str, dict[str, Any]] = {
            '`packages="sync"`': {"packages": "sync"},
            **{
                f"{installer} in the Pod": {
                    "image": _image(ground, installer),
                    "packages": list(NAMES),
                    "package_index": index.url,
                }
                for installer in ("uv", "pip")
            },
        }
        for options in (there, *ways.values()):
            _seconds(options)
        for way, options in ways.items():
            mine, bare = [], []
            for _ in range(ROUNDS):
                bare.append(_seconds(there))
                mine.append(_seconds(options))
            added = statistics.median(mine) - statistics.median(bare)
            detail = f"{added:.1f} s (with them {spread(mine)}; the image {spread(bare)})"
            yield Figure(f"{way} against an image that has them, added to a call, median - median", detail)


def of_a_map(ground: Ground) -> Iterator[Figure]:
    """Several Pods at once, on one node."""
    with _calling(ground):
        function = remote(measured.fit).options(packages="sync", verbose=False)
        taken = [_timed(lambda: function.map(range(PODS), chunksize=1).result(WITHIN)) for _ in range(ROUNDS)]
    yield Figure(f'a map of {PODS} Pods with `packages="sync"`, from its start to its end', spread(taken))


def _image(ground: Ground, *names: str) -> str:
    image, archive = image_with(names, PYTHON)
    ground.cluster.import_image(archive)
    return image


def _seconds(options: Mapping[str, Any]) -> float:
    function = remote(measured.fit).options(**options, verbose=False)
    return _timed(lambda: function.remote(2).result(WITHIN))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextlib.contextmanager
def _calling(ground: Ground) -> Generator[None]:
    """This process calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(ground.space.kubeconfig))
        with fresh_session():
            yield


ROWS: Mapping[str, Callable[[Ground], Iterator[Figure]]] = {
    "packages-size": sizes,
    "packages-call": seconds,
    "packages-map": of_a_map,
}
