"""``@remote`` and the remote functions that it makes."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    cast,
    overload,
)

from kubefunc import current
from kubefunc.errors import ConfigurationError, NestedCallError
from kubefunc.options import Layer, parse_changes, shows_options
from kubefunc.packing.inputs import HowToMap, map_items, parse_how, starmap_items

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kubefunc.backends.base import Backend, Submission
    from kubefunc.handles.call import Call
    from kubefunc.handles.gang_call import GangCall
    from kubefunc.handles.map_call import MapCall
    from kubefunc.handles.map_items import MapItems
    from kubefunc.handles.stream import Stream
    from kubefunc.options import OptionChanges, Options
    from kubefunc.packing.payload import Packer
    from kubefunc.session import Session
    from kubefunc.stream_values import StreamValues

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")
Q = ParamSpec("Q")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


class MapOptions(TypedDict, total=False):
    """The keywords of ``map`` and ``starmap`` that do not change the type of their result."""

    kwargs: dict[str, Any] | None
    chunksize: int | None
    max_parallelism: int | None
    fail_fast: bool


class _Bound(functools.partial[Any]):
    """A method bound to a RemoteFunction, with the signature of the function inside it: notebooks show that one."""

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.args[0].function)

    @property
    def __self__(self) -> Any:
        return self.args[0]

    def __getattr__(self, name: str) -> Any:
        """Its name and all else are the method's."""
        return getattr(self.func, name)


class _TakesWhatTheFunctionTakes:
    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self._method
        bound = _Bound(self._method, instance)
        bound.__doc__ = self.__doc__
        return bound


def _takes_what_the_function_takes(method: F) -> F:
    return cast("F", _TakesWhatTheFunctionTakes(method))


