"""Failures, each made on purpose: what its caller is told, and how soon after the cluster knew.

``pytest -s`` shows each error as its user sees it, with the seconds.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

import kubefunc
from kubefunc import Call, errors
from kubefunc.diagnosis import Diagnosis
from kubefunc.options import default_image
from tests.cluster import failing, needs_click, work
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import ClusterUnderTest, fresh_session
from tests.cluster.spaces import Space, make_space, remove_space
from tests.cluster.waiting import eventually, pod_security
from tests.cluster.witness import Witness, witnessing
from tests.conftest import ROOT, clean_environment

pytestmark = pytest.mark.xdist_group("failures")  # their fixtures start many calls: once is enough

E = TypeVar("E", bound=BaseException)

# The aim is 3 s after the cluster knows; a loaded machine may add to that, an error in our logic adds more.
SOON = 15.0
NETWORK_PATIENCE = 10.0
NOT_THERE = {"name": "gone", "secret": {"secretName": "not-there"}}


# -- what the tests share


@pytest.fixture(scope="module")
def kube(cluster: ClusterUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """One namespace for all tests of this file: what has failed stays there and disturbs nobody."""
    space = make_space(cluster.admin, tmp_path_factory.mktemp("failures"))
    yield space
    remove_space(space)


@pytest.fixture(scope="module")
def witness(kube: Space) -> Iterator[Witness]:
    """Sees what the cluster says, and when."""
    with witnessing(kube.admin) as witness:
        yield witness


@pytest.fixture(scope="module")
def patient(kube: Space, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A program that asks for more CPU than any node has, and waits 37 s for it."""
    program = (
        "from tests.cluster import failing\n"
        "call = failing.double.options(cpu=500, schedule_timeout=37).remote(1)\n"
        "print(type(call.exception()).__name__)\n"
        "print(call.exception())\n"
    )
    environ = clean_environment(tmp_path_factory.mktemp("home"))
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**environ, "KUBECONFIG": str(kube.kubeconfig), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def full_disk(kube: Space, witness: Witness) -> Iterator[Stopwatch]:
    """A call that writes more than its volume may hold."""
    del witness  # must be there before
    limit = {"spec": {"volumes": [{"name": "kubefunc-tmp", "emptyDir": {"sizeLimit": "10Mi"}}]}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kube.kubeconfig))
        with fresh_session():
            yield Stopwatch(failing.fill_disk.options(pod_template=limit).remote(50))


@pytest.fixture(scope="module", autouse=True)
def fleet(kube: Space, patient: object, full_disk: object) -> Iterator[dict[str, Call[Any]]]:
    """Calls whose failure only the function decides, all at once; what takes its time was started just before."""
    del patient, full_disk
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kube.kubeconfig))
        with fresh_session():
            yield {
                "builtin": failing.divide_by_zero.remote(),
                "two arguments": failing.raise_two_arguments.remote(),
                "keyword only": failing.raise_keyword_only.remote(),
                "chained": failing.raise_chained.remote(),
                "notes": failing.raise_with_notes.remote(),
                "group": failing.raise_group.remote(),
                "lock": failing.raise_with_lock.remote(),
                "unpicklable": failing.raise_unpicklable.remote(),
                "local class": failing.raise_a_local_class.remote(),
                "os._exit": failing.leave_at_once.remote(),
                "segmentation fault": failing.crash.remote(),
                "sys.exit": failing.call_sys_exit.remote(),
                "timeout": failing.wait_for_ever.options(timeout=2).remote(),
                "result": failing.return_a_lock.remote(),
                "import": failing.import_missing.options(image=default_image()).remote(),
                "load": needs_click.style.options(image=default_image()).remote("x"),
            }


@pytest.fixture
def elsewhere(cluster: ClusterUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Space]:
    """A namespace of this test's own, whose rules it may change, with this process as its caller."""
    space = make_space(cluster.admin, tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(space.kubeconfig))
    with fresh_session():
        yield space
    remove_space(space)


