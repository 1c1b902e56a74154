"""A call's life: what it may be, what it prints, how it is cancelled, replaced and cleaned up."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import json
import logging
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import kubernetes
import pytest

import kubefunc
from kubefunc.errors import ConfigurationError, JobDeletedError, KubefuncError, NestedCallError, ResultLostError
from tests.cluster import work
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import fresh_session
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left, nothing_left_of_what_was_starting, until_running
from tests.conftest import ROOT, clean_environment

# -- what can be called


def test_functions_of_every_kind(calling: Space) -> None:
    """Plain, async, bound, static and class methods; a class of the caller's comes back as itself."""
    calls = [
        (work.double.remote(21), 42),
        (work.double_async.remote(21), 42),
        (work.Scale(3).times.remote(5), 15),
        (work.Scale.plus_one.remote(1), 2),
        (work.Scale.name.remote(), "Scale"),
    ]
    assert [call.result(60) for call, _ in calls] == [value for _, value in calls]
    assert type(work.read.remote(b"").result(60)) is work.Digest
    nothing_left(calling)


@pytest.mark.usefixtures("calling")
def test_a_call_is_a_future_and_awaitable() -> None:
    """The stdlib's ``as_completed``, ``wait`` and ``await`` work on it."""
    calls = [work.double.remote(number) for number in range(3)]
    assert {call.result() for call in concurrent.futures.as_completed(calls, timeout=60)} == {0, 2, 4}

    async def both() -> list[int]:
        return await asyncio.gather(work.double.remote(5)._wait(), asyncio.wrap_future(work.double.remote(6)))

    assert asyncio.run(both()) == [10, 12]


def test_a_project_in_src_layout_travels(kube: Space, tmp_path: Path) -> None:
    """Its modules, relative imports and package data are there in a bare image, and its exceptions are its own."""
    package = tmp_path / "src" / "weather"
    package.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'weather'\nversion = '1'\n")
    (package / "__init__.py").write_text("")
    (package / "stations.txt").write_text("north\nsouth\n")
    (package / "errors.py").write_text("class NoStation(Exception):\n    pass\n")
    (package / "report.py").write_text(
        "from importlib.resources import files\n"
        "from kubefunc import remote\n"
        "from .errors import NoStation\n"
        "@remote\n"
        "def station(number):\n"
        "    names = files(__package__).joinpath('stations.txt').read_text().split()\n"
        "    if number >= len(names):\n"
        "        raise NoStation(number)\n"
        "    return names[number]\n"
    )
    program = tmp_path / "main.py"
    program.write_text(
        "from weather.errors import NoStation\n"
        "from weather.report import station\n"
        "print(station.remote(1).result())\n"
        "try:\n"
        "    station.remote(7).result()\n"
        "except NoStation as error:\n"
        "    print('NoStation', error.args)\n"
    )
    environ = clean_environment(tmp_path) | {
        "KUBECONFIG": str(kube.kubeconfig),
        "PYTHONPATH": f"{ROOT}:{tmp_path / 'src'}",
    }
    done = subprocess.run(
        [sys.executable, str(program)], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines() == ["south", "NoStation (7,)"], done.stderr


def test_keys_and_foreign_files_of_a_project_stay_here(kube: Space, tmp_path: Path) -> None:
    """What does not travel is said once, however many calls there are, with how to send it all the same."""
    package = tmp_path / "project" / "shop"
    (package / "conf").mkdir(parents=True)
    (tmp_path / "project/pyproject.toml").write_text("")
    (tmp_path / "private.csv").write_text("1")
    (package / "__init__.py").write_text(
        "import os\n"
        "def files(number):\n"
        "    where = os.path.dirname(__file__)\n"
        "    return sorted(name for _, _, names in os.walk(where) for name in names if not name.endswith('.pyc'))\n"
    )
    for name in ("id_rsa", "kubeconfig", "prod.env", "ca.pem", "prices.txt"):
        (package / "conf" / name).write_text("x")
    (package / "conf" / "private.csv").symlink_to(tmp_path / "private.csv")
    (package / "large.bin").write_bytes(b"x" * 5_000_000)
    (tmp_path / "project/.kubefuncignore").write_text("!ca.pem\n")
    program = tmp_path / "project" / "main.py"
    program.write_text(
        "import kubefunc, shop\n"
        "files = kubefunc.remote(shop.files)\n"
        "print(files.remote(1).result(), files.remote(2).result(), files.map([1]).result(), sep='\\n')\n"
    )
    environ = clean_environment(tmp_path) | {"KUBECONFIG": str(kube.kubeconfig), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program)], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    there = ["__init__.py", "ca.pem", "large.bin", "prices.txt"]
    assert done.stdout.splitlines() == [str(there), str(there), str([there])], done.stderr
    for name in ("id_rsa", "kubeconfig", "prod.env", "conf/private.csv ->", "large.bin"):
        assert done.stderr.count(f"{name}\n" if "->" not in name else name) == 1, done.stderr
    assert "prices.txt\n" in done.stderr  # among the largest files
    assert f"into {tmp_path / 'project' / '.kubefuncignore'}" in done.stderr


