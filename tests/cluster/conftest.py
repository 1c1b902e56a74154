"""Where the cluster tests run, and what each test gets.

``cluster`` is, in this order: the one that ``KUBEFUNC_TEST_KUBECONFIG`` names, a hermetic one that lives as
long as this run of pytest (with ``-n`` all its processes share one), else every test is skipped, which ``CI=true``
turns into a failure.
``kube`` is a namespace of its own for each test, with a user of kubefunc's Role.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.cluster.cluster import Cluster, down, find_by_kubeconfig, up
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.needs import CannotRunHere
from tests.cluster.proxy import Proxy
from tests.cluster.spaces import Space, make_space, remove_space
from tests.cluster.waiting import nothing_left_but_failed

NO_CLUSTER = "no cluster to test on"


@dataclass(frozen=True)
class ClusterUnderTest:
    """``hermetic`` is None on a cluster that is not ours: what restarts or inspects the node needs ours."""

    admin: Kubectl
    hermetic: Cluster | None


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[ClusterUnderTest]:
    """The cluster that the tests of this run share."""
    shared = getattr(request.config, "workerinput", {}).get(SHARED)
    given = os.environ.get("KUBEFUNC_TEST_KUBECONFIG") or shared
    if given:
        yield _given_cluster(Path(given))
        return
    with contextlib.ExitStack() as stack:
        try:
            hermetic = stack.enter_context(cluster_of_this_process())
        except CannotRunHere as reason:
            skip_or_fail(f"{NO_CLUSTER}: {reason}")
        yield ClusterUnderTest(hermetic.admin, hermetic)


@contextlib.contextmanager
def cluster_of_this_process() -> Generator[Cluster]:
    """A hermetic cluster. When this process dies, however that happens, the kernel closes a pipe and the cluster ends.

    Raises:
        CannotRunHere: this machine lacks something.
    """
    reading_end, owner = os.pipe()
    try:
        hermetic = up(f"pytest-{os.getpid()}", reading_end)
        try:
            yield hermetic
        finally:
            down(hermetic)
    finally:
        os.close(reading_end)
        os.close(owner)


SHARED = "kubefunc_kubeconfig"
_CLUSTER = pytest.StashKey[contextlib.ExitStack]()
_KUBECONFIG = pytest.StashKey[str]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """With ``-n`` (pytest-xdist): the process that hands out the tests owns the cluster; the others are told of it."""
    config: pytest.Config = node.config
    if os.environ.get("KUBEFUNC_TEST_KUBECONFIG"):
        return
    if _CLUSTER not in config.stash:
        stack = config.stash[_CLUSTER] = contextlib.ExitStack()
        with contextlib.suppress(CannotRunHere):  # each test will find that out, and say it
            config.stash[_KUBECONFIG] = str(stack.enter_context(cluster_of_this_process()).kubeconfig)
    if _KUBECONFIG in config.stash:
        node.workerinput[SHARED] = config.stash[_KUBECONFIG]


def pytest_unconfigure(config: pytest.Config) -> None:
    """The shared cluster ends with the run."""
    if _CLUSTER in config.stash:
        config.stash[_CLUSTER].close()


@pytest.fixture
def hermetic(cluster: ClusterUnderTest) -> Cluster:
    """Our own cluster: for tests that restart the API server, read the audit log or load images."""
    if cluster.hermetic is None:
        skip_or_fail(f"{NO_CLUSTER} of our own: KUBEFUNC_TEST_KUBECONFIG names another")
    return cluster.hermetic


FAILED = pytest.StashKey[bool]()


@pytest.fixture
def kube(
    cluster: ClusterUnderTest, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Space]:
    """A namespace for this test and a user with exactly our Role: see Space.

    At its end, with failed calls discarded, it must hold no Job, Pod or Secret of ours.
    """
    space = make_space(cluster.admin, tmp_path_factory.mktemp("kube"))
    yield space
    try:
        if not request.node.stash.get(FAILED, False):  # a test that failed in the middle has not tidied up
            nothing_left_but_failed(space)
    finally:
        remove_space(space)


@pytest.fixture
def calling(kube: Space, monkeypatch: pytest.MonkeyPatch) -> Iterator[Space]:
    """``kube``, with this process as its caller: a session of its own, closed as at a program's end."""
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    with fresh_session():
        yield kube


@pytest.fixture
def proxy(kube: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy through which this process calls."""
    proxy = Proxy(kube.kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(proxy.kubeconfig(tmp_path / "proxied.kubeconfig")))
    try:
        with fresh_session():
            yield proxy
    finally:
        proxy.close()


@contextlib.contextmanager
def fresh_session() -> Generator[None]:
    """Calls made inside share nothing with those made before: the process's one session is another."""
    module = importlib.import_module("kubefunc.session")
    before, module._session = module._session, module.Session()
    try:
        yield
    finally:
        module._session.close()
        module._session = before


def _given_cluster(kubeconfig: Path) -> ClusterUnderTest:
    admin = Kubectl(kubeconfig)
    try:
        admin.run("get", "--raw", "/version")
    except KubectlError as error:
        pytest.fail(f"KUBEFUNC_TEST_KUBECONFIG={kubeconfig} does not answer: {error}", pytrace=False)
    return ClusterUnderTest(admin, find_by_kubeconfig(kubeconfig))


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test; where CI=true, a skip would hide that nothing was tested, so fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the namespace's Pods, events and logs to the report of a failed test."""
    report = yield
    if report.failed and call.when == "call":
        item.stash[FAILED] = True
    space = item.funcargs.get("kube") if isinstance(item, pytest.Function) else None
    if report.failed and call.when == "call" and isinstance(space, Space):
        report.sections.append((f"namespace {space.namespace}", space.report()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in the last lines that cluster tests did not run: a count of skips is too easily overlooked."""
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report, pytest.TestReport) and NO_CLUSTER in str(report.longrepr)
    ]
    if skipped:
        reason = str(skipped[0].longrepr).partition(NO_CLUSTER)[2].rstrip("')")
        message = f"{len(skipped)} cluster tests DID NOT RUN{reason}"
        terminalreporter.write_line(message, red=True, bold=True)