class RemoteFunction(Generic[P, R]):
    """A function that ``f(...)`` runs here and ``f.remote(...)`` runs as a Job.

    Attributes:
        function: the function itself.
    """

    function: Callable[P, Any]
    _streams = False  # whether it is a generator function

    def __init__(self, function: Callable[P, Any], layer: Layer, name: str) -> None:
        self.function = function
        self._layer = layer
        self._name = name
        functools.update_wrapper(cast("Callable[P, Any]", self), function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, as without ``@remote``. An ``async def`` returns its coroutine."""
        __tracebackhide__ = True
        return cast("R", self.function(*args, **kwargs))

    @_takes_what_the_function_takes
    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here: the same as a plain call."""
        __tracebackhide__ = True
        return self(*args, **kwargs)

    @_takes_what_the_function_takes
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Start a call on the cluster, or on this machine if none is configured, and return at once.

        Returns:
            a :class:`kubefunc.Call`. Its ``.result()`` waits for the result. (In Modal, ``.remote()`` itself waits.)

        Raises:
            TypeError: the function does not take these arguments.
            SerializationError: the function or an argument cannot be pickled.
            ConfigurationError: an option is wrong, or the kubeconfig is broken.
        """
        __tracebackhide__ = True
        from kubefunc.packing.arguments import refuse_misfits

        _refuse_unbound(self)  # its class would be missed as an argument first
        refuse_misfits(f"{self._name}.remote()", self.function, args, kwargs)
        return start(self, args, kwargs)

    @_takes_what_the_function_takes
    def manifest(self, *args: P.args, **kwargs: P.kwargs) -> list[dict[str, Any]]:
        """Return the objects that ``.remote()`` would create with these arguments: Secrets, the Job, then Services.

        No cluster is asked, and none need be configured. Each time it is another call, with an id of its own. The
        Secrets hold code, arguments and the values of ``env`` as base64; arguments above 8 MiB are in none of the
        objects, since ``.remote()`` uploads them into the Pod.

        Raises:
            TypeError: the function does not take these arguments.
            SerializationError: the function or an argument cannot be pickled.
            ConfigurationError: an option is wrong, or the kubeconfig is broken.
        """
        __tracebackhide__ = True
        from kubefunc.choice import objects_of
        from kubefunc.packing.arguments import refuse_misfits
        from kubefunc.packing.payload import Packer
        from kubefunc.session import session

        _refuse_unbound(self)
        refuse_misfits(f"{self._name}.manifest()", self.function, args, kwargs)
        here = session()
        packer: Packer = here.kept.setdefault("manifest", Packer.for_cluster())  # it keeps the project, packed
        options = here.options(self._layer)
        if options.gang is None:
            return objects_of(_submission(self, options, packer, args, kwargs), here.id, os.environ)
        from kubefunc.handles.gang_attempts import as_sent

        return objects_of(as_sent(_gang_submission(self, options, packer, args, kwargs)), here.id, os.environ)

    # `self` is typed as the callable that it is: mypy takes the argument types from that, but not from
    # RemoteFunction[Concatenate[A, Q], R], where A would stay free and a wrong element pass.

    @overload
    def map(
        self: Callable[Concatenate[A, Q], Any],
        a: Iterable[A],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **how: Unpack[MapOptions],
    ) -> MapCall[R]: ...
    @overload
    def map(
        self: Callable[Concatenate[A, B, Q], Any],
        a: Iterable[A],
        b: Iterable[B],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **how: Unpack[MapOptions],
    ) -> MapCall[R]: ...
    @overload
    def map(
        self: Callable[Concatenate[A, B, C, Q], Any],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **how: Unpack[MapOptions],
    ) -> MapCall[R]: ...
    @overload
    def map(
        self: Callable[Concatenate[A, B, C, D, Q], Any],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        d: Iterable[D],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **how: Unpack[MapOptions],
    ) -> MapCall[R]: ...
    @overload
    def map(
        self: Callable[Concatenate[A, Q], Any],
        a: Iterable[A],
        /,
        *,
        return_exceptions: Literal[True],
        **how: Unpack[MapOptions],
    ) -> MapCall[R | BaseException]: ...
    @overload
    def map(
        self: Callable[Concatenate[A, B, Q], Any],
        a: Iterable[A],
        b: Iterable[B],
        /,
        *,
        return_exceptions: Literal[True],
        **how: Unpack[MapOptions],
    ) -> MapCall[R | BaseException]: ...
    @overload
    def map(
        self: Callable[Concatenate[A, B, C, Q], Any],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        /,
        *,
        return_exceptions: Literal[True],
        **how: Unpack[MapOptions],
    ) -> MapCall[R | BaseException]: ...
    @overload
    def map(
        self: Callable[Concatenate[A, B, C, D, Q], Any],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        d: Iterable[D],
        /,
        *,
        return_exceptions: Literal[True],
        **how: Unpack[MapOptions],
    ) -> MapCall[R | BaseException]: ...
    def map(
        self,
        *iterables: Any,
        kwargs: dict[str, Any] | None = None,
        chunksize: int | None = None,
        max_parallelism: int | None = None,
        return_exceptions: bool = False,
        fail_fast: bool = False,
    ) -> MapCall[Any]:
        """Call the function once for each item, all items in one Job, and return at once.

        The inputs end with the shortest iterable, as with the builtin ``map``. Generators are read to their end.

        Args:
            iterables: one for each positional argument.
            kwargs: keyword arguments that all items share. They are sent once.
            chunksize: how many items one Pod runs, one after another. Default: kubefunc decides, and moves items to
                further Pods if they are slow. Local: ignored, each process takes one item at a time.
            max_parallelism: how many Pods run at once, from the start. Default: few Pods, and more if items are slow,
                at most 500. Local: how many processes run at once. Default: one for each CPU.
            return_exceptions: return the exception of a failed item as its result, instead of raising it.
            fail_fast: cancel all other items when an item fails, after its retries. All who wait for a result get
                the exception of that item at once.

        Returns:
            a :class:`kubefunc.MapCall`. Iterating over it gives the results in order.

        Raises:
            TypeError: the function does not take these arguments.
            SerializationError: the function or an item cannot be pickled. The message names it: ``items[17].session``.
            ConfigurationError: an option or keyword is wrong, or the kubeconfig is broken.
        """
        __tracebackhide__ = True
        where = f"{self._name}.map()"
        how = parse_how(
            where,
            kwargs,
            chunksize=chunksize,
            max_parallelism=max_parallelism,
            return_exceptions=return_exceptions,
            fail_fast=fail_fast,
        )
        return self._start_many(where, map_items(where, iterables), how)

    @overload
    def starmap(
        self: Callable[Concatenate[A, Q], Any],
        items: Iterable[tuple[A]],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **how: Unpack[MapOptions],
    ) -> MapCall[R]: ...
    @overload
    def starmap(
        self: Callable[Concatenate[A, B, Q], Any],
        items: Iterable[tuple[A, B]],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **how: Unpack[MapOptions],
    ) -> MapCall[R]: ...
    @overload
    def starmap(
        self: Callable[Concatenate[A, B, C, Q], Any],
        items: Iterable[tuple[A, B, C]],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **how: Unpack[MapOptions],
    ) -> MapCall[R]: ...
    @overload
    def starmap(
        self: Callable[Concatenate[A, B, C, D, Q], Any],
        items: Iterable[tuple[A, B, C, D]],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **how: Unpack[MapOptions],
    ) -> MapCall[R]: ...
    @overload
    def starmap(
        self: Callable[Concatenate[A, Q], Any],
        items: Iterable[tuple[A]],
        /,
        *,
        return_exceptions: Literal[True],
        **how: Unpack[MapOptions],
    ) -> MapCall[R | BaseException]: ...
    @overload
    def starmap(
        self: Callable[Concatenate[A, B, Q], Any],
        items: Iterable[tuple[A, B]],
        /,
        *,
        return_exceptions: Literal[True],
        **how: Unpack[MapOptions],
    ) -> MapCall[R | BaseException]: ...
    @overload
    def starmap(
        self: Callable[Concatenate[A, B, C, Q], Any],
        items: Iterable[tuple[A, B, C]],
        /,
        *,
        return_exceptions: Literal[True],
        **how: Unpack[MapOptions],
    ) -> MapCall[R | BaseException]: ...
    @overload
    def starmap(
        self: Callable[Concatenate[A, B, C, D, Q], Any],
        items: Iterable[tuple[A, B, C, D]],
        /,
        *,
        return_exceptions: Literal[True],
        **how: Unpack[MapOptions],
    ) -> MapCall[R | BaseException]: ...
    def starmap(
        self,
        iterable: Any,
        /,
        *,
        kwargs: dict[str, Any] | None = None,
        chunksize: int | None = None,
        max_parallelism: int | None = None,
        return_exceptions: bool = False,
        fail_fast: bool = False,
    ) -> MapCall[Any]:
        """Do as :meth:`map` for items that are tuples of arguments: ``f.starmap([(1, 2), (3, 4)])``."""
        __tracebackhide__ = True
        where = f"{self._name}.starmap()"
        how = parse_how(
            where,
            kwargs,
            chunksize=chunksize,
            max_parallelism=max_parallelism,
            return_exceptions=return_exceptions,
            fail_fast=fail_fast,
        )
        return self._start_many(where, starmap_items(where, iterable), how)

    def _start_many(self, where: str, items: Iterable[tuple[Any, ...]], how: HowToMap) -> MapCall[Any]:
        __tracebackhide__ = True
        from kubefunc.packing.arguments import without_misfits  # not where the function only runs: in a Pod

        _refuse_unbound(self)
        return start_many(self, without_misfits(where, self.function, items, how.kwargs), how)

    @shows_options
    def options(self, **changes: Unpack[OptionChanges]) -> RemoteFunction[P, R]:
        """Return the function with other options. ``env``, labels and other mappings are merged by key.

        Raises:
            ConfigurationError: there is no such option, or its value is not accepted.
        """
        __tracebackhide__ = True
        return type(self)(self.function, _above(self._layer, parse_changes(".options()", **changes)), self._name)

    # First the class methods: mypy and pyright take them for functions whose first argument is the class. `misc`: a
    # callable that takes a class is not each RemoteFunction, which is the point.
    @overload
    def __get__(  # type: ignore[misc]
        self: Callable[Concatenate[type[S], Q], Any], instance: object, owner: type[S]
    ) -> RemoteFunction[Q, R]: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None) -> RemoteFunction[P, R]: ...
    @overload
    def __get__(
        self: RemoteFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None
    ) -> RemoteFunction[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> RemoteFunction[Any, R]:
        """Bound to an instance as a method is."""
        if instance is None:
            return self
        return type(self)(self.function.__get__(instance, owner), self._layer, self._name)

    def __reduce__(self) -> tuple[Any, ...]:
        """By name where another process can import it: then recursion and module state work there as here."""
        from kubefunc.importable import importable_reference

        reference = importable_reference(self)
        if reference is not None:
            return _imported, reference
        return type(self), (self.function, self._layer, self._name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__module__}.{getattr(self, '__qualname__', self._name)}>"


def _imported(module: str, qualname: str) -> Any:
    import importlib

    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found


class AsyncRemoteFunction(RemoteFunction[P, R]):
    """A remote ``async def``: a plain call returns a coroutine, ``.remote()`` a Call as for other functions."""

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            """Run it here: the coroutine."""
            ...

        def local(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            """The same as calling it."""
            ...

        def options(self, **changes: Unpack[OptionChanges]) -> AsyncRemoteFunction[P, R]:
            """The same function with other options."""
            ...

        @overload
        def __get__(  # type: ignore[misc]
            self: Callable[Concatenate[type[S], Q], Any], instance: object, owner: type[S]
        ) -> AsyncRemoteFunction[Q, R]: ...
        @overload
        def __get__(self, instance: None, owner: type | None = None) -> AsyncRemoteFunction[P, R]: ...
        @overload
        def __get__(
            self: AsyncRemoteFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None
        ) -> AsyncRemoteFunction[Q, R]: ...
        def __get__(  # pyright: ignore[reportIncompatibleMethodOverride] - pyright compares the first overload only
            self, instance: Any, owner: type | None = None
        ) -> AsyncRemoteFunction[Any, R]:
            """Bound to an instance."""
            ...


class StreamRemoteFunction(RemoteFunction[P, R]):
    """A remote generator function: a plain call returns the generator, ``.remote()`` a :class:`kubefunc.Stream`."""

    _streams = True

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Generator[R, Any, Any]:  # type: ignore[override]
            """Run it here: the generator."""
            ...

        def local(self, *args: P.args, **kwargs: P.kwargs) -> Generator[R, Any, Any]:  # type: ignore[override]
            """The same as calling it."""
            ...

        def remote(self, *args: P.args, **kwargs: P.kwargs) -> Stream[R]:  # type: ignore[override]
            """Start a call: iterate over what this returns."""
            ...

        def options(self, **changes: Unpack[OptionChanges]) -> StreamRemoteFunction[P, R]:
            """The same function with other options."""
            ...

        @overload
        def __get__(  # type: ignore[misc]
            self: Callable[Concatenate[type[S], Q], Any], instance: object, owner: type[S]
        ) -> StreamRemoteFunction[Q, R]: ...
        @overload
        def __get__(self, instance: None, owner: type | None = None) -> StreamRemoteFunction[P, R]: ...
        @overload
        def __get__(
            self: StreamRemoteFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None
        ) -> StreamRemoteFunction[Q, R]: ...
        def __get__(  # pyright: ignore[reportIncompatibleMethodOverride] - pyright compares the first overload only
            self, instance: Any, owner: type | None = None
        ) -> StreamRemoteFunction[Any, R]:
            """Bound to an instance."""
            ...


class RemoteClassMethod(Generic[P, R]):
    """``@remote`` above ``@classmethod``: each access binds the class and returns a :class:`RemoteFunction`."""

    def __init__(self, method: classmethod[Any, P, Any], layer: Layer, name: str) -> None:
        self._method = method
        self._layer = layer
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> RemoteFunction[P, R]:
        """Bound to the class that it was asked of."""
        method: Any = self._method.__get__(instance, owner)
        kind: Any = _kind(method)
        return cast("RemoteFunction[P, R]", kind(method, self._layer, self._name))


if TYPE_CHECKING:

    class StreamClassMethod(RemoteClassMethod[P, R]):
        """The same of a generator function. At run time there is no difference: the method tells what it is."""

        def __get__(self, instance: object, owner: type | None = None) -> StreamRemoteFunction[P, R]: ...


class Decorator(Protocol):
    """The decorator that ``@remote(...)`` returns. It takes a function, an ``async def`` or a generator function."""

    @overload
    def __call__(self, function: classmethod[Any, P, Coroutine[Any, Any, R]], /) -> RemoteClassMethod[P, R]: ...
    @overload
    def __call__(self, function: classmethod[Any, P, Iterator[R] | AsyncIterator[R]], /) -> StreamClassMethod[P, R]: ...
    @overload
    def __call__(self, function: classmethod[Any, P, R], /) -> RemoteClassMethod[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncRemoteFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Iterator[R] | AsyncIterator[R]], /) -> StreamRemoteFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> RemoteFunction[P, R]: ...


@overload
def remote(function: classmethod[Any, P, Coroutine[Any, Any, R]], /) -> RemoteClassMethod[P, R]: ...
@overload
def remote(function: classmethod[Any, P, Iterator[R] | AsyncIterator[R]], /) -> StreamClassMethod[P, R]: ...
@overload
def remote(function: classmethod[Any, P, R], /) -> RemoteClassMethod[P, R]: ...
@overload
def remote(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncRemoteFunction[P, R]: ...
@overload
def remote(function: Callable[P, Iterator[R] | AsyncIterator[R]], /) -> StreamRemoteFunction[P, R]: ...
@overload
def remote(function: Callable[P, R], /) -> RemoteFunction[P, R]: ...
@overload
def remote(**changes: Unpack[OptionChanges]) -> Decorator: ...
@shows_options
def remote(function: Any = None, /, **changes: Any) -> Any:
    """Let a function run on a cluster: ``@remote`` or ``@remote(cpu=2, ...)``.

    Works on functions, ``async def``, generator functions, methods (put it above ``@classmethod`` and below
    ``@staticmethod``), lambdas, partials and callable objects. Options: see :class:`kubefunc.Options`.

    >>> @remote
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double(4)
    8

    Raises:
        ConfigurationError: an option is unknown or wrong, or this is a class or not callable.
    """
    __tracebackhide__ = True
    layer = parse_changes("@remote", **changes)
    if function is None:
        return lambda decorated: _decorated(decorated, layer)
    return _decorated(function, layer)


def _decorated(function: Any, layer: Layer) -> RemoteFunction[..., Any] | RemoteClassMethod[..., Any]:
    __tracebackhide__ = True
    if isinstance(function, staticmethod):
        raise ConfigurationError("@remote on a staticmethod: put @staticmethod above @remote.")
    if isinstance(function, classmethod):
        inner = _decorated(function.__func__, layer)  # refuses what it would refuse there
        return RemoteClassMethod(function, layer, inner._name)
    if isinstance(function, (property, functools.cached_property)):
        raise ConfigurationError("@remote on a property: it cannot be called. Make it a method.")
    if inspect.isclass(function):
        raise ConfigurationError(
            f"@remote on the class {function.__name__}: decorate its methods, or a function that creates an instance."
        )
    if not callable(function):
        raise ConfigurationError(
            f"@remote takes a function, not {function!r}. Give options by name: @remote(cpu=2, ...)."
        )
    if isinstance(function, RemoteFunction):
        return type(function)(function.function, _above(function._layer, layer), function._name)
    return _kind(function)(function, layer, _name(function))


def _kind(function: Any) -> type[RemoteFunction[..., Any]]:
    if gives_a_generator(function):
        return StreamRemoteFunction
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    is_async = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__)
    return AsyncRemoteFunction if is_async else RemoteFunction


def gives_a_generator(function: Any) -> bool:
    """Whether calling it gives a generator: a function, a partial of one, or an object with such a ``__call__``."""
    inner = inspect.unwrap(getattr(function, "func", function))
    ways = (inner, inspect.unwrap(type(inner).__call__))
    return any(inspect.isgeneratorfunction(way) or inspect.isasyncgenfunction(way) for way in ways)


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name(function.func)
    name = getattr(function, "__name__", type(function).__name__)
    return "lambda" if name == "<lambda>" else str(name)


def _above(below: Layer, above: Layer) -> Layer:
    """Two layers of one decorator as one: what merges by key is merged."""
    merged: dict[str, object] = dict(below)
    for name, value in above.items():
        mine = merged.get(name)
        merged[name] = {**mine, **value} if isinstance(mine, dict) and isinstance(value, dict) else value
    return Layer(merged, {name: (above if name in above else below).source(name) for name in merged})


def start(function: RemoteFunction[Any, R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[R]:
    """Pack it now, in the caller's thread; send it in the background.

    Raises:
        NestedCallError: inside a call whose Pod has no credentials.
        SerializationError: the function or an argument cannot be pickled.
        ConfigurationError: an option is wrong, or the kubeconfig is broken.
    """
    __tracebackhide__ = True
    refuse_nested()
    from kubefunc.session import session

    if function._streams:
        return cast("Call[R]", start_stream(function, args, kwargs))
    options = session().options(function._layer)
    if options.gang is not None:
        return cast("Call[R]", start_gang(function, args, kwargs))
    return _prepared(function, options, args, kwargs)()


def prepare(function: RemoteFunction[Any, R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Call[R]]:
    """The first half of :func:`start`, with its errors: pack it now. What this gives is called once, to send it."""
    __tracebackhide__ = True
    refuse_nested()
    from kubefunc.session import session

    options = session().options(function._layer)
    if options.gang is not None:
        raise ConfigurationError(f"{function._name} has gang={options.gang}: an executor cannot start a gang.")
    if function._streams:
        raise ConfigurationError(
            f"{function._name} is a generator function: a task of an executor has one result. Iterate over "
            f"{function._name}.remote(...), or return a list."
        )
    return _prepared(function, options, args, kwargs)


def _prepared(
    function: RemoteFunction[Any, R], options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[], Call[R]]:
    __tracebackhide__ = True
    _refuse_unbound(function)
    from kubefunc.session import session

    here = session()
    backend = here.backend(options)
    submission = _submission(function, options, backend.packer, args, kwargs)
    return lambda: _sent(submission, backend, here)


def start_stream(function: RemoteFunction[Any, R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Stream[R]:
    """As :func:`start`, of a generator function.

    Raises:
        NestedCallError: inside a call whose Pod has no credentials.
        SerializationError: the function or an argument cannot be pickled.
        ConfigurationError: an option is wrong, or does not go together with a stream.
    """
    __tracebackhide__ = True
    from kubefunc.session import session

    here = session()
    options = here.options(function._layer)
    backend = here.backend(options)  # first: in a Pod without kubefunc it says that, and the rest is not there
    from kubefunc.handles.stream import Stream, refuse_misfits

    refuse_misfits(function._name, options)
    submission = _submission(function, options, backend.packer, args, kwargs)
    assert submission.values is not None
    return Stream(_sent(submission, backend, here), submission.values)


def _sent(submission: Submission, backend: Backend, here: Session) -> Call[Any]:
    """Give it to the backend, and begin to follow it."""
    from kubefunc.handles.call import Call
    from kubefunc.handles.publishing import Publication
    from kubefunc.outcomes.attempts import Attempts

    options = submission.options
    call: Call[Any] = Call(submission.call, submission.function, here)
    if options.verbose:
        call._output.show()
    call._volumes = options.volumes
    if options.publish is not None:
        call._publication = Publication(here, lambda _: options.publish)
    try:
        call._work = here.start(backend, submission, Attempts(call._outcomes, backend).view(submission))
    except BaseException:
        call._output.end()
        raise
    if call._publication is not None:
        call._publication.submitted(call._work)
        return call
    ended = call._outcomes.unread(0, call._load)
    if ended is not None:  # in this process, or it was quick: nobody has the call yet, so nobody need be told
        call._end(ended)
    return call


def _submission(
    function: RemoteFunction[Any, Any], options: Options, packer: Packer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Submission:
    """One call, packed and with an id."""
    __tracebackhide__ = True
    from kubefunc.backends.base import Submission
    from kubefunc.ids import KEY_SIZE, new_id

    payload = packer.pack(_target(function), args, kwargs, options.retry_exceptions)
    key = os.urandom(KEY_SIZE)
    call = new_id(function._name, key)
    return Submission(
        call=call,
        function=function._name,
        module=getattr(function.function, "__module__", None) or "",
        options=options,
        payload=payload,
        key=key,
        values=_values(call, key, options) if function._streams else None,
    )


def _values(call: str, key: bytes, options: Options) -> StreamValues:
    from kubefunc.stream_values import StreamValues  # most programs have no generator functions

    if not options.untrusted:
        return StreamValues(call, key, options.stream_ahead)
    from kubefunc.untrusted import marked

    return StreamValues(call, key, options.stream_ahead, marked)


def start_gang(function: RemoteFunction[Any, R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> GangCall[R]:
    """As :func:`start`, with ranks that start together.

    Raises:
        NestedCallError: inside a call whose Pod has no credentials.
        SerializationError: the function or an argument cannot be pickled.
        ConfigurationError: an option is wrong, or does not go together with ``gang``.
    """
    __tracebackhide__ = True
    refuse_nested()
    _refuse_unbound(function)
    from kubefunc.session import session

    here = session()
    options = here.options(function._layer)
    backend = here.backend(options)  # first: in a Pod without kubefunc it says that, and the rest is not there
    from kubefunc.handles import gang_attempts
    from kubefunc.handles.gang_call import GangCall

    submission = _gang_submission(function, options, backend.packer, args, kwargs)
    return GangCall(gang_attempts.start_gang(here, backend, submission), submission.count)


def _gang_submission(
    function: RemoteFunction[Any, Any], options: Options, packer: Packer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Submission:
    """A gang, packed and with an id."""
    __tracebackhide__ = True
    from kubefunc.handles.gang_attempts import refuse_misfits
    from kubefunc.handles.publishing import refuse_many

    refuse_misfits(options)
    refuse_many(f"{function._name}.remote() with gang={options.gang}", options.publish)
    size = options.gang or 1
    return _submission_of_many(function, options, packer, [args] * size, kwargs, chunksize=1, max_parallelism=size)


def start_many(function: RemoteFunction[Any, R], items: Iterable[tuple[Any, ...]], how: HowToMap) -> MapCall[R]:
    """As :func:`start`, for many items: the handle of :func:`start_items`."""
    __tracebackhide__ = True
    started = start_items(function, items, how)
    from kubefunc.handles.map_call import MapCall

    return MapCall(started)


def start_items(function: RemoteFunction[Any, R], items: Iterable[tuple[Any, ...]], how: HowToMap) -> MapItems[R]:
    """Pack many items and send them.

    Raises:
        NestedCallError: inside a call whose Pod has no credentials.
        SerializationError: the function or an item cannot be pickled.
        ConfigurationError: an option is wrong, or the kubeconfig is broken.
    """
    __tracebackhide__ = True
    refuse_nested()
    from kubefunc.session import session

    here = session()
    options = here.options(function._layer)
    backend = here.backend(options)
    from kubefunc.handles import map_items
    from kubefunc.handles.publishing import refuse_many

    refuse_many(f"{function._name}.map()", options.publish)
    if function._streams:
        raise ConfigurationError(
            f"{function._name}.map(): {function._name} is a generator function, and an item of a map has one result. "
            f"Make a call for each item: [{function._name}.remote(item) for item in items], or return a list."
        )
    if options.gang is not None:
        raise ConfigurationError(
            f"{function._name}.map() with gang={options.gang}: each item would be a gang. Make a call for each: "
            "[f.remote(item) for item in items]."
        )
    submission = _submission_of_many(
        function,
        options,
        backend.packer,
        items,
        how.kwargs,
        chunksize=_chunksize(how, options),
        max_parallelism=how.max_parallelism,
    )
    return map_items.start_items(
        here, backend, submission, return_exceptions=how.return_exceptions, fail_fast=how.fail_fast
    )


def _submission_of_many(
    function: RemoteFunction[Any, Any],
    options: Options,
    packer: Packer,
    items: Iterable[tuple[Any, ...]],
    kwargs: dict[str, Any],
    *,
    chunksize: int | None,
    max_parallelism: int | None,
) -> Submission:
    """Many items, packed and with an id."""
    __tracebackhide__ = True
    from kubefunc.backends.base import Submission
    from kubefunc.ids import KEY_SIZE, new_id

    payload, packed = packer.pack_map(_target(function), items, kwargs, options.retry_exceptions)
    key = os.urandom(KEY_SIZE)
    return Submission(
        shape="map",
        call=new_id(function._name, key),
        function=function._name,
        module=getattr(function.function, "__module__", None) or "",
        options=options,
        payload=payload,
        items=dict(enumerate(packed)),
        count=len(packed),
        chunksize=chunksize,
        max_parallelism=max_parallelism,
        key=key,
    )


def _chunksize(how: HowToMap, options: Options) -> int | None:
    """How many items share a Pod. Those of a function that is not trusted share none: one could change another's."""
    if not options.untrusted:
        return how.chunksize
    if how.chunksize not in (None, 1):
        raise ConfigurationError(
            f"chunksize={how.chunksize} lets items share a process, and with untrusted=True each item has a Pod of "
            "its own: leave chunksize out."
        )
    return 1


def _target(function: RemoteFunction[Any, Any]) -> Any:
    """What travels: the RemoteFunction where another process can import it, else the function in it."""
    from kubefunc.importable import importable_reference

    return function if importable_reference(function) is not None else function.function


def _refuse_unbound(function: RemoteFunction[Any, Any]) -> None:
    """Since Python 3.13 a classmethod does not bind what it wraps: ``.remote`` would miss the class without a word.

    Raises:
        ConfigurationError: the function stands below ``@classmethod`` on such a Python.
    """
    path = str(getattr(function, "__qualname__", "")).split(".")
    if sys.version_info < (3, 13) or len(path) == 1:
        return
    owner: Any = sys.modules.get(function.__module__)
    for name in path[:-1]:
        owner = getattr(owner, name, None)
    member = vars(owner).get(path[-1]) if isinstance(owner, type) else None
    if isinstance(member, classmethod) and member.__func__ is function:
        raise ConfigurationError(
            f"{'.'.join(path)}: put @remote above @classmethod, not below it. Since Python 3.13 @classmethod no longer "
            "gives what stands below it the class."
        )


def refuse_nested() -> None:
    """Remote calls inside a remote call need credentials that the Pod does not have.

    Raises:
        NestedCallError: this code runs inside a call without ``service_account``.
    """
    if not current.may_call_on():
        raise NestedCallError(
            f"A remote call from inside the call {current.call_id()}: its Pod has no credentials for the cluster. "
            "Call the function directly, f(x), to run it in place; or give the outer call service_account=... with "
            "kubefunc's Role, so that it may start Jobs."
        )
