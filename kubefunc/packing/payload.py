"""A function, its arguments and its code as bytes: what is sent for a call.

Layout (:func:`kubefunc.runner.protocol.wire.join_payload`): ``KFP1``, the header's length (4 bytes, big endian), the
header (JSON: stored size, sha256 and compression of each section), the section ``code`` (maybe empty) and the
section ``call``: a cloudpickle of ``(reference, args, kwargs, retry_exceptions)``, where the
reference is ``("import", module, qualname)`` or ``("value", callable)``.

Functions and classes of modules that another process can import travel by name, and the caller's own modules
travel with them (:mod:`kubefunc.packing.code`): so module state, recursion and the identity of classes are as they
are here. What is defined in ``__main__``, a notebook or another function travels by value.
"""

from __future__ import annotations

import functools
import io
import operator
import pickle
import sys
import types
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kubefunc.importable import function_of, goes_by_value, has_source, named
from kubefunc.importable import importable_reference as importable_reference
from kubefunc.packing.modules import imports_in_code, is_hidden
from kubefunc.packing.sent_files import FilesHere, FilesSent, SentFile
from kubefunc.runner.execution.pickling import (
    Pickler,
    is_single_dispatch,
    reduce_class,
    reduce_single_dispatch,
)
from kubefunc.runner.protocol.file import File, numbers_in, with_numbers
from kubefunc.runner.protocol.wire import join_payload

if TYPE_CHECKING:
    from kubefunc.packing.code import ProjectCode
    from kubefunc.packing.code_archive import CodeArchive
    from kubefunc.packing.modules import Unit
    from kubefunc.packing.packages.imports import Need
    from kubefunc.packing.project_files import Note

_COMPRESS_FROM = 256 * 1024  # bytes; below that the time is worth more than the room
_SAMPLE = 16 * 1024
_LOOKED_AT = 256 * 1024  # bytes of a pickle: reading a larger one for what it imports would take longer than it saves
_ITEMS_LOOKED_AT = 16
_NO_FILE = "<dynamic-code>"


Compress = Callable[[bytes], "tuple[bytes, str]"]
Files = FilesSent | FilesHere
Reducers = Mapping[type, Callable[[Any], "tuple[Any, ...]"]]