def failure(call: Call[Any], kind: type[E], within: float = 90.0) -> E:
    """What the call ends with, shown as its user sees it: exactly this class."""
    error = call.exception(within)
    print(f"\n--- {type(error).__name__}: {error}")
    assert type(error) is kind
    return error


def told(call: Call[Any], reason: str) -> Diagnosis:
    """The call's diagnosis: it says what, where and what to do, and the error's text is the same."""
    diagnosis = call.diagnosis
    assert (diagnosis.reason, diagnosis.call) == (reason, call.id)
    assert diagnosis.namespace
    assert diagnosis.message
    assert diagnosis.advice
    assert str(diagnosis) in str(call.exception())
    return diagnosis


class Stopwatch:
    """From when the cluster knew of a failure to when the caller did."""

    def __init__(self, call: Call[Any], job: str = "") -> None:
        self.call = call
        self.job = job or call.id
        self._done_at = 0.0
        call.add_done_callback(self._stop)

    def _stop(self, _: object) -> None:
        self._done_at = time.monotonic()

    def since(self, witness: Witness, words: str) -> float:
        """Seconds since these words (a regular expression) were first said in the cluster; prints them."""
        eventually(lambda: witness.first(self.job, words) is not None, 10, f"{words!r} in the cluster's words")
        seconds = self._done_at - (witness.first(self.job, words) or 0.0)
        print(f"{self.job}: {seconds:.1f} s from the cluster's {words!r} to the error")
        return seconds


# -- the function's own exceptions


def test_a_builtin_exception(fleet: dict[str, Call[Any]]) -> None:
    """Itself, with the other side's traceback below and what was printed before in the diagnosis."""
    call = fleet["builtin"]
    error = failure(call, ZeroDivisionError)
    shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert "in divide_by_zero" in shown
    assert "return 1 / 0" in shown
    assert call.diagnosis.reason == "Raised"
    assert "ZeroDivisionError: division by zero" in call.diagnosis.message
    assert call.diagnosis.log_tail == ("about to divide",)


def test_exceptions_with_an_init_of_their_own(fleet: dict[str, Call[Any]]) -> None:
    """Classes of the caller's project come back as the same classes, with their attributes."""
    two = failure(fleet["two arguments"], failing.TwoArguments)
    assert (two.code, two.text, str(two)) == (404, "not here", "404: not here")
    assert failure(fleet["keyword only"], failing.KeywordOnly).where == "the Pod"


def test_an_exceptions_chain(fleet: dict[str, Call[Any]]) -> None:
    """Cause and context are there; the remote traceback hangs at the deepest end."""
    error = failure(fleet["chained"], failing.TwoArguments)
    assert type(error.__cause__) is ValueError
    assert type(error.__cause__.__context__) is KeyError
    assert type(error.__cause__.__context__.__cause__) is errors.RemoteTraceback


def test_an_exceptions_notes(fleet: dict[str, Call[Any]]) -> None:
    """Pickle would drop them. Another says which call it was, and where."""
    error = failure(fleet["notes"], ValueError)
    assert error.__notes__[:2] == ["the first note", "the second note"]
    assert error.__notes__[2].startswith(f"In the call {fleet['notes'].id} (Pod {fleet['notes'].id}-")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="ExceptionGroup came with Python 3.11")
def test_an_exception_group(fleet: dict[str, Call[Any]]) -> None:
    """Its members are what they were, each with its own chain."""
    error = failure(fleet["group"], ExceptionGroup)  # noqa: F821
    first, second = error.exceptions
    assert type(first) is failing.KeywordOnly
    assert first.where == "first"
    assert type(second) is ValueError
    assert isinstance(second.__cause__, OSError)
    assert second.__cause__.errno == 28


def test_exceptions_that_cannot_be_pickled(fleet: dict[str, Call[Any]]) -> None:
    """They travel without a lock, and past their own ``__reduce_ex__``; of a class that cannot travel, text does."""
    assert str(failure(fleet["lock"], failing.HoldsALock)) == "carries a lock"
    assert failure(fleet["unpicklable"], failing.CannotBePickled).args == ("here",)
    error = failure(fleet["local class"], errors.SerializationError)
    assert "Stays: held" in str(error)
    told(fleet["local class"], "ExceptionUnreadable")


