"""A node that is cut off: what ran there runs again elsewhere, and of a map only what was not here yet."""

from __future__ import annotations

import re

import pytest

from kubefunc.backends.kubernetes.objects.job_spec import job_name
from tests.cluster import mapped
from tests.cluster.cluster import Cluster
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left, until_running

QUICK = {"spec": {"terminationGracePeriodSeconds": 1}}  # a Pod is taken for lost 30 s after its grace


@pytest.mark.alone
def test_a_node_that_is_cut_off(calling: Space, hermetic: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Its Pods are told to end, and never say that they have. (Kubernetes itself tells them so after a minute.)"""
    function = mapped.hang_in_the_first_job.options(pod_template=QUICK)
    call = function.remote(True)
    a_map = function.map([False, False, True] * 2, chunksize=3)
    until_running(call)
    eventually(lambda: a_map.progress.ended == 4, 60, "the map's quick items")
    others = {job_name(call.id, 2), job_name(a_map.id, 2)}
    with hermetic.cut_off():
        calling.admin.run("delete", "pods", "--all", "--wait=false")
        eventually(lambda: others <= {job["metadata"]["name"] for job in calling.admin.get("jobs")}, 60, "new Jobs")
    assert call.result(90).startswith(job_name(call.id, 2))
    # Each Pod is given up by itself: where that is a moment apart, its item has a Job of its own.
    assert [re.search(r"-r\d+-", pod) is not None for pod in a_map.result(90)] == [False, False, True] * 2
    assert "they run again" in capsys.readouterr().err
    nothing_left(calling, 60)