@dataclass(frozen=True)
class Payload:
    """What is sent for one call.

    Attributes:
        code: the caller's own packages and modules that travel in it.
        call: function and arguments, as stored.
        compression: how these are compressed; empty: not at all.
        joined: its bytes, of one that another program has packed.
        needs: finds out which modules of others the place where it runs must have.
        imported: finds out which modules it refers to, and which its code may import.
        files: those of the arguments that are sent beside it, by number.
        used_files: the numbers of those in it: those of a map's items are only in these.
    """

    code: CodeArchive = field(repr=False)
    call: bytes = field(repr=False)
    compression: str = ""
    joined: bytes | None = field(default=None, repr=False)
    needs: Callable[[], Sequence[Need]] = field(default=list, repr=False, compare=False)
    imported: Callable[[], frozenset[str]] = field(default=frozenset, repr=False, compare=False)
    files: Sequence[SentFile] = ()
    used_files: Sequence[int] = ()

    @functools.cached_property
    def data(self) -> bytes:
        """The bytes. Warm workers need none: they are sent the parts."""
        if self.joined is not None:
            return self.joined
        return join_payload(self.code.data, self.call, self.compression, self.code.digest)

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the packages and modules that travel in it."""
        return self.code.modules

    @property
    def notes(self) -> tuple[Note, ...]:
        """What the person should know of the project code in it."""
        return self.code.notes

    @property
    def code_size(self) -> int:
        """Bytes of project code in it, as stored."""
        return len(self.code.data)

    @property
    def call_size(self) -> int:
        """Bytes of function and arguments in it, as stored."""
        return len(self.call)

    @property
    def size(self) -> int:
        """All bytes of it."""
        return len(self.data)


class Packer:
    """Makes payloads. Keeps the project code that it has packed, so that the next call need not do it again.

    Safe to use from several threads at once.
    """

    def __init__(self, code: ProjectCode, compress: Compress, new_files: Callable[[], Files] = FilesHere) -> None:
        self._code = code
        self._compress = compress
        self._new_files = new_files

    @classmethod
    def for_cluster(cls) -> Packer:
        """For a machine without anything of the caller's: all project code travels, large calls shrink."""
        from kubefunc.packing.code import ProjectCode  # what only senders need is not in a Pod

        return cls(ProjectCode(), compressed_if_it_pays, FilesSent)

    @classmethod
    def for_local(cls) -> Packer:
        """For a process here with the same ``sys.path``: only code travels that it could not find there."""
        from kubefunc.packing.code import ProjectCode

        return cls(ProjectCode(is_hidden), uncompressed, FilesHere)

    def pack(
        self,
        function: Callable[..., object],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        retry_exceptions: Sequence[type[BaseException]] = (),
    ) -> Payload:
        """The payload of ``function(*args, **kwargs)``.

        Raises:
            SerializationError: a part cannot be pickled (the message has the path to it), a Call or another
                Future is among the arguments, or the project code is too large.
        """
        files = self._new_files()
        pickled, names = _pickle_call(function, tuple(args), dict(kwargs or {}), tuple(retry_exceptions), files)
        return self._payload(function, [pickled], names, files)

    def pack_map(
        self,
        function: Callable[..., object],
        items: Iterable[tuple[object, ...]],
        kwargs: Mapping[str, object] | None = None,
        retry_exceptions: Sequence[type[BaseException]] = (),
    ) -> tuple[Payload, list[bytes]]:
        """What all items of a map share (function, keyword arguments, code), and the pickle of each item's arguments.

        Raises:
            SerializationError: as :meth:`pack`; the message names the item: ``items[17].session.lock``.
        """
        __tracebackhide__ = True
        files = self._new_files()
        pickled, names = _pickle_call(function, (), dict(kwargs or {}), tuple(retry_exceptions), files)
        pickler = _ItemPickler(function, files)
        packed = list(map(pickler.dump, items))
        looked_at = [pickled, *packed[:_ITEMS_LOOKED_AT]]
        return self._payload(function, looked_at, names | pickler.names, files), packed

    def units(self, function: Callable[..., object]) -> tuple[Unit, ...]:
        """The caller's own packages and modules that travel with a function.

        Raises:
            SerializationError: the function cannot be pickled, or its code not be read.
        """
        return self._code.units(_pickle_call(function, (), {}, (), self._new_files())[1].all)

    def _payload(
        self, function: Callable[..., object], pickles: Sequence[bytes], names: _Names, files: Files
    ) -> Payload:
        """Of a function; what is unpickled first stands first."""
        code = self._code.collect(names.all)
        call, compression = self._compress(pickles[0])
        # Looked at later, and only if somebody asks: not all of them may stay in memory for that.
        small = [each for each in pickles if len(each) <= _LOOKED_AT]

        def needs() -> Sequence[Need]:
            from kubefunc.packing.packages.imports import needs_of

            return needs_of(function, names.function, small, code.graph)

        def imported() -> frozenset[str]:
            return frozenset(names.imported) if code.graph is None else code.graph.reached(names.imported)

        return Payload(
            code,
            call,
            compression,
            needs=needs,
            imported=imported,
            files=tuple(files.sent),
            used_files=numbers_in(pickles[0]),
        )


@dataclass(frozen=True)
class _Names:
    """The modules that a pickle has to do with.

    Attributes:
        imported: where it is unpickled or run.
        by_value: of functions that travel by value: their files travel, and nobody need import them.
        function: the one that the function itself is imported from, if it does not travel by value.
    """

    imported: frozenset[str]
    by_value: frozenset[str]
    function: str | None = None

    @property
    def all(self) -> frozenset[str]:
        return self.imported | self.by_value

    def __or__(self, other: _Names) -> _Names:
        return _Names(self.imported | other.imported, self.by_value | other.by_value, self.function or other.function)