# -- the function's process


def test_a_process_that_leaves(fleet: dict[str, Call[Any]]) -> None:
    """``os._exit(3)``: the exit code, and what was printed last."""
    call = fleet["os._exit"]
    error = failure(call, errors.WorkerDiedError)
    diagnosis = told(call, "WorkerDied")
    assert (error.exit_code, error.signal) == (diagnosis.exit_code, diagnosis.signal) == (3, None)
    assert diagnosis.log_tail == ("leaving by the back door",)


def test_a_segmentation_fault(fleet: dict[str, Call[Any]]) -> None:
    """The signal by number and name; the last output has Python's own stack."""
    call = fleet["segmentation fault"]
    error = failure(call, errors.WorkerDiedError)
    diagnosis = told(call, "WorkerDied")
    assert (error.exit_code, error.signal) == (diagnosis.exit_code, diagnosis.signal) == (None, signal.SIGSEGV)
    assert "SIGSEGV" in diagnosis.message
    assert any("in crash" in line for line in diagnosis.log_tail)


def test_sys_exit(fleet: dict[str, Call[Any]]) -> None:
    """It does not end the caller."""
    call = fleet["sys.exit"]
    assert failure(call, errors.RemoteExitError).exit_code == 4
    assert "SystemExit(4)" in told(call, "Exit").message


def test_a_timeout(fleet: dict[str, Call[Any]]) -> None:
    """Which clock, how long, and where the function stood."""
    call = fleet["timeout"]
    error = failure(call, errors.CallTimeoutError)
    diagnosis = told(call, "Timeout")
    assert "timeout of 2 s" in diagnosis.message
    assert diagnosis.log_tail == ("waiting",)
    assert "in stuck_here" in str(error)
    assert "kubefunc/runner" not in str(error)


def test_a_result_that_cannot_be_pickled(fleet: dict[str, Call[Any]]) -> None:
    """The path down to the culprit."""
    failure(fleet["result"], errors.SerializationError)
    assert "result['state'][0]['lock']" in told(fleet["result"], "ResultUnpicklable").message


def test_a_missing_third_party_module(fleet: dict[str, Call[Any]]) -> None:
    """Its name and the ways out, before it is sent or, in an image that was named, from the Pod.

    Where the function itself imports it, as a note on its own exception.
    """
    assert failure(fleet["load"], errors.MissingModuleError).name == "click"
    diagnosis = told(fleet["load"], "MissingModule")
    assert "'click'" in diagnosis.message
    assert "packages=['click']" in diagnosis.advice
    with pytest.raises(errors.MissingModuleError, match=r"click .imported by .*needs_click.py, line 5."):
        needs_click.style.remote("x")
    error = failure(fleet["import"], ModuleNotFoundError)
    assert error.name == "surely_not_installed"
    assert "image=" in "".join(error.__notes__)


def test_python_of_another_minor_version(calling: Space, hermetic: Cluster) -> None:
    """Nothing is unpickled; both versions are named, and the image that fits."""
    del calling
    other = "3.13" if sys.version_info[:2] != (3, 13) else "3.11"
    call = failing.double.options(image=hermetic.load_python_image(other)).remote(1)
    failure(call, errors.PythonMismatchError)
    diagnosis = told(call, "PythonMismatch")
    mine = "{}.{}".format(*sys.version_info)
    assert f"Python {mine}" in diagnosis.message
    assert f"Python {other}" in diagnosis.message
    assert f"python:{mine}-slim" in diagnosis.advice


# -- Pods that do not start


