"""Whether these credentials may exec, known before it matters."""

from __future__ import annotations

import threading

from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.requests import Api

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class ExecPermission:
    """Asked once a namespace, before the first call there: a courier waits a minute for a client that may not come.

    What exec itself answers later corrects it. Every authenticated user may ask (``system:basic-user``); where the
    question itself is refused, exec is tried.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.RLock()
        self._refused: dict[str, bool] = {}

    def ask(self, namespace: str) -> None:
        """Find out, unless that is known."""
        with self._lock:
            if namespace in self._refused:
                return
            self._refused[namespace] = not self._allowed(namespace)

    def is_refused(self, namespace: str) -> bool:
        return self._refused.get(namespace, False)

    def refused(self, namespace: str) -> None:
        """exec has said no. An API server that has just restarted says so to everybody for a moment."""
        if self._api.settled:
            self._refused[namespace] = True

    def _allowed(self, namespace: str) -> bool:
        attributes = {"namespace": namespace, "verb": "create", "resource": "pods", "subresource": "exec"}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        try:
            status = self._api.request("POST", _REVIEWS, body=review).body.get("status", {})
        except TROUBLE:
            return True  # the call itself will meet the same trouble, and say so
        return bool(status.get("allowed", True))