def _pickle_call(
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
    retry_exceptions: tuple[type[BaseException], ...],
    files: Files,
) -> tuple[bytes, _Names]:
    """The section ``call`` of a payload, and the modules that it names."""
    reference = importable_reference(function)
    named: tuple[object, ...] = ("value", function) if reference is None else ("import", *reference)
    try:
        pickled, names = _pickle((named, args, kwargs, retry_exceptions), files=files)
    except Exception as error:  # anything: a class may raise what it likes from __reduce__
        parts = [(f"args[{index}]", value) for index, value in enumerate(args)]
        parts += [(f"kwargs[{key!r}]", value) for key, value in kwargs.items()]
        from kubefunc.packing.unpicklable import explained, title  # only failures pay for it

        parts += [("retry_exceptions", retry_exceptions), (f"function {title(function)}", function)]
        raise explained(function, parts, error, _plain_pickle) from error
    if reference is not None:
        names |= _Names(frozenset(reference[:1]), frozenset(), reference[0])
    return with_numbers(pickled, files.take_used()), names


def uncompressed(data: bytes) -> tuple[bytes, str]:
    """The data as they are."""
    return data, ""


def compressed_if_it_pays(data: bytes) -> tuple[bytes, str]:
    """The data compressed, if they are large and samples of them lose a quarter of their size or more."""
    if len(data) < _COMPRESS_FROM:
        return data, ""
    starts = (0, len(data) // 2, len(data) - _SAMPLE)
    sample = b"".join(data[start : start + _SAMPLE] for start in starts)
    if len(zlib.compress(sample, 1)) > 0.75 * len(sample):
        return data, ""
    return zlib.compress(data, 1), "zlib"


# --- how things are pickled ---


class _CallPassed(TypeError):
    """A Call or another Future was met while pickling."""

    def __init__(self, culprit: object) -> None:
        super().__init__("a handle of this process cannot be sent")
        self.culprit = culprit


class Nested(ABC):
    """An argument that is pickled in a way of its own: its pickle stands inside the payload's."""

    @abstractmethod
    def pickled(self) -> tuple[bytes, set[str]]:
        """Made with :func:`pickled`: what :func:`pickle.loads` makes of it takes this object's place."""


class _Pickler(Pickler):
    """The runner's pickler, which also notes the modules that the pickle will import."""

    def __init__(self, file: io.BytesIO, reducers: Reducers | None = None, files: Files | None = None) -> None:
        self._files = FilesHere() if files is None else files
        if reducers:  # before the pickler is made: it looks for them only then
            self.dispatch_table = {**Pickler.dispatch_table, **reducers}
        super().__init__(file)
        self.modules: set[str] = set()
        self.by_value: set[str] = set()  # modules of functions that travel by value

    @property
    def names(self) -> _Names:
        return _Names(frozenset(self.modules), frozenset(self.by_value))

    def reducer_override(self, obj: Any) -> Any:
        """Called for every object that is not of a simple builtin type."""
        if isinstance(obj, types.ModuleType):
            self.modules.add(obj.__name__)
            return NotImplemented
        if is_call(obj):
            raise _CallPassed(obj)
        if isinstance(obj, File):
            return self._files.reduce(obj)
        if isinstance(obj, Nested):
            data, modules = obj.pickled()
            self.modules |= modules
            return pickle.loads, (data,)
        module = getattr(obj, "__module__", None)
        if isinstance(obj, types.FunctionType):
            return self._reduce_function(obj, module)
        if isinstance(module, str):
            self.modules.add(module)
        if isinstance(obj, types.CodeType):
            return _reduce_code(obj)
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented and isinstance(obj, type) and not has_source(obj.__module__):
            return reduce_class(obj)  # of a module made in memory: no one else can follow its name
        return reduced

    def is_importable(self, module: str) -> bool:
        return has_source(module) and not goes_by_value(module)

    def _reduce_function(self, function: types.FunctionType, module: object) -> Any:
        by_name = self._function_by_name(function)
        names = self.modules if by_name is not None else self.by_value
        if isinstance(module, str):
            names.add(module)
        if by_name is not None:
            return by_name
        if is_single_dispatch(function):
            return reduce_single_dispatch(function)
        package = function.__globals__.get("__package__") or ""
        self.modules |= imports_in_code(function.__code__, str(package))
        return self._dynamic_function_reduce(function)

    def _function_by_name(self, function: types.FunctionType) -> Any:
        """How it is found in its module; None if it travels by value."""
        found = named(function)
        if found is function:
            return self._function_reduce(function)  # by name, or as register_pickle_by_value() says
        if found is not None and function_of(found) is function:
            return _by_path(function, "function")
        if isinstance(found, types.MethodType) and found.__func__ is function:
            return _by_path(function, "__func__")  # the function of a class method
        bound = None if found is None else function_of(found)
        if isinstance(bound, types.MethodType) and bound.__func__ is function:
            return _by_path(function, "function.__func__")  # the same with @remote above
        return None


def _by_path(function: types.FunctionType, attribute: str) -> tuple[object, ...]:
    """By name, for a function that something else stands for under its name: ``attrgetter(...)(module)``."""
    path = f"{function.__qualname__}.{attribute}"
    return operator.attrgetter(path), (sys.modules[function.__module__],)


def _reduce_code(code: types.CodeType) -> tuple[object, ...]:
    """With the name of its file, which cloudpickle leaves out: a traceback from there must say where it was here."""
    reduce: Callable[[types.CodeType], tuple[object, tuple[object, ...]]]
    # Loaded with cloudpickle. An import here would take a lock that a signal handler which pickles, too, cannot share
    # before Python 3.12.
    reduce = sys.modules["cloudpickle.cloudpickle"]._code_reduce
    make, parts = reduce(code)
    return make, tuple(code.co_filename if part == _NO_FILE else part for part in parts)


def pickled(obj: object, reducers: Reducers) -> tuple[bytes, set[str]]:
    """A pickle for inside another one, and the modules that it names.

    Args:
        obj: anything.
        reducers: for the types that are to be pickled in another way than theirs: as in ``copyreg.dispatch_table``.
    """
    data, names = _pickle(obj, reducers)
    return data, set(names.all)


def _pickle(obj: object, reducers: Reducers | None = None, files: Files | None = None) -> tuple[bytes, _Names]:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, reducers, files)
    pickler.dump(obj)
    return buffer.getvalue(), pickler.names


