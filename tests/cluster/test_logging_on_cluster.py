"""What kubefunc logs on a cluster: where a call is, and never what it carries."""

from __future__ import annotations

import base64
import json
import logging

import pytest

from tests.cluster import work
from tests.cluster.spaces import Space

ARGUMENT, VARIABLE, PRINTED = (f"{word}-never-to-be-logged" for word in ("argument", "env", "print"))


def test_the_log_tells_where_a_call_is_and_nothing_that_it_carries(
    calling: Space, caplog: pytest.LogCaptureFixture
) -> None:
    """Created, over and deleted at INFO; requests and watches at DEBUG; no value, key or token anywhere."""
    with caplog.at_level(logging.DEBUG, logger="kubefunc"):
        call = work.print_and_give.options(detach=True, env={"SECRET_SETTING": VARIABLE}).remote(PRINTED, ARGUMENT)
        assert call.result(60) == ARGUMENT.upper()
        (secret,) = calling.admin.get("secrets", "-l", f"kubefunc/call={call.id}")
        call.discard()
    written = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("kubefunc"))
    assert f"{call.id}: created in namespace {calling.namespace}" in written
    assert f"{call.id}: fetching -> over" in written or f"{call.id}: running -> over" in written
    assert f"POST /apis/batch/v1/namespaces/{calling.namespace}/jobs: 201" in written
    assert "watch of " in written
    token = json.loads(calling.kubeconfig.read_text())["users"][0]["user"]["token"]
    key = base64.b64decode(secret["data"]["key"])
    texts = [ARGUMENT, ARGUMENT.upper(), VARIABLE, PRINTED, token, key.hex()]
    encoded = [base64.b64encode(data).decode() for data in (key, *(text.encode() for text in texts))]
    assert [text for text in (*texts, *encoded) if text in written] == []
