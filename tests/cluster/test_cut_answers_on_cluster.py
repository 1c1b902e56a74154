"""Calls whose requests' answers are cut inside the headers or the body, on a real API server."""

from __future__ import annotations

import pytest

from kubefunc import attach, remote
from tests.cluster import work
from tests.cluster.proxy import AnswerCut, Proxy
from tests.cluster.spaces import Space
from tests.cluster.waiting import nothing_left

IN_THE_HEADERS = 40
IN_THE_BODY = 700
SIZES = pytest.mark.parametrize("size", [IN_THE_HEADERS, IN_THE_BODY], ids=["headers", "body"])


double = remote(verbose=False)(work.double)


@SIZES
def test_requests_whose_answers_are_cut(proxy: Proxy, kube: Space, size: int) -> None:
    """Secret, Job, patch, list and deletion: each is sent again, the call succeeds, and nothing is left."""
    proxy.answer_cuts += [
        AnswerCut("POST", "/secrets", size),
        AnswerCut("POST", "/jobs", size),
        AnswerCut("PATCH", "/secrets/", size),
        AnswerCut("GET", "/pods?", size),
        AnswerCut("GET", "/jobs?", size),
        AnswerCut("DELETE", "/jobs/", IN_THE_HEADERS),
    ]
    assert double.remote(4).result(timeout=60) == 8
    nothing_left(kube)
    assert not proxy.answer_cuts


@SIZES
def test_attaching_through_cut_answers(proxy: Proxy, size: int) -> None:
    """A list of Jobs or a Secret that comes in part is asked for again: the call is there, and is found."""
    call = double.options(detach=True).remote(4)
    assert call.result(timeout=60) == 8
    for cut in (AnswerCut("GET", "/jobs?labelSelector=kubefunc%2Fcall", size), AnswerCut("GET", "/secrets/", size)):
        proxy.answer_cuts.append(cut)
        assert attach(call.id).result(timeout=60) == 8
        assert not proxy.answer_cuts
    attach(call.id).discard()
