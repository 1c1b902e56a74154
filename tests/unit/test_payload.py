"""How a function and its arguments become bytes, and what the other end makes of them."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import importlib
import json
import math
import operator
import os
import pickle
import re
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kubefunc.errors import SerializationError
from kubefunc.function import remote
from kubefunc.ids import commits_to, is_valid_id, new_id
from kubefunc.packing.payload import (
    Packer,
    Payload,
    compressed_if_it_pays,
    importable_reference,
    is_call,
    uncompressed,
)
from kubefunc.runner import PAYLOAD_MAGIC
from kubefunc.runner.protocol.spec import RunnerSpec
from kubefunc.runner.protocol.wire import split_files, split_payload

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
PROJECT = """
import threading
from kubefunc.errors import SerializationError
from kubefunc.function import remote

LOCK = threading.Lock()

class Model:
    def fit(self): return self
    @classmethod
    def made(cls): return cls()
    @remote
    @classmethod
    def remade(cls): return cls()
    @staticmethod
    def helper(x): return x
    @remote
    def train(self, x): return x

class Failed(Exception): pass

def plain(x): return LOCK, x

@remote(retries=1)
def decorated(x): return decorated

factory = lambda: plain
nested = (lambda: (lambda: LOCK))()
"""

KEY = b"k" * 32


def opened(payload: Payload) -> Any:
    """The call that the payload holds, as the runner sees it."""
    return pickle.loads(split_payload(payload.data)[1])


def reference(function: Callable[..., object]) -> Any:
    """How the function travels."""
    return opened(Packer.for_local().pack(function))[0]


def script(source: str) -> dict[str, Any]:
    """The globals of a script that a person has started: its functions are those of ``__main__``."""
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(source, names)
    return names


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """An imported module of the caller's own project."""
    (tmp_path / "travel_project.py").write_text(PROJECT)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield importlib.import_module("travel_project")
    del sys.modules["travel_project"]


# --- the format ---


def test_the_items_of_a_map_are_pickles_of_their_arguments() -> None:
    """What they share travels once; an item is a tuple, and pickled alone."""
    same = [1, 2]
    values = [(1, "a"), (2.5, None), (same, same), (lambda x: x + 1,)]
    payload, items = Packer.for_local().pack_map(math.pow, iter(values), {"base": 3}, (ValueError,))
    assert pickle.loads(split_payload(payload.data)[1]) == (
        ("import", "math", "pow"),
        (),
        {"base": 3},
        (ValueError,),
    )
    first, second, third, fourth = (pickle.loads(item) for item in items)
    assert (first, second, third) == ((1, "a"), (2.5, None), (same, same))
    assert third[0] is third[1]
    assert fourth[0](4) == 5


def test_the_modules_that_items_need_travel(project: types.ModuleType) -> None:
    """Not only those of the function."""
    payload, _ = Packer.for_cluster().pack_map(str, [(1,), (project.Model(),)])
    assert project.__name__ in payload.modules


def test_an_item_that_cannot_be_sent_is_named_by_its_index() -> None:
    """With the path to the culprit, and before anything is sent."""

    class Session:
        def __init__(self) -> None:
            self.lock = threading.Lock()

    rows: list[tuple[object, ...]] = [(n,) for n in range(17)]
    with pytest.raises(SerializationError, match=r"^str cannot be sent: items\[17\]\.lock is of type _thread\.lock"):
        Packer.for_local().pack_map(str, [*rows, (Session(),)])
    with pytest.raises(SerializationError, match=r"^pow cannot be sent: items\[17\]\[1\]\.lock is of type"):
        Packer.for_local().pack_map(math.pow, [*rows, (1, Session())])
    with pytest.raises(SerializationError, match=r"items\[0\] is .* pass call\.result\(\)"):
        Packer.for_local().pack_map(str, [(concurrent.futures.Future[int](),)])