@pytest.mark.usefixtures("hermetic")  # only our own cluster's registry has these answers
def test_images_that_cannot_be_had(calling: Space, witness: Witness) -> None:
    """The registry's words decide: final at once, or a network's hiccup that is given ten seconds."""
    del calling
    final = {
        "nosuch/thing:1": "The image nosuch/thing:1 does not exist.",
        "private/thing:1": "The image private/thing:1 does not exist, or it is private.",
        "denied/thing:1": "The registry refused access to the image denied/thing:1.",
    }
    calls = {image: failing.double.options(image=image).remote(1) for image in (*final, "unreachable.invalid/thing:1")}
    watches = {image: Stopwatch(call) for image, call in calls.items()}
    for image, message in final.items():
        failure(calls[image], errors.ImagePullError)
        diagnosis = told(calls[image], "ErrImagePull")
        assert diagnosis.message == message
        assert any("failed to pull" in line for line in diagnosis.events)
        assert watches[image].since(witness, "ErrImagePull") < SOON
    away = "unreachable.invalid/thing:1"
    failure(calls[away], errors.ImagePullError)
    assert "cannot get the image" in told(calls[away], "ErrImagePull").message
    assert NETWORK_PATIENCE - 1 < watches[away].since(witness, "ErrImagePull") < NETWORK_PATIENCE + SOON


@pytest.mark.usefixtures("hermetic")
def test_images_that_do_not_fit(calling: Space, witness: Witness) -> None:
    """A name that is none, an image without Python, a registry that is busy: the last is waited for."""
    del calling
    name = failing.double.options(image="Thing:1:2").remote(1)
    empty = failing.double.options(image="registry.k8s.io/pause:3.10").remote(1)
    busy = failing.double.options(image="busy/thing:1", schedule_timeout=8).remote(1)
    watches = {call: Stopwatch(call) for call in (name, empty)}
    failure(name, errors.ImagePullError)
    assert "'Thing:1:2' is not the name of an image." in told(name, "InvalidImageName").message
    assert watches[name].since(witness, "InvalidImageName") < SOON
    failure(empty, errors.PodConfigError)
    assert "has no python3 on its PATH" in told(empty, "StartError").message
    assert watches[empty].since(witness, "StartError") < SOON
    failure(busy, errors.ImagePullError)
    diagnosis = told(busy, "ErrImagePull")
    assert "schedule_timeout=8 s" in diagnosis.message
    assert "429 Too Many Requests" in str(diagnosis)


@pytest.mark.usefixtures("hermetic")
def test_an_image_that_nobody_has_asked_for(calling: Space) -> None:
    """Where the nodes cannot pull the default image, the error says whose choice it was, and how to set another."""
    del calling
    asking = failing.double.options(image_pull_policy="Always", schedule_timeout=40)
    for waiting in (asking.remote(1), asking.map([1])):
        with pytest.raises(errors.ImagePullError) as caught:
            waiting.result(60)
        assert "kubefunc chose this image: none is set." in str(caught.value)
        assert "KUBEFUNC_IMAGE" in str(caught.value)


def test_a_missing_secret(calling: Space, witness: Witness) -> None:
    """As a volume or in the environment: its name, within seconds."""
    del calling
    mount = {"name": "main", "volumeMounts": [{"name": "gone", "mountPath": "/gone"}]}
    source = {"name": "main", "envFrom": [{"secretRef": {"name": "not-there"}}]}
    calls = {
        "FailedMount": failing.double.options(
            pod_template={"spec": {"volumes": [NOT_THERE], "containers": [mount]}}
        ).remote(1),
        "CreateContainerConfigError": failing.double.options(pod_template={"spec": {"containers": [source]}}).remote(1),
    }
    watches = {reason: Stopwatch(call) for reason, call in calls.items()}
    for reason, call in calls.items():
        failure(call, errors.PodConfigError)
        diagnosis = told(call, reason)
        assert "The Secret 'not-there'" in diagnosis.message
        assert "pod_template=" in diagnosis.advice
        assert watches[reason].since(witness, r'not-there\\" not found') < SOON


