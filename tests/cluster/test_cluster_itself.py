"""The test cluster is a real Kubernetes: what the tests of calls rely on. See also test_cluster_traces.py."""

from __future__ import annotations

import os

import pytest

from tests.cluster import audit
from tests.cluster.cluster import Cluster, down, up
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.pods import pod, wait_for_phase
from tests.cluster.spaces import Space


def test_a_pod_runs_python_and_its_output_can_be_read(kube: Space) -> None:
    """A Pod of the stock image runs to its end and kubectl shows what it printed."""
    kube.admin.apply(pod("hello", "import ssl, sqlite3, asyncio; print(6 * 7)"))
    wait_for_phase(kube.admin, "hello", "Succeeded")
    assert kube.admin.run("logs", "hello") == "42\n"


def test_exec_reaches_a_running_container(kube: Space) -> None:
    """A command can be run inside a container that is running."""
    kube.admin.apply(pod("waits", "import time; time.sleep(60)"))
    wait_for_phase(kube.admin, "waits", "Running")
    assert kube.admin.run("exec", "waits", "--", "python3", "-c", "print('inside')") == "inside\n"


def test_the_user_of_a_test_has_exactly_our_role(kube: Space) -> None:
    """The limited user may do what docs/role.yaml says, and neither list Secrets nor leave its namespace."""
    caller = Kubectl(kube.kubeconfig, kube.namespace)
    allowed = ["create jobs", "watch jobs", "get pods --subresource=log", "create pods --subresource=exec"]
    refused = ["list secrets", "create pods", "get nodes", "create jobs --namespace=default"]
    assert [may(caller, question) for question in allowed] == ["yes"] * len(allowed)
    assert [may(caller, question) for question in refused] == ["no"] * len(refused)


def may(user: Kubectl, question: str) -> str:
    """Ask the API server whether the user may do something: yes or no."""
    try:
        return user.run("auth", "can-i", *question.split()).strip()
    except KubectlError:  # kubectl's exit code says no, too
        return "no"


def test_a_role_can_lack_a_resource_or_one_verb(kube: Space) -> None:
    """Tests of missing permissions take users whose Role lacks what they name, and only that."""
    weaker = Kubectl(kube.without("events", "secrets:patch"), kube.namespace)
    questions = ["list events", "patch secrets", "create secrets", "create jobs"]
    assert [may(weaker, question) for question in questions] == ["no", "no", "yes", "yes"]
    with pytest.raises(ValueError, match=r"'pods/attach' is not in role\.yaml"):
        kube.without("pods/attach")


def test_the_report_of_a_failure_shows_pods_events_and_logs(kube: Space) -> None:
    """What a failed test appends to its report names the Pod, what happened to it, and what it printed."""
    kube.admin.apply(pod("sad", "raise SystemExit('the reason why')"))
    wait_for_phase(kube.admin, "sad", "Failed")
    report = kube.report()
    assert "sad" in report
    assert "Scheduled" in report
    assert "the reason why" in report


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("nosuch/thing:1", "not found"),
        ("private/thing:1", "insufficient_scope: authorization failed"),
        ("denied/thing:1", "403 Forbidden"),
        ("busy/thing:1", "429 Too Many Requests"),
        ("unreachable.invalid/thing:1", "connection refused"),
    ],
)
def test_images_fail_in_a_registrys_own_words(kube: Space, hermetic: Cluster, image: str, words: str) -> None:
    """Images that cannot be pulled fail as they do against real registries, each for its own reason."""
    del hermetic  # only our own cluster has this registry
    kube.admin.apply(pod("thing", "", image))
    reason = "{.status.containerStatuses[0].state.waiting.reason}"
    kube.admin.run("wait", "pod/thing", f"--for=jsonpath={reason}=ErrImagePull", "--timeout=30s")
    events = kube.admin.get("events", "--field-selector=reason=Failed")
    assert any(words in event["message"] for event in events), [event["message"] for event in events]


def test_the_audit_log_counts_the_requests_of_one_user(kube: Space, hermetic: Cluster) -> None:
    """Each request of a test's user is in the audit log with its verb, resource and answer."""
    caller = Kubectl(kube.kubeconfig, kube.namespace)
    caller.run("get", "--raw", f"/api/v1/namespaces/{kube.namespace}/pods")
    with pytest.raises(KubectlError):
        caller.run("get", "--raw", f"/api/v1/namespaces/{kube.namespace}/secrets")
    assert audit.requests_of(hermetic.audit_log, kube.user) == [
        audit.Request("list", "pods", "", 200),
        audit.Request("list", "secrets", "", 403),
    ]


@pytest.mark.alone
def test_the_api_server_can_be_restarted_under_running_pods(kube: Space, hermetic: Cluster) -> None:
    """A killed API server comes back with all it knew, and the Pods have not noticed."""
    kube.admin.apply(pod("survivor", "import time; time.sleep(120)"))
    wait_for_phase(kube.admin, "survivor", "Running")
    before = kube.admin.get("pod", "survivor")["status"]["containerStatuses"][0]["containerID"]
    hermetic.restart_api_server()
    after = kube.admin.get("pod", "survivor")["status"]["containerStatuses"][0]
    assert (after["containerID"], after["restartCount"]) == (before, 0)


@pytest.mark.slow
def test_another_python_can_be_put_on_the_node(kube: Space, hermetic: Cluster) -> None:
    """For calls from an image with another Python minor: the image is made when it is first asked for."""
    name = hermetic.load_python_image("3.13")
    kube.admin.apply(pod("newer", "import sys; print(sys.version_info[:2])", name))
    wait_for_phase(kube.admin, "newer", "Succeeded")
    assert kube.admin.run("logs", "newer") == "(3, 13)\n"


@pytest.mark.alone
def test_two_clusters_at_once_do_not_collide(hermetic: Cluster) -> None:
    """Each has its own address and knows only its own objects."""
    other = up(f"other-{os.getpid()}")
    try:
        assert other.url != hermetic.url
        other.admin.run("create", "namespace", "only-there")
        assert "only-there" not in [item["metadata"]["name"] for item in hermetic.admin.get("namespaces")]
        assert len(hermetic.admin.get("nodes")) == len(other.admin.get("nodes")) == 1
        assert up(other.name) == other  # the same name again is the same cluster
    finally:
        down(other)
    assert hermetic.node_ready()
