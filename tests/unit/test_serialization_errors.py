"""What cannot be pickled is told with its place, its type and the way out."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import dataclasses
import functools
import io
import itertools
import json
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import pytest

from kubefunc.errors import SerializationError
from kubefunc.packing.payload import Packer
from kubefunc.runner.execution.culprit import find_unpicklable


class Session:
    """Holds a lock, as clients of databases do."""

    def __init__(self) -> None:
        self.name = "s"
        self.lock = threading.Lock()


class Slotted:
    __slots__ = ("lock", "missing")

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Pair(NamedTuple):
    left: object
    right: object


@dataclasses.dataclass
class Config:
    session: object


class WithState:
    def __getstate__(self) -> dict[str, object]:
        return {"hidden": threading.Lock()}


class Refuses:
    def __reduce__(self) -> str:
        raise RuntimeError("never pickle me")


class SlyError(Exception):
    def __init__(self, lock: object) -> None:
        super().__init__("text", lock)


class Mapping(dict[str, object]):
    pass


@functools.cache
def cached() -> None:
    """Has a name that can be imported."""


def nothing(*args: object, **kwargs: object) -> None:
    """A function without any fault."""


def message(function: Callable[..., object], *args: object, **kwargs: object) -> str:
    """What the person reads."""
    with pytest.raises(SerializationError) as caught:
        Packer.for_cluster().pack(function, args, kwargs)
    assert caught.value.__cause__ is not None
    return str(caught.value)


def path(obj: object) -> str:
    """The path alone."""
    return find_unpicklable(obj, "x", cloudpickle.dumps)[0]


def script(source: str, **names: object) -> dict[str, Any]:
    """The globals of a script: its functions travel by value."""
    found: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__, **names}
    exec(source, found)
    return found


# --- the whole message ---


def test_the_message_says_where_what_and_what_to_do() -> None:
    """The function, the path to the culprit, its type, Python's own words and the way out."""
    text = message(nothing, 1, Config(Session()))
    assert text.startswith("nothing cannot be sent: args[1].session.lock is of type _thread.lock")
    assert "cannot pickle '_thread.lock' object" in text
    assert "Create it inside the function" in text


def test_the_first_failure_is_the_cause() -> None:
    """Python's own error, with its traceback, stays to be seen."""
    with pytest.raises(SerializationError) as caught:
        Packer.for_cluster().pack(nothing, [Refuses()])
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((1, Session()), {}, "args[1].lock is"),
        ((), {"conf": {"db": Session()}}, "kwargs['conf']['db'].lock is"),
        ((), {"s": Session()}, "kwargs['s'].lock is"),
    ],
)
def test_each_argument_is_named_as_it_was_passed(
    args: tuple[object, ...], kwargs: dict[str, object], expected: str
) -> None:
    """By position or by keyword."""
    assert expected in message(nothing, *args, **kwargs)


def test_a_call_is_not_an_argument() -> None:
    """Results are passed, not handles: the message says how."""

    class Call:
        __kubefunc_call__ = True

    text = message(nothing, [Call()])
    assert "args[0][0] is" in text
    assert "pass call.result()" in text


def test_a_future_is_not_an_argument() -> None:
    """The same for the standard library's."""
    done: concurrent.futures.Future[int] = concurrent.futures.Future()
    done.set_result(1)
    for future in (concurrent.futures.Future(), done):
        assert "pass call.result()" in message(nothing, {"later": future})


def test_a_call_among_the_globals_is_found() -> None:
    """A script that keeps a call in a variable and uses that variable in a function."""
    main = script("def f(): return call", call=concurrent.futures.Future())
    assert "global 'call' used by f is" in message(main["f"])


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda tmp: threading.Lock(), "inside the function"),
        (lambda tmp: threading.Event(), "inside the function"),
        (lambda tmp: (x for x in "ab"), "Pass a list"),
        (lambda tmp: (tmp / "f").open("wb"), "Pass its path"),
        (lambda tmp: socket.socket(), "inside the function"),
        (lambda tmp: asyncio.new_event_loop(), "inside the function"),
    ],
)
def test_the_way_out_fits_the_culprit(make: Callable[[Path], Any], advice: str, tmp_path: Path) -> None:
    """A lock, a generator, a file and a connection each have their own."""
    culprit = make(tmp_path)
    try:
        assert advice in message(nothing, culprit)
    finally:
        culprit.close() if hasattr(culprit, "close") else None