@pytest.mark.usefixtures("calling")
def test_a_nested_call_is_refused() -> None:
    """Its Pod has no credentials: the error says what to do instead."""
    with pytest.raises(ConfigurationError, match="service_account"):
        work.call_on.remote(2).result(60)


@pytest.mark.usefixtures("calling")
def test_a_call_inside_a_call_needs_kubefunc_in_its_image() -> None:
    """The error says so: what makes calls does not travel."""
    calls = [
        work.call_on.options(service_account="caller").remote(2),
        work.attach_there.remote("double-x7k2p5qax7k2p5qa"),
    ]
    for call in calls:
        error = call.exception(60)
        assert isinstance(error, NestedCallError)
        assert "an image in which kubefunc is installed" in str(error)
        (note,) = error.__notes__  # which call it was, and no advice on missing packages
        assert note.startswith(f"In the call {call.id} (Pod ")


@pytest.mark.usefixtures("calling")
def test_a_module_that_imports_kubefuncs_names_loads_in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All public names, used or not, at the top of the module."""
    (tmp_path / "all_names.py").write_text(
        "import kubefunc\nfrom kubefunc import *\nfrom kubefunc import Call, Executor, attach, configure\n"
        "def f(x):\n    return [x, Executor.__name__, Call.__name__, attach.__name__]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    function = kubefunc.remote(importlib.import_module("all_names").f)
    assert function.remote(1).result(60) == [1, "Executor", "Call", "attach"]


@pytest.mark.usefixtures("calling")
def test_a_variable_that_only_the_caller_has_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that reads it while it loads: in a call and in a map."""
    monkeypatch.setenv("ONLY_HERE", "yes")
    (tmp_path / "reads_environ.py").write_text("import os\nWHERE = os.environ['ONLY_HERE']\ndef f(x): return WHERE\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = kubefunc.remote(importlib.import_module("reads_environ").f)
    errors = [function.remote(1).exception(60), *function.map([1], return_exceptions=True).result(60)]
    for error in errors:
        assert "KeyError: 'ONLY_HERE' (reads_environ.py, line 2)" in str(error)
        assert "env={'ONLY_HERE': ...}" in str(error)
    assert function.options(env={"ONLY_HERE": "there"}).remote(1).result(60) == "there"


def test_a_nested_call_with_a_service_account(calling: Space) -> None:
    """``service_account`` gives the Pod a token: the function calls on, with the cluster's own configuration.

    The image must have kubefunc; here this machine's own packages are mounted in place of one that has.
    """
    site = str(Path(kubernetes.__file__).parents[1])
    mounts = {"kubefunc": str(ROOT), "site-packages": site}
    template = {
        "spec": {
            "volumes": [{"name": name, "hostPath": {"path": path}} for name, path in mounts.items()],
            "containers": [
                {
                    "name": "main",
                    "env": [{"name": "PYTHONPATH", "value": "/opt/kubefunc:/opt/site-packages"}],
                    "volumeMounts": [{"name": name, "mountPath": f"/opt/{name}"} for name in mounts],
                }
            ],
        }
    }
    outer = work.call_on.options(service_account="caller", pod_template=template)
    assert outer.remote(4).result(60) == 8
    nothing_left(calling)


# -- output


def test_output_arrives_live(calling: Space, capsys: pytest.CaptureFixture[str]) -> None:
    """While the function still runs, on the caller's standard error, and afterwards from logs()."""
    call = work.print_and_wait.remote(6, 1.0)
    eventually(lambda: "line 1" in capsys.readouterr().err, 30, "live output")
    assert not call.done()
    assert call.result(60) == 6
    nothing_left(calling)
    assert call.logs() == "".join(f"line {number}\n" for number in range(6))


@pytest.mark.usefixtures("calling")
def test_output_of_several_calls_carries_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    """With more than one call running, each line says whose it is."""
    calls = [work.print_and_wait.remote(3, 1.0) for _ in range(2)]
    for call in calls:
        call.result(60)
    shown = capsys.readouterr().err
    for call in calls:
        assert f"[{call.id}] line 0\n" in shown


@pytest.mark.usefixtures("calling")
def test_silence_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    """``verbose=False`` shows nothing; logs() has it all the same."""
    call = work.double_loudly.options(verbose=False).remote(3)
    assert call.result(60) == 6
    assert "doubling" not in capsys.readouterr().err
    assert call.logs() == "doubling 3\n"


@pytest.mark.parametrize("pause", [0.0, 1.5])
@pytest.mark.usefixtures("calling")
def test_torn_characters_and_a_last_line_without_an_end(pause: float, capsys: pytest.CaptureFixture[str]) -> None:
    """A character cut in two arrives whole; bytes that are no UTF-8 are shown as such; the last line is not lost."""
    data = "süß".encode() + b"\xff" + "ü".encode()
    call = work.write_bytes.remote(data, pause)
    assert call.result(60) == len(data)
    assert call.logs() == data.decode("utf-8", "replace")
    assert data.decode("utf-8", "replace") + "\n" in capsys.readouterr().err


@pytest.mark.parametrize("size", [0, 1, 20_000, 3_000_000])
def test_all_that_was_printed_is_in_logs(size: int, calling: Space) -> None:
    """However much it was, after the Job is gone."""
    call = work.write_much.options(verbose=False).remote(size)
    assert call.result(60) == size
    nothing_left(calling)
    assert call.logs() == work.much(size)


# -- cancelling


def test_cancel_before_there_is_a_pod(calling: Space) -> None:
    """At once after .remote(): nothing was made, or it is taken back."""
    call = work.double_later.remote(1, 60)
    assert call.cancel()
    assert call.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        call.result()
    time.sleep(1)
    nothing_left_of_what_was_starting(calling)


def test_cancel_while_it_waits_for_a_node(calling: Space) -> None:
    """A call that no node has room for is cancelled like any other."""
    call = work.double.options(cpu=500).remote(1)
    eventually(lambda: bool(calling.admin.get("pods")), what="a Pod")
    assert call.cancel()
    nothing_left(calling)


def test_cancel_while_the_pod_starts(calling: Space) -> None:
    """Between the Pod's placing and the function's start."""
    call = work.double_later.remote(1, 60)
    eventually(lambda: bool(calling.admin.get("pods")), what="a Pod")
    assert call.cancel()
    nothing_left_of_what_was_starting(calling)


def test_cancel_while_it_runs(calling: Space) -> None:
    """The function is stopped; unlike the stdlib's Future, this one says yes."""
    call = work.double_later.remote(1, 60)
    until_running(call)
    assert call.cancel()
    assert not call.running()
    nothing_left(calling)


# -- what others do to it


def test_a_pod_deleted_while_running_is_replaced(calling: Space) -> None:
    """The Job puts another in its place, and the call has that one's result."""
    call = work.which_attempt_of_pod.remote()
    until_running(call)
    (first,) = [pod["metadata"]["name"] for pod in calling.admin.get("pods")]
    began = time.monotonic()
    calling.admin.run("delete", "pod", first, "--wait=false")
    second = call.result(60)
    print(f"from the deletion of the Pod to the result of another that works 4 s: {time.monotonic() - began:.1f} s")
    assert second.startswith(call.id)
    assert second != first
    nothing_left(calling)


@pytest.mark.parametrize(
    ("function", "how"),
    [
        (work.outlive_sigterm, ["--grace-period=2"]),
        (work.outlive_sigterm, ["--grace-period=0", "--force"]),
        (work.exit_at_sigterm, []),
    ],
    ids=["killed when its grace is over", "killed by force", "sys.exit() in a handler"],
)
@pytest.mark.parametrize("kind", ["call", "map"])
def test_a_function_that_does_not_just_end_at_sigterm_is_replaced(
    kind: str, function: Any, how: list[str], calling: Space
) -> None:
    """However a deleted Pod ends, another takes its place, and no retry is counted."""
    handle = function.options(retries=0).remote(4) if kind == "call" else function.options(retries=0).map([4])
    eventually(lambda: "ready" in _printed(calling), 40, "the function's first line")
    (pod,) = [pod["metadata"]["name"] for pod in calling.admin.get("pods")]
    calling.admin.run("delete", "pod", pod, "--wait=false", *how)
    assert handle.result(90) == (8 if kind == "call" else [8])
    nothing_left(calling)


def _printed(space: Space) -> str:
    pods = [pod["metadata"]["name"] for pod in space.admin.get("pods")]
    return "".join(space.admin.run("logs", pod, "-c", "main", "--ignore-errors") for pod in pods)


@pytest.mark.parametrize("how", [[], ["--grace-period=0", "--force"]], ids=["by hand", "by force"])
def test_a_pod_deleted_while_it_starts_is_replaced(how: list[str], calling: Space) -> None:
    """The function has not run yet, or only just; it has its result all the same."""
    call = work.double_later.options(retries=0).remote(4, 1)
    eventually(lambda: bool(calling.admin.get("pods")), what="a Pod")
    (pod,) = [pod["metadata"]["name"] for pod in calling.admin.get("pods")]
    calling.admin.run("delete", "pod", pod, "--wait=false", *how)
    assert call.result(90) == 8
    nothing_left(calling)


def test_a_job_deleted_by_someone_else(calling: Space) -> None:
    """The call ends with an error that says so."""
    call = work.double_later.remote(1, 60)
    until_running(call)
    calling.admin.run("delete", "job", call.id, "--wait=false")
    with pytest.raises(JobDeletedError, match=call.id):
        call.result(10)


def test_deleting_the_job_removes_everything(calling: Space) -> None:
    """Pods and Secrets belong to it, also where the arguments fill several Secrets."""
    call = work.read.options(detach=True).remote(work.noise(3_000_000))
    assert call.result(60).size == 3_000_000
    secrets = calling.admin.run("get", "secrets", "-o", "name").split()
    assert len(secrets) == 4
    calling.admin.run("delete", "job", call.id)
    nothing_left(calling)


@pytest.mark.alone
def test_the_api_server_restarts_during_a_call(calling: Space, hermetic: Cluster) -> None:
    """Neither a call that runs nor one made while the server is away fails."""
    running = work.double_later.remote(1, 6)
    large = work.make.remote(20_000_000)
    until_running(running)
    hermetic.restart_api_server()
    made_meanwhile = work.double.remote(3)
    assert running.result(60) == 2
    assert made_meanwhile.result(60) == 6
    assert large.result(60) == work.noise(20_000_000)


# -- attaching


def test_a_detached_call_is_collected_by_another_session(calling: Space) -> None:
    """Its Job stays until it is discarded."""
    call = work.double_loudly.options(detach=True).remote(4)
    assert call.result(60) == 8
    with fresh_session():
        again = kubefunc.attach(f"{calling.namespace}/{call.id}")
        assert again.result(30) == 8
        assert again.logs() == "doubling 4\n"
        again.discard()
    nothing_left(calling)


def test_attaching_to_many_that_have_not_ended(calling: Space) -> None:
    """Fifty attached calls share their watches: those that are ready are collected at once, with few connections."""
    waiting = [work.double.options(detach=True, cpu=500).remote(number) for number in range(44)]
    ready = [work.make.options(detach=True).remote(100_000) for _ in range(6)]
    for call in ready:
        assert len(call.result(120)) == 100_000
    eventually(lambda: len(calling.admin.get("jobs")) == 50, 60, "all Jobs to be made")
    with fresh_session():
        before = threading.active_count()
        still_waiting = [kubefunc.attach(f"{calling.namespace}/{call.id}") for call in waiting]
        collected = [kubefunc.attach(f"{calling.namespace}/{call.id}") for call in ready]
        for call in collected:
            assert call.result(60) == work.noise(100_000)
        assert threading.active_count() - before <= 25  # of the session: 6 for requests, 14 for streams, 2 collect
        for call in still_waiting:
            assert call.cancel()
        for call in collected:
            call.discard()
    nothing_left(calling, 60)


def test_cancelling_what_was_just_attached_to(calling: Space) -> None:
    """At once, before it was looked for: its Job goes all the same; so does that of a map."""
    detached = work.double_later.options(detach=True)
    call, a_map = detached.remote(4, 120), detached.map([1, 2], [120, 120])
    until_running(call)
    eventually(lambda: a_map.progress.running > 0, 60, "the map to run")
    with fresh_session():
        assert kubefunc.attach(f"{calling.namespace}/{call.id}").cancel()
        assert kubefunc.attach_map(f"{calling.namespace}/{a_map.id}").cancel()
        nothing_left(calling)


def test_a_map_is_not_attached_to_as_a_call(calling: Space) -> None:
    """The error names the function that follows maps."""
    a_map = work.double_loudly.options(detach=True).map([1, 2])
    assert a_map.result(60) == [2, 4]
    with fresh_session(), pytest.raises(ConfigurationError, match="attach_map"):
        kubefunc.attach(f"{calling.namespace}/{a_map.id}").result(60)
    a_map.discard()
    nothing_left(calling)


def test_a_template_function_that_fails_later(calling: Space) -> None:
    """It is called again when the Job is made: nobody waits for a Job that never comes, and no Secret stays."""
    calls = 0

    def once(template: dict[str, object]) -> dict[str, object]:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise LookupError("only once")
        return template

    with pytest.raises(KubefuncError, match="LookupError: only once"):
        work.double_loudly.options(pod_template=once).remote(1).result(60)
    calls = 0
    with pytest.raises(KubefuncError, match="LookupError: only once"):
        work.double_loudly.options(pod_template=once).map([1, 2]).result(60)
    nothing_left(calling)


def test_pickled_handles_are_attached_ones(calling: Space) -> None:
    """Another session unpickles a call and a map, and has their results."""
    call = work.double.options(detach=True).remote(4)
    made = work.double.options(detach=True).map([1, 2])
    handles = pickle.dumps((call, made))
    assert (call.result(60), made.result(60)) == (8, [2, 4])
    with fresh_session():
        again, mapped = pickle.loads(handles)
        assert (again.result(30), mapped.result(30)) == (8, [2, 4])
        again.discard()
        mapped.discard()
    nothing_left(calling)


def test_attaching_beside_the_call_itself(calling: Space) -> None:
    """Two handles of one call in one process both get the result."""
    call = work.double_later.remote(4, 4)
    until_running(call)
    other = kubefunc.attach(call.id)
    assert (other.result(30), call.result(30)) == (8, 8)
    nothing_left(calling)


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_large_result_of_a_detached_call_waits_for_its_collector(size: int, calling: Space) -> None:
    """It is kept in the courier's log or, above 4 MiB, by the courier itself."""
    with fresh_session():
        call = work.make.options(detach=True, result_ttl=120).remote(size)
        eventually(lambda: _main_has_ended(calling, call.id), 30, "main's end")
    with fresh_session():
        assert kubefunc.attach(call.id).result(30) == work.noise(size)
    kubefunc.attach(call.id).discard()


def test_a_result_whose_pod_is_gone_is_lost_at_once(calling: Space) -> None:
    """Whoever comes too late hears that within seconds, and why."""
    call = work.double.options(detach=True).remote(4)
    assert call.result(60) == 8
    eventually(lambda: "Complete" in str(calling.admin.get("job", call.id)["status"]), what="the Job's end")
    calling.admin.run("delete", "pods", "-l", f"kubefunc/call={call.id}")
    began = time.monotonic()
    with fresh_session(), pytest.raises(ResultLostError, match="its Pod and the result are gone"):
        kubefunc.attach(call.id).result(30)
    assert time.monotonic() - began < 8
    call.discard()
    with fresh_session(), pytest.raises(ResultLostError, match="no call"):
        kubefunc.attach(call.id).result(30)


def test_attaching_to_a_call_that_its_program_has_cancelled(calling: Space) -> None:
    """It is gone, and so is its result: this is said at once, also where it is cancelled a moment later."""
    gone, going = (work.double_later.remote(4, 60) for _ in range(2))
    mapped = work.double.map([1, 2])
    mapped.cancel()
    gone.cancel()
    eventually(lambda: gone.id not in calling.admin.run("get", "jobs", "-o", "name"), what="the Job's deletion")
    until_running(going)
    began = time.monotonic()
    with fresh_session():
        with pytest.raises(
            ResultLostError, match="it was cancelled, its result was collected or discarded, or its ttl"
        ):
            kubefunc.attach(gone.id).result(30)
        assert time.monotonic() - began < 5
        attached = kubefunc.attach(going.id)
        going.cancel()
        began = time.monotonic()
        with pytest.raises((ResultLostError, JobDeletedError), match="cancelled"):
            attached.result(30)
        assert time.monotonic() - began < 5


def _main_has_ended(space: Space, call: str) -> bool:
    pods = space.admin.get("pods", "-l", f"kubefunc/call={call}")
    statuses = [status for pod in pods for status in pod["status"].get("containerStatuses", [])]
    return any(status["name"] == "main" and "terminated" in status["state"] for status in statuses)


def test_logs_are_followed_from_the_start(calling: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after ``.remote()``, while there is no Pod yet; with the caller's set-up of ``logging``."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    call = work.log_and_count.options(verbose=False).remote(3)
    lines = list(call.logs(follow=True))
    assert lines == ["INFO counting", "0", "1", "2"]
    assert call.result(60) == 3
    nothing_left(calling)


def test_a_call_goes_with_the_pod_that_owns_it(kube: Space, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``owner="pod"`` and the permission to read that Pod: when it is deleted, so are the Jobs of its program."""
    spec = {"containers": [{"name": "main", "image": "python:3.11-slim", "command": ["sleep", "600"]}]}
    kube.admin.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "program"}, "spec": spec})
    config = json.loads(kube.admin.run("config", "view", "--raw", "-o", "json"))
    for context in config["contexts"]:
        context["context"]["namespace"] = kube.namespace
    (tmp_path / "admin").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "admin"))
    monkeypatch.setenv("POD_NAME", "program")
    with fresh_session():
        call = work.double.options(owner="pod", detach=True, node_selector={"no": "such"}).remote(1)
        eventually(lambda: bool(kube.admin.get("jobs")), what="the Job")
        (owner,) = kube.admin.get("job", call.id)["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Pod", "program")
        kube.admin.run("delete", "pod", "program", "--grace-period=0", "--force")
        nothing_left(kube, 60)
        with pytest.raises(JobDeletedError):
            call.result(30)
