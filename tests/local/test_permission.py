"""What is asked about permissions before the first call in a namespace, and what follows from the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubefunc.backends.kubernetes.api.errors import as_error
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api, ApiError
from kubefunc.errors import PermissionDeniedError
from tests.local.api_server import Peer, Request, Server, config_of

ALL = [
    {"verbs": ["list", "watch"], "apiGroups": [""], "resources": ["pods"]},
    {"verbs": ["create", "list", "watch", "delete"], "apiGroups": ["batch"], "resources": ["jobs"]},
    {"verbs": ["create"], "apiGroups": [""], "resources": ["pods/exec"]},
]


class Authorizer:
    """A server with these rules: it reviews them, as far as it tells them, and refuses what they lack."""

    def __init__(self, rules: list[dict[str, Any]], *, tells: bool = True, reviews: bool = True) -> None:
        self.rules = rules
        self.tells = tells
        self.reviews = reviews
        self.asked: list[str] = []

    def __call__(self, request: Request, peer: Peer) -> None:
        """Answer one request."""
        kind = request.path.rsplit("/", 1)[-1]
        self.asked.append(f"{request.method} {kind}")
        if kind.startswith("selfsubject") and not self.reviews:
            return peer.refuse(403, "Forbidden", "no reviews here")
        if kind == "selfsubjectrulesreviews":
            told = self.rules if self.tells else []
            return peer.json(201, {"status": {"resourceRules": told, "incomplete": not self.tells}})
        if kind == "selfsubjectaccessreviews":
            wanted = request.json()["spec"]["resourceAttributes"]
            name = "/".join(filter(None, (wanted["resource"], wanted["subresource"])))
            return peer.json(201, {"status": {"allowed": self._allows(wanted["verb"], wanted["group"], name)}})
        verb = "delete" if request.method == "DELETE" else "watch"
        resource = "jobs" if "/jobs" in request.path else "pods"
        if self._allows(verb, "batch" if resource == "jobs" else "", resource):
            return peer.refuse(404, "NotFound", "not found")
        group = "batch" if resource == "jobs" else ""
        words = f'{resource} is forbidden: User "ann" cannot {verb} resource "{resource}" in API group "{group}"'
        return peer.refuse(403, "Forbidden", f'{words} in the namespace "n"')

    def _allows(self, verb: str, group: str, resource: str) -> bool:
        return any(
            verb in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"]
            for rule in self.rules
        )


def without(verb: str, resource: str) -> list[dict[str, Any]]:
    """The rules that lack one verb of a resource."""
    return [
        {**rule, "verbs": [each for each in rule["verbs"] if each != verb]} if resource in rule["resources"] else rule
        for rule in ALL
    ]


@pytest.fixture
def permission(tmp_path: Path) -> Iterator[Callable[[Server], ExecPermission]]:
    """Makes one for a server."""
    apis: list[Api] = []

    def make(server: Server) -> ExecPermission:
        apis.append(Api(config_of(server.url, tmp_path, token="t")))
        return ExecPermission(apis[-1])

    yield make
    for api in apis:
        api.close()


def test_one_request_tells_all(permission: Callable[[Server], ExecPermission]) -> None:
    """Where all is allowed, the first call of a namespace costs one request, and later ones none."""
    authorizer = Authorizer(ALL)
    with Server(authorizer) as server:
        asked = permission(server)
        asked.ask("n")
        asked.ask("n")
        assert authorizer.asked == ["POST selfsubjectrulesreviews"]
        assert not asked.is_refused("n")
        asked.ask("m")
        assert len(authorizer.asked) == 2


@pytest.mark.parametrize("tells", [True, False], ids=["rules told", "rules not told"])
@pytest.mark.parametrize(("verb", "resource"), [("watch", "pods"), ("watch", "jobs"), ("delete", "jobs")])
def test_what_every_call_needs_is_told_before_it_starts(
    permission: Callable[[Server], ExecPermission], verb: str, resource: str, tells: bool
) -> None:
    """The missing rule, in the server's own words; the next call asks again, for the Role may have been mended."""
    authorizer = Authorizer(without(verb, resource), tells=tells)
    with Server(authorizer) as server:
        asked = permission(server)
        with pytest.raises(ApiError) as caught:
            asked.ask("n")
        error = as_error(caught.value)
        assert isinstance(error, PermissionDeniedError)
        assert f"may not {verb} {resource}" in str(error)
        authorizer.rules = ALL
        asked.ask("n")
        assert not asked.is_refused("n")


@pytest.mark.parametrize("tells", [True, False], ids=["rules told", "rules not told"])
def test_calls_go_on_without_exec(permission: Callable[[Server], ExecPermission], tells: bool) -> None:
    """A call does without exec: that it is refused is only remembered."""
    with Server(Authorizer(ALL[:2], tells=tells)) as server:
        asked = permission(server)
        asked.ask("n")
        assert asked.is_refused("n")


def test_where_nothing_may_be_asked_all_is_tried(permission: Callable[[Server], ExecPermission]) -> None:
    """A cluster that refuses the reviews themselves keeps no call from being tried."""
    with Server(Authorizer(ALL, reviews=False)) as server:
        asked = permission(server)
        asked.ask("n")
        assert not asked.is_refused("n")
