"""The Pod of a function with ``untrusted=True``, and what a node says that cannot make it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose import starting
from kubefunc.backends.kubernetes.objects import kept
from kubefunc.backends.kubernetes.operating.logs import as_pieces
from kubefunc.backends.operations import StoredCall, StoredPod
from tests.unit.test_manifest import FILES, build_job, container, pod, spec, template


def test_an_untrusted_function_gets_little() -> None:
    """A user namespace, no token, a read-only root in both containers, no capabilities, no way to more privileges."""
    made = pod(untrusted=True)
    assert made["hostUsers"] is False
    assert made["automountServiceAccountToken"] is False
    assert made["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for name in ("main", "courier"):
        assert container(name, untrusted=True)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }


def test_its_objects_carry_a_label() -> None:
    """For a NetworkPolicy: on Job and Pod."""
    made: Any = build_job(spec(untrusted=True))
    assert made["metadata"]["labels"]["kubefunc/untrusted"] == "true"
    assert template(untrusted=True)["metadata"]["labels"]["kubefunc/untrusted"] == "true"
    assert "kubefunc/untrusted" not in template()["metadata"]["labels"]


def test_the_label_must_stay() -> None:
    """A template that drops it would let the Pod out of the policy."""

    def without(made: dict[str, Any]) -> dict[str, Any]:
        del made["metadata"]["labels"]["kubefunc/untrusted"]
        return made

    with pytest.raises(errors.ConfigurationError, match="kubefunc/untrusted"):
        build_job(spec(untrusted=True, pod_template=without))


def test_the_volume_of_its_result_is_limited() -> None:
    """But not where large arguments are brought there, too."""
    volumes = {each["name"]: each for each in pod(untrusted=True)["volumes"]}
    assert volumes["kubefunc-out"]["emptyDir"] == {"sizeLimit": "256Mi"}
    uploaded = {name: data for name, data in FILES.items() if name != "payload"}
    volumes = {each["name"]: each for each in pod(untrusted=True, files=uploaded)["volumes"]}
    assert volumes["kubefunc-out"]["emptyDir"] == {}


def test_a_template_may_do_without_the_user_namespace() -> None:
    """Not every node's runtime has them: the error of such a node says how."""
    assert pod(untrusted=True, pod_template={"hostUsers": True})["hostUsers"] is True


def test_nothing_changes_for_others() -> None:
    """Whatever they have set."""
    assert "hostUsers" not in pod()
    assert "readOnlyRootFilesystem" not in container("main")["securityContext"]


def event(message: str) -> dict[str, Any]:
    """The kubelet's event."""
    return {"type": "Warning", "reason": "FailedCreatePodSandBox", "message": message}


def test_a_node_without_user_namespaces_is_told_at_once() -> None:
    """The advice names the field that does without."""
    words = "can't set `spec.hostUsers: false`, runtime does not support user namespaces"
    found = starting.event_trouble([event(f"Failed to create pod sandbox: {words}")])
    assert found is not None
    assert found.reason == "NoUserNamespaces"
    assert found.fatal_after == 2.0
    assert "pod_template={'hostUsers': True}" in found.advice


def test_a_node_without_the_runtime_class_is_told_at_once() -> None:
    """With the handler's name."""
    words = 'failed to get sandbox runtime: no runtime for "runsc" is configured'
    found = starting.event_trouble([event(words)])
    assert found is not None
    assert found.reason == "NoRuntimeHandler"
    assert "'runsc'" in found.message


def test_who_attaches_learns_that_it_is_untrusted() -> None:
    """From the call's own Secret; one that cannot be read is refused elsewhere."""
    known = {"call": "f-abcdefgh", "function": "f"}
    assert kept.options_of({"spec.json": json.dumps({**known, "untrusted": True}).encode()}).untrusted
    for other in (json.dumps(known).encode(), b"{}", b"not JSON"):
        assert not kept.options_of({"spec.json": other}).untrusted
    assert not kept.options_of({}).untrusted


def test_the_command_line_shows_no_escapes_of_an_untrusted_function() -> None:
    """Whoever made the call: its Job's label says so."""
    call = StoredCall(id="f-abcdefgh", namespace="n", function="f", shape="single", state="running", is_untrusted=True)
    pieces = as_pieces(call, StoredPod(name="p", state="running"), [b"\x1b[2Jgone\n"])
    assert [piece.data for piece in pieces] == [b"\\x1b[2Jgone\n"]
