"""For tests of programs that use kubefunc: run calls without a cluster, and make them fail.

::

    from kubefunc import errors, testing

    def test_it_survives_a_lost_pod():
        with testing.inline(), testing.fail(train, errors.PodLostError("the node is gone"), times=1):
            assert run_my_program() == 42

With pytest, ``pytest_plugins = ["kubefunc.testing.fixtures"]`` in ``conftest.py`` gives the fixtures ``kubefunc_local``
and ``kubefunc_inline``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from kubefunc.choice import BackendChoice, create_backend
from kubefunc.errors import ConfigurationError, KubefuncError
from kubefunc.function import RemoteFunction
from kubefunc.session import EXIT_TIMEOUT, session

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kubefunc.backends.base import Backend
    from kubefunc.options import OptionChanges, Options
    from kubefunc.testing.small_cluster import SmallCluster

__all__ = ["cluster", "fail", "inline", "local"]


@contextlib.contextmanager
def local(**options: Unpack[OptionChanges]) -> Generator[None]:
    """Inside, calls run on this machine, each in a process of its own, whatever cluster is configured.

    Args:
        **options: defaults for these calls, as for :func:`kubefunc.configure`. Nothing is shown unless
            ``verbose=True``.

    Raises:
        ConfigurationError: there is no such option, or its value is not accepted.
    """
    backend = create_backend(BackendChoice("local"), session().id)
    with _ending("local", backend), _on(backend, options):
        yield


@contextlib.contextmanager
def inline(**options: Unpack[OptionChanges]) -> Generator[None]:
    """Inside, calls run in this process: ``.remote()`` returns when the function has ended.

    A debugger, coverage and patched functions work there. Function, arguments and results are pickled as ever, and
    ``retries`` count; ``timeout``, ``memory`` and all else that needs a process or a Pod has no effect.

    >>> from kubefunc import remote
    >>> with inline():
    ...     remote(len).remote("abc").result()
    3

    Args:
        **options: defaults for these calls, as for :func:`kubefunc.configure`. Nothing is shown unless
            ``verbose=True``.

    Raises:
        ConfigurationError: there is no such option, or its value is not accepted.
    """
    from kubefunc.backends.inline import InlineBackend

    with _on(InlineBackend(), options):
        yield


@contextlib.contextmanager
def cluster(**options: Unpack[OptionChanges]) -> Generator[SmallCluster]:
    """Inside, calls run on a small cluster that lives in this process: as on Kubernetes, but their Pods are processes.

    Objects are created, watched and deleted through a real HTTP server, and results come back through it. What is
    given has the Jobs that were ``created``, the ``jobs``, ``pods`` and ``secrets`` that are there, and
    ``delete_pod(name)``. A Pod sees this machine's Python and files. There are no images, nodes, quotas, limits,
    Services or warm workers.

    Args:
        **options: defaults for these calls, as for :func:`kubefunc.configure`. Nothing is shown unless
            ``verbose=True``.

    Raises:
        ConfigurationError: there is no such option, or its value is not accepted.
    """
    from kubefunc.choice import choose_backend
    from kubefunc.testing.small_cluster import SmallCluster

    with SmallCluster() as started:
        choice = choose_backend("kubernetes", None, {"KUBECONFIG": str(started.kubeconfig)})
        backend = create_backend(choice, session().id)
        with _ending("cluster", backend), _on(backend, options):
            yield started


@contextlib.contextmanager
def fail(function: RemoteFunction[..., Any], error: BaseException, times: int = 1) -> Generator[None]:
    """Inside, the next calls of this function, or items of its maps, end with this error. Nothing runs for them.

    The error arrives as from the backend. So the client acts on it as ever: with ``memory=("1Gi", "4Gi")`` an
    ``OutOfMemoryError`` leads to a further attempt with more memory, and that one is the next of the ``times``.

    Args:
        function: what ``@remote`` made; others of the same name are meant too.
        error: an error of :mod:`kubefunc.errors`, or an exception that the function might raise.
        times: how many calls or items fail; those after them run.

    Raises:
        ConfigurationError: ``function`` is not remote, ``times`` is less than 1, or ``error`` is no exception.
    """
    from kubefunc.backends.failing import FailingBackend, Injection

    if not isinstance(function, RemoteFunction):
        raise ConfigurationError(f"testing.fail(): {function!r} is not remote: give what @remote has made of it.")
    injection = Injection.checked(function._name, error, times)

    def failing(choose: Callable[[Options], Backend], options: Options) -> Backend:
        return FailingBackend(choose(options), injection)

    with session().replacing(failing):
        yield


@contextlib.contextmanager
def _ending(name: str, backend: Backend) -> Generator[None]:
    """At the end cancel what was submitted inside and has not ended, so that nobody waits for it forever."""
    before = set(session().still_unfinished())
    try:
        yield
    finally:
        left = {call: each for call, each in session().still_unfinished().items() if call not in before}
        backend.close(list(left), EXIT_TIMEOUT)
        for call, each in left.items():
            why = f"The block of testing.{name}() ended before {call} did. Wait for its result inside the block."
            each.sink.fail(None, KubefuncError(why))


@contextlib.contextmanager
def _on(backend: Backend, options: OptionChanges) -> Generator[None]:
    """All calls on this backend, with these defaults."""
    from kubefunc.options import parse_changes

    quiet: OptionChanges = {"verbose": False, **options}
    layer = parse_changes("testing", **quiet)
    with session().replacing(lambda choose, options: backend), session().with_defaults(layer):
        yield