@given(st.lists(VALUES, max_size=3), st.dictionaries(st.text(max_size=9), VALUES, max_size=2))
@example([0, b"x" * 300_000, "compressible"], {})
@example([os.urandom(300_000)], {})
@settings(deadline=None)
def test_arguments_come_back_equal(args: list[object], kwargs: dict[str, object]) -> None:
    """Whatever the values, and whether or not they are compressed."""
    for packer in (Packer.for_cluster(), Packer.for_local()):
        payload = packer.pack(json.dumps, args, kwargs, (ValueError,))
        assert opened(payload) == (("import", "json", "dumps"), tuple(args), kwargs, (ValueError,))
        assert payload.size == len(payload.data)


def test_the_layout_is_what_the_runner_documents() -> None:
    """Magic, length, a header in JSON with each section's stored size and digest, then the sections."""
    payload = Packer.for_local().pack(math.sqrt, [2])
    data = payload.data
    assert data[:4] == PAYLOAD_MAGIC == b"KFP1"
    length = int.from_bytes(data[4:8], "big")
    assert json.loads(data[8 : 8 + length]) == {
        "code": {"size": 0, "sha256": hashlib.sha256().hexdigest(), "compression": ""},
        "call": {
            "size": payload.call_size,
            "sha256": hashlib.sha256(data[8 + length :]).hexdigest(),
            "compression": "",
        },
    }
    assert len(data) == 8 + length + payload.code_size + payload.call_size


def test_the_sizes_of_the_parts_are_known(project: types.ModuleType) -> None:
    """Code and call are counted apart, so that a message can say which of them is large."""
    payload = Packer.for_cluster().pack(project.plain, [b"x" * 1000])
    assert payload.call_size > 1000 > payload.code_size > 0
    assert [path for path, _, _ in split_files(split_payload(payload.data)[0])] == [f"{project.__name__}.py"]


def test_only_what_shrinks_is_compressed() -> None:
    """Small data and random data are sent as they are: the time would be lost."""
    assert compressed_if_it_pays(b"x" * 1000) == (b"x" * 1000, "")
    noise = os.urandom(300_000)
    assert compressed_if_it_pays(noise) == (noise, "")
    text, how = compressed_if_it_pays(b"some text " * 40_000)
    assert (len(text) < 40_000, how) == (True, "zlib")
    assert uncompressed(b"some text " * 40_000)[1] == ""


# --- functions by name ---


def test_a_function_of_a_module_travels_by_name(project: types.ModuleType) -> None:
    """Its module's state (here a lock, which no pickle can hold) is made anew there by importing it."""
    assert reference(project.plain) == ("import", "travel_project", "plain")
    assert reference(project.Model.fit) == ("import", "travel_project", "Model.fit")
    assert reference(project.Model.helper) == ("import", "travel_project", "Model.helper")


def test_a_decorated_function_travels_by_name(project: types.ModuleType) -> None:
    """Its name means the RemoteFunction; the function inside, and copies with other options, are found as well."""
    assert reference(project.decorated) == ("import", "travel_project", "decorated")
    assert reference(project.decorated.function) == ("import", "travel_project", "decorated")
    copy = project.decorated.options(retries=3)
    assert importable_reference(copy) is None
    assert pickle.loads(pickle.dumps(project.decorated)) is project.decorated
    assert opened(Packer.for_local().pack(len, [copy]))[1][0].function is project.decorated.function


def test_a_method_travels_with_its_instance(project: types.ModuleType) -> None:
    """The instance is an argument like others; its class and function go by name."""
    model = project.Model()
    for method in (model.fit, model.train.function):
        kind, bound = reference(method)
        assert kind == "value"
        assert bound.__func__ is method.__func__
        assert type(bound.__self__) is project.Model
    kind, bound = reference(project.Model.made)
    assert (kind, bound) == ("value", project.Model.made)
    kind, bound = reference(project.Model.remade.function)
    assert (kind, bound) == ("value", project.Model.remade.function)


