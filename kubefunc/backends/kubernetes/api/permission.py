"""What these credentials may do, known before it matters."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kubefunc.backends.kubernetes.api.errors import TROUBLE, ApiError
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.objects.paths import ACCESS_REVIEWS, objects_path


@dataclass(frozen=True)
class Action:
    """One verb on one kind of object; of Pods ``resource`` may be ``pods/exec``."""

    verb: str
    resource: str
    group: str = ""

    def path(self, namespace: str) -> str:
        """Of all such objects of a namespace."""
        return objects_path(self.resource, namespace, self.group)


EXEC = Action("create", "pods/exec")
# Without these a Job starts, and its call ends in an error later: a watch that is refused is asked for again and again,
# for a server that restarts refuses it too. All else of the Role is asked for before the Job starts, or can be missed.
NEEDED = (Action("watch", "pods"), Action("watch", "jobs", "batch"), Action("delete", "jobs", "batch"))


def are_granted(rules: Iterable[Mapping[str, Any]], action: Action) -> bool:
    """Whether one of the rules of a SelfSubjectRulesReview allows this.

    >>> are_granted([{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}], Action("watch", "pods"))
    True
    """
    return any(
        not rule.get("resourceNames")
        and _named(rule.get("verbs"), action.verb)
        and _named(rule.get("apiGroups"), action.group)
        and _named(rule.get("resources"), action.resource)
        for rule in rules
    )


def _named(listed: object, name: str) -> bool:
    return isinstance(listed, list) and ("*" in listed or name in listed)


class ExecPermission:
    """Asked before the first call in a namespace, by one request where the cluster knows all the rules.

    A courier waits a minute for a client that may not exec: what exec itself answers later corrects what is known.
    Every authenticated user may ask (``system:basic-user``); where the question itself is refused, all is tried.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.RLock()
        self._refused: dict[str, bool] = {}

    def ask(self, namespace: str) -> None:
        """Find out, unless that is known.

        Raises:
            ApiError: an action that every call needs is not allowed, in the server's own words. It is asked for
                again by the next call: the Role may have been mended.
        """
        with self._lock:
            if namespace in self._refused:
                return
            denied = self._denied(namespace)
            for action in NEEDED:
                if action in denied:
                    self._try(namespace, action)
            self._refused[namespace] = EXEC in denied

    def is_refused(self, namespace: str) -> bool:
        return self._refused.get(namespace, False)

    def refused(self, namespace: str) -> None:
        """exec has said no. An API server that has just restarted says so to everybody for a moment."""
        if self._api.settled:
            self._refused[namespace] = True

    def _denied(self, namespace: str) -> set[Action]:
        """Those of the actions that are known not to be allowed."""
        status = _review(self._api, "SelfSubjectRulesReview", {"namespace": namespace})
        rules = status.get("resourceRules") or []
        unnamed = {action for action in (*NEEDED, EXEC) if not are_granted(rules, action)}
        if rules and not status.get("incomplete", True):
            return unnamed
        # Webhooks of managed clusters decide without telling their rules: each action is a question then.
        return {action for action in unnamed if not is_allowed(self._api, namespace, action)}

    def _try(self, namespace: str, action: Action) -> None:
        """Do it where it has no effect, for the server's words; it may be allowed after all."""
        path = action.path(namespace)
        if action.verb == "watch":
            with self._api.stream_lines(path, {"watch": "true", "timeoutSeconds": "1"}):
                return
        try:
            self._api.request("DELETE", f"{path}/kubefunc-may-delete", query={"dryRun": "All"})
        except ApiError as error:
            if not error.not_found:
                raise


def is_allowed(api: Api, namespace: str, action: Action) -> bool:
    """What the server answers about one action; where it does not say, yes: the action itself will show."""
    resource, _, subresource = action.resource.partition("/")
    attributes = {
        "namespace": namespace,
        "verb": action.verb,
        "group": action.group,
        "resource": resource,
        "subresource": subresource,
    }
    status = _review(api, "SelfSubjectAccessReview", {"resourceAttributes": attributes})
    return bool(status.get("allowed", True))


def _review(api: Api, kind: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    try:
        status = api.request("POST", f"{ACCESS_REVIEWS}/{kind.lower()}s", body=review).body.get("status")
    except TROUBLE:
        return {}  # the call itself will meet the same trouble, and say so
    return status if isinstance(status, dict) else {}