def test_names_that_are_not_there(calling: Space, witness: Witness) -> None:
    """A ServiceAccount (which may be made a moment later) and a PriorityClass: no Pod can be made."""
    del calling
    account = failing.double.options(service_account="nobody").remote(1)
    priority = failing.double.options(priority_class="nope").remote(1)
    watches = {call: Stopwatch(call) for call in (account, priority)}
    failure(account, errors.PodConfigError)
    assert "ServiceAccount 'nobody'" in told(account, "ServiceAccount").message
    assert watches[account].since(witness, r'\\"nobody\\" not found') < SOON
    failure(priority, errors.PodConfigError)
    assert "PriorityClass 'nope'" in told(priority, "PriorityClass").message
    assert watches[priority].since(witness, "no PriorityClass") < SOON


def test_a_map_learns_what_only_events_tell(calling: Space, witness: Witness) -> None:
    """A volume whose ConfigMap is not there: all items have the error, which names the Pod, seconds after the Event."""
    del calling
    gone = {"name": "gone", "configMap": {"name": "not-there"}}
    mount = {"name": "main", "volumeMounts": [{"name": "gone", "mountPath": "/gone"}]}
    template = {"spec": {"volumes": [gone], "containers": [mount]}}
    a_map = failing.double.options(pod_template=template).map(range(6), chunksize=2)
    watch = Stopwatch(a_map.calls[0], a_map.id)
    with pytest.raises(errors.PodConfigError, match="ConfigMap 'not-there'") as raised:
        a_map.result(60)
    diagnosis = raised.value.diagnosis
    assert diagnosis is not None
    assert diagnosis.pod is not None
    assert diagnosis.pod.startswith(a_map.id)
    assert a_map.progress.failed == 6
    assert watch.since(witness, r'not-there\\" not found') < SOON


def test_a_map_whose_first_container_fails(calling: Space) -> None:
    """The error has that container's output and its Pod's name, as that of a call has."""
    prepare = {
        "name": "prepare",
        "image": f"python:{sys.version_info.major}.{sys.version_info.minor}-slim",
        "command": ["python3", "-c", "print('no data'); raise SystemExit(7)"],
    }
    a_map = failing.double.options(pod_template={"spec": {"initContainers": [prepare]}}).map(range(2))
    with pytest.raises(errors.PodConfigError) as raised:
        a_map.result(60)
    diagnosis = raised.value.diagnosis
    assert diagnosis is not None
    assert (diagnosis.exit_code, diagnosis.log_tail) == (7, ("no data",))
    assert diagnosis.pod is not None
    assert diagnosis.pod.startswith(a_map.id)
    eventually(lambda: not calling.admin.get("jobs", "-l", f"kubefunc/call={a_map.id}"), what="the Job's end")


def test_a_container_before_main_that_fails(calling: Space, witness: Witness) -> None:
    """Its output is in the error; the Job does not try it again behind the caller's back."""
    prepare = {
        "name": "prepare",
        "image": f"python:{sys.version_info.major}.{sys.version_info.minor}-slim",
        "command": ["python3", "-c", "print('no data'); raise SystemExit(7)"],
    }
    call = failing.double.options(pod_template={"spec": {"initContainers": [prepare]}}).remote(1)
    watch = Stopwatch(call)
    failure(call, errors.PodConfigError)
    diagnosis = told(call, "InitContainerFailed")
    assert "'prepare'" in diagnosis.message
    assert (diagnosis.exit_code, diagnosis.log_tail) == (7, ("no data",))
    assert watch.since(witness, '"exitCode":7') < SOON
    eventually(lambda: not jobs_of(calling, call), what="the Job's end")