def test_exceptions_to_retry_are_checked_as_well() -> None:
    """They travel too."""

    class Bad(Exception):
        lock = threading.Lock()

    with pytest.raises(SerializationError, match=r"Bad\.lock"):
        Packer.for_cluster().pack(nothing, [], {}, [Bad])


def test_too_deep_a_structure_is_not_blamed_on_a_part() -> None:
    """Each part of it would pickle."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    text = message(nothing, deep)
    assert "args[0] is of type list" in text
    assert "nested too deeply" in text
    while deep:  # unnest it, so that freeing it does not recurse either
        deep = deep.pop()  # type: ignore[assignment]


# --- functions ---


def test_a_closure_variable_is_named() -> None:
    """With the function that holds it, and the way further down."""
    lock, session = threading.Lock(), Session()

    def f() -> object:
        return lock

    def g() -> object:
        return session

    assert "closure variable 'lock' of function f is" in message(f)
    assert "session.lock (closure variable 'session' of function g) is" in message(g)
    assert "closure variable 'lock' of function f in args[0] is" in message(nothing, f)


def test_a_global_is_named() -> None:
    """Of the function itself, of an inner function, or of a helper that it calls."""
    main = script(
        "def f(): return X\ndef outer():\n    return lambda: X['db']\ndef caller(): return f()",
        X={"db": threading.Lock()},
    )
    assert "X['db'] (global 'X' used by f) is" in message(main["f"])
    assert "X['db'] (global 'X' used by outer) is" in message(main["outer"])
    assert "X['db'] (global 'X' used by f) is" in message(main["caller"])


def test_a_global_that_only_shares_its_name_with_an_attribute_is_innocent() -> None:
    """``obj.lock`` does not use the global ``lock``."""
    main = script("def f(): return obj.lock, bad", lock=threading.Lock(), obj=Session, bad=threading.Lock())
    assert "global 'bad' used by f" in message(main["f"])


def test_defaults_are_named() -> None:
    """Positional and keyword-only ones."""
    main = script("def f(a, b=L): pass\ndef g(*, k=L): pass", L=threading.Lock())
    assert "default of parameter 'b' of function f is" in message(main["f"])
    assert "default of parameter 'k' of function g is" in message(main["g"])


def test_other_callables_are_looked_into() -> None:
    """Partials, bound methods, callable objects and a function's own attributes."""

    class Worker:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def run(self) -> None: ...

        def __call__(self) -> None: ...

    def marked() -> None: ...

    marked.lock = threading.Lock()  # type: ignore[attr-defined]
    lock = threading.Lock()
    assert ".args[0] is" in message(functools.partial(nothing, lock))
    assert ".keywords['k'] is" in message(functools.partial(nothing, k=lock))
    assert ".__self__.lock is" in message(Worker().run)
    assert ".lock is" in message(Worker())
    assert "marked.lock (attribute of function marked)" in message(marked)


def test_a_class_by_value_is_looked_into() -> None:
    """Its attributes, its methods' variables, its bases."""
    lock = threading.Lock()

    class Base:
        shared = lock

    class Derived(Base):
        pass

    class Uses:
        def method(self) -> object:
            return lock

        @staticmethod
        def static() -> object:
            return lock

        @property
        def value(self) -> object:
            return lock

    assert "Base.shared is" in message(nothing, Derived)
    assert "Base.shared is" in message(nothing, Derived())
    assert "closure variable 'lock' of function method" in message(nothing, Uses)


# --- the finder ---


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda lock: lock, "x"),
        (lambda lock: [1, lock], "x[1]"),
        (lambda lock: ({"a": [lock]},), "x[0]['a'][0]"),
        (lambda lock: Pair(1, lock), "x.right"),
        (lambda lock: Config(lock), "x.session"),
        (lambda lock: Session(), "x.lock"),
        (lambda lock: Slotted(), "x.lock"),
        (lambda lock: WithState(), "x.__getstate__()['hidden']"),
        (lambda lock: Refuses(), "x"),
        (lambda lock: SlyError(lock), "x.args[1]"),
        (lambda lock: Mapping(a=lock), "x['a']"),
        (lambda lock: collections.deque([0, lock]), "x[1]"),
        (lambda lock: collections.OrderedDict(a=lock), "x['a']"),
        (lambda lock: collections.defaultdict(Session, a=lock), "x['a']"),
        (lambda lock: {(1, lock): 2}, f"key {'{}'} of x[1]"),
        (lambda lock: {lock}, "element {} of x"),
        (lambda lock: [0] * 10_000 + [lock] + [0] * 10_000, "x[10000]"),
        (lambda lock: {str(index): lock if index == 777 else [] for index in range(1000)}, "x['777']"),
    ],
)
def test_the_path_leads_to_the_culprit(make: Callable[[object], object], expected: str) -> None:
    """Through containers, attributes, slots, state and constructor arguments, into large ones too."""
    lock = threading.Lock()
    obj = make(lock)
    found = path(obj)
    if "{}" not in expected:
        assert found == expected
        return
    assert found.startswith(expected.partition("{}")[0])
    assert "lock" in found


