"""A fresh session on this machine for a module's tests, by each of the two ways to start processes."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kubefunc.backends.local
import kubefunc.session
from kubefunc import File
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.local.backend import LocalBackend
from kubefunc.backends.local.oneshot import OneShots
from tests.local.api_server import Server, config_of
from tests.local.warm import WarmClient, WarmWorker


def ways_here() -> list[str]:
    """``fork`` as on Linux and macOS, ``oneshot`` as on Windows; both can be had where there is fork."""
    return ["fork", "oneshot"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    key = path.with_suffix(".key")
    subprocess.run(
        ["openssl", *command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", path],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + key.read_text())
    return path


@pytest.fixture(scope="module", params=ways_here())
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """How calls get their processes; what is left of other tests' session is put away first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubefunc.session, "_session", None)
        if request.param == "oneshot":
            patch.setattr(
                kubefunc.backends.local,
                "local_backend",
                lambda: LocalBackend(Path(tempfile.mkdtemp(prefix="kubefunc-")), OneShots),
            )
        yield request.param
        kubefunc.session.session().close()


@pytest.fixture(scope="module")
def forked() -> Iterator[None]:
    """The same with fork alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubefunc.session, "_session", None)
        yield
        kubefunc.session.session().close()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[[Server], Api]]:
    """Makes an Api for a server."""
    apis = []

    def make(server: Server) -> Api:
        apis.append(Api(config_of(server.url, tmp_path, token="secret")))
        return apis[-1]

    yield make
    for api in apis:
        api.close()


@pytest.fixture
def api(server: Server, connect: Callable[[Server], Api]) -> Api:
    """The way to the server of the module's tests."""
    return connect(server)


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A file in which a function notes what it has done."""
    return tmp_path / "marks"


@pytest.fixture
def data(tmp_path: Path) -> File:
    """A file of the caller's."""
    path = tmp_path / "data set.csv"
    path.write_text("1\n2\n3\n")
    return File(path)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[WarmClient]:
    """The client of a warm worker."""
    worker = WarmWorker(tmp_path)
    made = worker.attach()
    made.hello()
    made.welcome()
    yield made
    worker.stop()