def test_a_quota_of_no_pods(elsewhere: Space) -> None:
    """Nothing can ever start there: told within seconds, and the Job is taken back."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    elsewhere.admin.apply(quota)
    eventually(lambda: bool(elsewhere.admin.get("resourcequota", "none").get("status")), what="the quota's status")
    with witnessing(elsewhere.admin) as witness:
        call = failing.double.remote(1)
        watch = Stopwatch(call)
        failure(call, errors.QuotaExceededError)
        diagnosis = told(call, "QuotaExceeded")
        assert any("limited: pods=0" in line for line in diagnosis.events)
        assert watch.since(witness, "exceeded quota") < SOON
    eventually(lambda: not jobs_of(elsewhere, call), what="the Job's end")


def test_pod_security_restricted(elsewhere: Space) -> None:
    """Refused as root, with the option that helps; with it, HOME and /tmp are writable on a read-only root."""
    pod_security(elsewhere, "enforce")
    with witnessing(elsewhere.admin) as witness:
        call = failing.double.remote(1)
        watch = Stopwatch(call)
        failure(call, errors.AdmissionError)
        diagnosis = told(call, "PodSecurity")
        assert "'restricted'" in diagnosis.message
        assert "run_as_user=" in diagnosis.advice
        assert watch.since(witness, "violates PodSecurity") < SOON
    read_only = {"spec": {"containers": [{"name": "main", "securityContext": {"readOnlyRootFilesystem": True}}]}}
    allowed = failing.write_home_and_tmp.options(run_as_user=1000, pod_template=read_only)
    assert allowed.remote().result(60) == ("/tmp", "Read-only file system")


def test_more_cpu_than_any_node_has(patient: subprocess.Popen[str]) -> None:
    """It waits and says for what, after 5 s and then each half minute; ``schedule_timeout`` ends it, with that."""
    out, err = patient.communicate(timeout=120)
    print(f"{out}\n{err}")
    kind, message, *_ = out.splitlines()
    assert kind == "UnschedulableError"
    assert "schedule_timeout=37 s" in message
    assert "none has that much cpu free" in message
    said = [line for line in err.splitlines() if "waiting for" in line and "Insufficient cpu" in line]
    waited = [int(line.partition("waiting for ")[2].split()[0]) for line in said]
    assert len(waited) == 2
    assert 5 <= waited[0] < 15
    assert 29 <= waited[1] - waited[0] < 35


def test_the_deadline_of_a_call_that_never_starts(calling: Space) -> None:
    """The Job's own clock counts from the submission."""
    del calling
    call = failing.double.options(cpu=500, deadline=4).remote(1)
    began = time.monotonic()
    failure(call, errors.CallTimeoutError)
    diagnosis = told(call, "DeadlineExceeded")
    assert "deadline" in diagnosis.message
    assert "none has that much cpu free" in diagnosis.message
    assert time.monotonic() - began < 4 + SOON


# -- Pods that end


def test_more_memory_than_allowed(calling: Space, witness: Witness) -> None:
    """The limit, what the function printed before, and what to raise."""
    del calling
    call = failing.use_memory.options(memory="64Mi").remote(200)
    watch = Stopwatch(call)
    failure(call, errors.OutOfMemoryError)
    diagnosis = told(call, "OOMKilled")
    assert "64 MiB" in str(diagnosis)
    assert diagnosis.log_tail == ("filling 200 MiB",)
    assert "memory=" in diagnosis.advice
    assert watch.since(witness, '"exitCode":(64|137)') < SOON


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_courier_that_cannot_start(size: int, calling: Space) -> None:
    """A typed error within seconds, in the cluster's words; the function is not run again and again."""
    command = ["/nowhere/python3", "-I", "/kubefunc/in/kubefunc.pyz", "courier"]
    template = {"spec": {"containers": [{"name": "courier", "command": command}]}}
    call = work.make_later.options(pod_template=template, retries=0).remote(size, 3)
    with pytest.raises(errors.PodConfigError, match="/nowhere/python3") as caught:
        call.result(60)
    assert "courier" in str(caught.value)
    eventually(lambda: not calling.admin.get("pods", "-l", f"kubefunc/call={call.id}"), what="the end of its Pod")


def test_a_template_that_changes_only_the_python_of_main(calling: Space) -> None:
    """The courier, and what is started beside it, use the same."""
    command = ["/usr/bin/python3.11", "/kubefunc/in/kubefunc.pyz", "main"]
    template = {"spec": {"containers": [{"name": "main", "command": command}]}}
    assert len(work.make.options(pod_template=template).remote(100_000).result(60)) == 100_000