def test_the_modules_that_travel_are_named(project: types.ModuleType) -> None:
    """The function's own, and those of its arguments' and exceptions' classes."""
    packer = Packer.for_cluster()
    assert packer.pack(project.plain).modules == ("travel_project",)
    assert packer.pack(len, [project.Model()]).modules == ("travel_project",)
    assert packer.pack(len, [{"deep": [project]}]).modules == ("travel_project",)
    assert packer.pack(len, [], {}, (project.Failed,)).modules == ("travel_project",)
    assert packer.pack(project.decorated.options(cpu=1)).modules == ("travel_project",)
    assert packer.pack(len, [project.decorated]).modules == ("travel_project",)
    assert packer.pack(functools.partial(project.plain, 1)).modules == ("travel_project",)
    assert packer.pack(json.dumps, ["data"]).modules == ()


def test_locally_no_code_travels(project: types.ModuleType) -> None:
    """A process on this machine imports the very same files."""
    payload = Packer.for_local().pack(project.plain)
    assert (payload.modules, payload.code_size) == ((), 0)


# --- functions by value ---


def test_functions_without_an_importable_name_travel_by_value(project: types.ModuleType) -> None:
    """Lambdas, closures, partials and callable objects."""

    def closure() -> object:
        return project

    for function in (closure, lambda: 1, project.factory, functools.partial(len, []), operator.itemgetter(0)):
        assert reference(function)[0] == "value"
    assert reference(project.factory)[1]() is project.plain


def test_a_scripts_function_travels_by_value_with_what_it_uses() -> None:
    """Its helpers, its classes and itself: recursion works."""
    main = script("class C: pass\ndef half(n): return n // 2\ndef f(n): return C() if n == 0 else f(half(n))")
    kind, function = reference(main["f"])
    assert kind == "value"
    assert type(function(8)) is main["C"]


def test_a_function_that_travels_by_value_still_knows_its_file() -> None:
    """A traceback from elsewhere names the file and line here, also of a function inside the function."""
    main = script("def f():\n    def g(): pass\n    return g")
    function = reference(main["f"])[1]
    assert function.__code__.co_filename == function().__code__.co_filename == main["f"].__code__.co_filename


def test_a_scripts_decorated_function_can_refer_to_itself() -> None:
    """The RemoteFunction in the globals of its own function ends no pickling in a circle."""
    main = script("from kubefunc.function import remote\n@remote\ndef f(n): return f if n == 0 else f(n - 1)")
    function = reference(main["f"].function)[1]
    assert function(2)(1)(0)(3).__name__ == "f"


def test_a_class_of_a_script_is_the_same_class_when_it_comes_back() -> None:
    """Also if it travelled by value and was never seen there under any name."""
    main = script("class Result:\n    pass\ndef f(): return Result()")
    function = reference(main["f"])[1]
    assert type(function()) is main["Result"]


def test_a_scripts_imports_travel(project: types.ModuleType, tmp_path: Path) -> None:
    """What it imported at the top and uses, and what its function would import when it runs."""
    (tmp_path / "travel_lazy.py").write_text("raise RuntimeError('imported too early')")
    packer = Packer.for_cluster()
    main = script(
        "from travel_project import plain\nimport travel_project\n"
        "def by_object(): return plain\ndef by_module(): return travel_project.Model\n"
        "def lazily():\n    def inner():\n        import travel_lazy\n    return inner\ndef nothing(): pass"
    )
    assert packer.pack(main["by_object"]).modules == ("travel_project",)
    assert packer.pack(main["by_module"]).modules == ("travel_project",)
    assert packer.pack(main["lazily"]).modules == ("travel_lazy",)
    assert packer.pack(main["nothing"]).modules == ()


def test_what_a_module_made_in_memory_defines_travels_by_value() -> None:
    """Nobody else could import it, though it is in sys.modules."""
    module = types.ModuleType("made_here")
    exec("class C:\n    x = 1\ndef f(): return C().x", module.__dict__)
    sys.modules["made_here"] = module
    try:
        data = Packer.for_cluster().pack(module.f, [module.C]).data
    finally:
        del sys.modules["made_here"]
    (kind, function), (cls,), _, _ = pickle.loads(split_payload(data)[1])
    assert (kind, function(), cls.x) == ("value", 1, 1)


