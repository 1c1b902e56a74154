"""A function that its caller does not trust, in a real Pod."""

from __future__ import annotations

import pytest

import kubefunc
from kubefunc import errors
from tests.cluster import distrusted
from tests.cluster.conftest import fresh_session
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually

WITHOUT_USER_NAMESPACE = {"hostUsers": True}  # the test cluster's runtime has none


def test_a_pod_of_an_untrusted_function(calling: Space) -> None:
    """No token, a root that it cannot write to, a label; its escapes and its exploit arrive as text."""
    look = distrusted.look.options(pod_template=WITHOUT_USER_NAMESPACE, keep="always")
    call = look.remote()
    assert call.result(60) == {"token": False, "written": ["/tmp"]}
    assert call.logs() == "\\x1b[2Jlooked\n"
    (pod,) = calling.admin.get("pods", "-l", "kubefunc/untrusted=true")
    assert pod["spec"]["automountServiceAccountToken"] is False
    with pytest.raises(errors.ResultError, match=r"not JSON|Nothing of it was unpickled"):
        distrusted.exploit.options(pod_template=WITHOUT_USER_NAMESPACE).remote().result(60)
    with pytest.raises(errors.RemoteError, match=r"^LookupError: no such station"):
        distrusted.fail.options(pod_template=WITHOUT_USER_NAMESPACE).map([1, 2]).result(60)
    calling.clear()


def test_who_attaches_unpickles_nothing_either(calling: Space) -> None:
    """Another process learns from the call's Secret that its function is not trusted."""
    options = {"pod_template": WITHOUT_USER_NAMESPACE, "detach": True}
    call, mapped = distrusted.look.options(**options).remote(), distrusted.fail.options(**options).map([1])
    eventually(lambda: len(calling.admin.get("jobs")) == 2, what="both Jobs")
    with fresh_session():
        attached, items = kubefunc.attach(call.id), kubefunc.attach_map(mapped.id)
        assert attached.result(60) == {"token": False, "written": ["/tmp"]}
        assert attached.logs() == "\\x1b[2Jlooked\n"
        assert isinstance(items.calls[0].exception(60), errors.RemoteError)
        attached.discard()
        items.discard()


def test_a_node_that_has_no_user_namespaces(calling: Space) -> None:
    """It is told within seconds, and nothing runs outside of one without the user's word."""
    with pytest.raises(errors.PodConfigError, match="user namespace") as raised:
        distrusted.look.remote().result(60)
    assert raised.value.diagnosis is not None
    assert "pod_template={'hostUsers': True}" in raised.value.diagnosis.advice
    calling.clear()