def test_an_image_whose_python_is_not_on_its_path(calling: Space) -> None:
    """The error says how to name the place; ``env`` does, for both containers."""
    with pytest.raises(errors.PodConfigError, match="python3 on its PATH") as caught:
        work.double.options(env={"PATH": "/opt/conda/bin"}).remote(1).result(60)
    assert 'env={"PATH"' in str(caught.value)
    assert len(work.make.options(env={"PATH": "/usr/bin"}).remote(100_000).result(60)) == 100_000


def test_a_killed_supervisor(calling: Space, hermetic: Cluster, witness: Witness) -> None:
    """Killed from the node, as its own OOM killer or an administrator does: the signal, and the last output."""
    del hermetic  # only there the node's processes are this machine's
    call = failing.sleep.remote(60)
    eventually(lambda: call.running() and "working" in call.logs(), 60, "the function's first words")
    (pod,) = calling.admin.get("pods", "-l", f"kubefunc/call={call.id}")
    watch = Stopwatch(call)
    os.kill(first_process(pod["metadata"]["uid"], b"main"), signal.SIGKILL)
    error = failure(call, errors.WorkerDiedError)
    diagnosis = told(call, "WorkerDied")
    assert (error.exit_code, error.signal) == (diagnosis.exit_code, diagnosis.signal) == (137, signal.SIGKILL)
    assert diagnosis.log_tail == ("working",)
    assert watch.since(witness, '"exitCode":137') < SOON


def test_a_supervisor_that_is_told_to_end(calling: Space) -> None:
    """SIGTERM is an end from outside: where none is allowed, the call is lost; the last Pod's words are there."""
    del calling
    call = failing.end_the_supervisor.options(max_disruptions=0).remote()
    failure(call, errors.PodLostError)
    diagnosis = told(call, "BackoffLimitExceeded")
    assert "max_disruptions=" in diagnosis.message
    assert any("exit code 143" in line for line in diagnosis.events)
    assert diagnosis.pod


def test_the_pods_own_deadline(calling: Space, witness: Witness) -> None:
    """The backstop of ``timeout``. The kubelet ends the Pod like one from outside; the function does not run again."""
    call = failing.sleep.options(pod_template={"spec": {"activeDeadlineSeconds": 5}}).remote(60)
    watch = Stopwatch(call)
    failure(call, errors.CallTimeoutError)
    assert "Pod's time limit is over" in told(call, "DeadlineExceeded").message
    assert watch.since(witness, "DeadlineExceeded") < SOON
    eventually(lambda: not jobs_of(calling, call), what="the Job's end")


def test_a_full_disk(full_disk: Stopwatch, kube: Space, witness: Witness) -> None:
    """The kubelet finds it as it measures volumes; its words name volume and limit. Nobody fills the disk once more."""
    call = full_disk.call
    failure(call, errors.EvictedError)
    diagnosis = told(call, "Evicted")
    assert any('"kubefunc-tmp" exceeds the limit "10Mi"' in line for line in diagnosis.events)
    assert diagnosis.log_tail == ("writing 50 MiB",)
    assert full_disk.since(witness, "Evicted") < SOON
    eventually(lambda: not jobs_of(kube, call), what="the Job's end")


# -- results


def test_damaged_results(calling: Space) -> None:
    """Cut, changed, or signed by another: nothing is unpickled, and the error says which of them it is."""
    words = {"length": "it was cut", "sha256": "its sha256 is not", "hmac": "signature (HMAC)"}
    function = failing.make_bytes.options(detach=True, inline=False, results_in_log=False, result_ttl=300)
    with fresh_session():
        calls = {how: function.remote(100_000).id for how in words}
        for how, call in calls.items():
            eventually(lambda call=call: has_result(calling, call), 60, f"the result of {call}")
            pod = f"job/{call}"
            calling.admin.run("exec", pod, "-c", "courier", "--", "python3", "-c", failing.SPOILER, how)
    with fresh_session():
        for how, call in calls.items():
            attached = kubefunc.attach(call)
            began = time.monotonic()
            failure(attached, errors.ResultCorruptedError)
            assert words[how] in told(attached, "ResultCorrupted").message
            assert time.monotonic() - began < SOON
            attached.discard()