# Types whose instances hold nothing that cloudpickle would have to look at: C's pickle does them in half a microsecond.
def _plain_pickle(obj: object) -> bytes:
    return _pickle(obj)[0]


_SCALARS = frozenset({int, float, complex, bool, str, bytes, type(None)})


class _ItemPickler:
    """Pickles the arguments of one item after another, with one pickler: making one costs more than most items."""

    def __init__(self, function: Callable[..., object], files: Files) -> None:
        self._function = function
        self._files = files
        self._buffer = io.BytesIO()
        self._pickler = _Pickler(self._buffer, files=files)
        self._count = 0

    @property
    def names(self) -> _Names:
        return self._pickler.names

    def dump(self, args: tuple[object, ...]) -> bytes:
        index = self._count
        self._count += 1
        if all(type(value) in _SCALARS for value in args):
            return pickle.dumps(args, 5)
        self._buffer.seek(0)
        self._buffer.truncate()
        self._pickler.clear_memo()
        try:
            self._pickler.dump(args)
        except Exception as error:  # anything: a class may raise what it likes from __reduce__
            alone = len(args) == 1
            parts = [(f"items[{index}]" + ("" if alone else f"[{at}]"), value) for at, value in enumerate(args)]
            from kubefunc.packing.unpicklable import explained

            raise explained(self._function, parts, error, _plain_pickle) from error
        return with_numbers(self._buffer.getvalue(), self._files.take_used())


def is_call(obj: object) -> bool:
    """Whether the object is a handle of a computation: a Call, or any ``concurrent.futures.Future``."""
    return isinstance(obj, Future) or getattr(type(obj), "__kubefunc_call__", False) is True