def test_a_function_whose_name_now_means_another_travels_by_value(project: types.ModuleType) -> None:
    """After a reload the old function is no longer what its name says: it goes itself, not the new one."""
    old = project.factory
    project.__dict__["plain_again"] = project.plain
    moved = types.FunctionType(project.plain.__code__, project.__dict__, "other")
    moved.__qualname__, moved.__module__ = "plain", "travel_project"
    assert importable_reference(moved) is None
    assert importable_reference(old) is None
    assert importable_reference(project.plain) == ("travel_project", "plain")


# --- calls, ids, the spec ---


def test_handles_are_recognised() -> None:
    """A Call by its mark, and every Future of the standard library."""

    class Call:
        __kubefunc_call__ = True

    assert is_call(Call())
    assert is_call(concurrent.futures.Future())
    assert not is_call(Call)
    assert not is_call(remote(len))


def test_a_running_thread_does_not_disturb_another() -> None:
    """One packer serves all threads of a program."""
    packer = Packer.for_cluster()
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(packer.pack(is_valid_id, [1]).data)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len(set(results)) == 1


def test_packing_again_takes_milliseconds(project: types.ModuleType, tmp_path: Path) -> None:
    """With 300 files of project code and 900 KB of arguments (`.remote()` promises to return at once).

    In CPU time of this thread, and against the first time: whatever else the machine has to do does not count.
    """
    package = tmp_path / "travel_large"
    package.mkdir()
    for index in range(300):
        (package / f"m{index}.py").write_text("import json\n" * 50)
    (package / "__init__.py").write_text("def f(x): return x")
    packer, function = Packer.for_cluster(), importlib.import_module("travel_large").f
    argument = os.urandom(900_000)
    times = []
    for _ in range(11):
        start = time.thread_time()
        packer.pack(function, [argument])
        times.append(time.thread_time() - start)
    first, *again = times
    assert min(again) < 0.02
    assert min(again) < first / 4


@given(st.text())
@example("train")
@example("<lambda>")
@example("a" * 100)
@example("0-")
@example("-" * 50)
@example("a" * 39 + "_b")
def test_every_name_gives_a_valid_id(name: str) -> None:
    """An id is a DNS label of at most 49 characters, whatever the function is called."""
    made = new_id(name, KEY)
    assert is_valid_id(made)
    assert len(made) <= 49
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", made)


def test_an_id_shows_the_functions_name() -> None:
    """So that a person finds it in kubectl's output; the rest tells apart two calls of the same function."""
    assert new_id("train_model", KEY).startswith("train-model-")
    assert new_id("Trainer.fit", KEY).startswith("trainer-fit-")
    assert new_id("2nd", KEY).startswith("call-2nd-")
    assert new_id("été", KEY).startswith("t-")
    assert new_id("函数", KEY).startswith("call-")
    assert len({new_id("f", os.urandom(32)) for _ in range(200)}) == 200


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_an_id_commits_to_its_key(key: bytes, other: bytes) -> None:
    """Whoever has the id can tell the call's own Job from one with another key, whatever that is called."""
    call = new_id("train", key)
    assert commits_to(call, key)
    assert commits_to(call, other) == (key == other)
    assert not commits_to(call, b"")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "train",
        "train-",
        "train-x7k2p5qa",
        "train-x7k2p9qax7k2p9qa",
        "Train-x7k2p5qax7k2p5qa",
        "a/b-x7k2p5qax7k2p5qa",
        "-x7k2p5qax7k2p5qa",
    ],
)
def test_what_is_no_id_is_told(text: str) -> None:
    """A name that could not be one of our Jobs never reaches a path or a selector."""
    assert not is_valid_id(text)


def test_the_spec_is_plain_json() -> None:
    """All that the runner must know, with the Python that the payload needs."""
    spec = RunnerSpec(call="f-x7k2p5qa", function="f", timeout=1.5, retries=2)
    assert RunnerSpec.read(spec.encoded()).as_json() == json.loads(json.dumps(spec.as_json()))
    assert spec.python == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert (spec.timeout, spec.retries, spec.protocol) == (1.5, 2, 1)