# -- the way to the cluster


@pytest.mark.parametrize(
    ("verb", "resource", "within"),
    [
        ("create", "secrets", SOON),
        ("create", "jobs", SOON),
        ("list", "jobs", SOON),
        ("list", "pods", SOON),
        ("watch", "pods", SOON),
        ("watch", "jobs", SOON),
        ("delete", "jobs", SOON),
    ],
)
def test_a_missing_permission(
    verb: str, resource: str, within: float, kube: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not do what, and the rule that the Role lacks."""
    monkeypatch.setenv("KUBECONFIG", str(kube.without(f"{resource}:{verb}")))
    with fresh_session():
        call = failing.sleep.remote(60)
        began = time.monotonic()
        failure(call, errors.PermissionDeniedError)
        print(f"{time.monotonic() - began:.1f} s from .remote() to the error")
        assert time.monotonic() - began < within
        diagnosis = told(call, "Forbidden")
        assert f"may not {verb} {resource}" in diagnosis.message
        assert f'resources: ["{resource}"], verbs: ["{verb}"]' in diagnosis.advice
        assert any("is forbidden" in line for line in diagnosis.events)
        eventually(lambda: not jobs_of(kube, call), what="no Job of the call")


def test_kubeconfigs_that_are_missing_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised by ``.remote()`` itself, with the file's name: never a silent switch to this machine."""
    broken = tmp_path / "broken"
    broken.write_text("clusters: [unclosed")
    for file, words in ((tmp_path / "missing", "no such file exists"), (broken, "not valid YAML")):
        monkeypatch.setenv("KUBECONFIG", str(file))
        with fresh_session(), pytest.raises(errors.ConfigurationError, match=words) as caught:
            failing.double.remote(1)
        print(f"\n--- {caught.value}")
        assert str(file) in str(caught.value)


def test_a_kubeconfig_that_points_nowhere(kube: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens there: address and context are named."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    nowhere = tmp_path / "nowhere"
    server = kube.admin.run("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    nowhere.write_text(kube.kubeconfig.read_text().replace(server, f"https://{address}"))
    monkeypatch.setenv("KUBECONFIG", str(nowhere))
    with fresh_session():
        call = failing.double.remote(1)
        began = time.monotonic()
        failure(call, errors.ClusterUnreachableError)
        print(f"{time.monotonic() - began:.1f} s from .remote() to the error")
    assert address in told(call, "Unreachable").message


# -- looking at the cluster


def jobs_of(space: Space, call: Call[Any]) -> list[Any]:
    """The Jobs of a call that are there."""
    jobs: list[Any] = space.admin.get("jobs", "-l", f"kubefunc/call={call.id}")
    return jobs


def has_result(space: Space, call: str) -> bool:
    """Whether main has ended, while the courier keeps what it left."""
    pods = space.admin.get("pods", "-l", f"kubefunc/call={call}")
    states = {each["name"]: each["state"] for pod in pods for each in pod["status"].get("containerStatuses", [])}
    return "terminated" in states.get("main", {}) and "running" in states.get("courier", {})


def first_process(pod: str, program: bytes) -> int:
    """The node's number of the first process of a Pod's container that runs this program of ours."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = (process / "status").read_text().partition("NSpid:")[2].splitlines()[0].split()[-1]
            command = (process / "cmdline").read_bytes().split(b"\0")
            if inside == "1" and program in command and pod in (process / "cgroup").read_text():
                return int(process.name)
        except (OSError, IndexError):  # it has ended meanwhile
            continue
    raise AssertionError(f"no process {program!r} of the Pod {pod}")