def test_circles_end() -> None:
    """An object that holds itself beside the culprit."""
    session = Session()
    session.__dict__ = {"me": [session], "lock": threading.Lock()}
    assert path({"s": session}) == "x['s'].lock"


def test_a_culprit_comes_with_its_own_error() -> None:
    """Which may be another one than that of the whole."""
    lock = threading.Lock()
    found = find_unpicklable([lock], "result", pickle.dumps)
    assert found[0] == "result[0]"
    assert found[1] is lock
    assert isinstance(found[2], TypeError)


def test_what_pickles_has_no_culprit() -> None:
    """Asking for one is a mistake of the caller's."""
    with pytest.raises(ValueError, match="result does pickle"):
        find_unpicklable([1], "result", pickle.dumps)


def test_the_search_ends_in_time() -> None:
    """What was found by then is the answer: here the clock runs out at the second level."""
    ticks = itertools.count()
    nested: object = threading.Lock()
    for _ in range(50):
        nested = [nested]
    found, _, _ = find_unpicklable(nested, "x", pickle.dumps, seconds=10, clock=lambda: next(ticks))
    assert found.startswith("x[0]")
    assert len(found) < len("x" + "[0]" * 20)


def test_a_broken_repr_does_not_hide_the_culprit() -> None:
    """Keys are shown by repr, which may raise."""

    class Key:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    assert path({Key(): threading.Lock()}) == "x[<Key>]"


def test_a_file_is_its_own_culprit(tmp_path: Path) -> None:
    """Not one of the parts of its buffer."""
    with (tmp_path / "f").open("wb") as file:
        found, culprit, _ = find_unpicklable({"f": file}, "x", cloudpickle.dumps)
    assert found == "x['f']"
    assert isinstance(culprit, io.IOBase)


def test_an_iterator_as_an_argument_is_named() -> None:
    """Generators are the most common of all."""

    def numbers() -> Iterator[int]:
        yield 1

    assert "args[0] is of type generator" in message(nothing, numbers())


# --- what only this program has a name for ---


def test_what_is_pickled_by_a_name_of_the_script_is_refused() -> None:
    """Its name would mean nothing in the Pod: told here, with the name and the way out."""
    main = script("class Named:\n    def __reduce__(self): return 'NAMED'\nNAMED = Named()\ndef f(): return NAMED")
    text = message(main["f"])
    assert "global 'NAMED' used by f is of type __main__.Named" in text
    assert "it is pickled by its name, 'NAMED' in __main__, which no other process can import" in text
    assert "Define it in a module of its own" in text


def test_a_name_that_can_be_imported_is_kept() -> None:
    """The other process has the very object."""
    assert Packer.for_cluster().pack(nothing, [json.JSONEncoder, cached])


def test_a_type_without_a_name_is_refused() -> None:
    """Those of C that no module names; one that has a name elsewhere travels by that."""
    assert Packer.for_cluster().pack(nothing, [type(threading.Lock()), type({}.keys()), type(iter([]))])
    callable_iterator = type(iter(int, 1))
    text = message(nothing, callable_iterator)
    assert "args[0] is the class callable_iterator" in text
    assert "it has no name in builtins by which another process could find it" in text


def test_a_cached_function_is_looked_into() -> None:
    """The culprit is what the function inside uses."""
    main = script(
        "import functools, threading\nLOCK = threading.Lock()\n@functools.cache\ndef f(): return LOCK",
    )
    assert "global 'LOCK' used by f" in message(main["f"])


def test_an_open_text_file_is_refused(tmp_path: Path) -> None:
    """To read or to write: what it holds is not sent in its place."""
    (tmp_path / "f").write_text("content")
    for mode in ("r", "w"):
        with (tmp_path / "f").open(mode) as file:
            assert "Pass its path, and open it inside the function." in message(nothing, file)
