"""Implements :class:`kubefunc.backends.operations.Operations` on one cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator, Sequence

from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.kubeconfig import ClusterConfig
from kubefunc.backends.kubernetes.api.requests import Api, ApiError, JsonDict, as_error
from kubefunc.backends.kubernetes.objects.labels import CALL_LABEL, MANAGED_BY, MANAGED_BY_LABEL
from kubefunc.backends.kubernetes.objects.origin import label_value, origin_here
from kubefunc.backends.kubernetes.objects.paths import jobs_path, pods_path, secrets_path
from kubefunc.backends.kubernetes.operating import explaining
from kubefunc.backends.kubernetes.operating.doctor import Doctor
from kubefunc.backends.kubernetes.operating.following import Follower
from kubefunc.backends.kubernetes.operating.logs import read_logs
from kubefunc.backends.kubernetes.operating.reading import events_about, list_all
from kubefunc.backends.kubernetes.operating.stored import in_order, stored_calls
from kubefunc.backends.operations import Check, LogPiece, LogWish, StoredCall
from kubefunc.diagnosis import Diagnosis
from kubefunc.options import Options

OURS = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
# The API's own default would orphan the Pods (client-python#234).
_DELETE: JsonDict = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}


class ClusterOperations:
    """The calls of one cluster, by requests alone: no watches, no threads but those that follow logs."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._api = Api(config)

    @property
    def namespace(self) -> str:
        return self._config.namespace

    @property
    def user(self) -> str:
        return label_value(origin_here().user)

    def list_calls(self, namespace: str | None) -> Sequence[StoredCall]:
        with _as_ours():
            return stored_calls(*self._objects(namespace, OURS))

    def find(self, namespace: str, call: str) -> StoredCall | None:
        with _as_ours():
            found = stored_calls(*self._objects(namespace, f"{OURS},{CALL_LABEL}={call}"))
        return found[0] if found else None

    def ask_workers(self, calls: Sequence[StoredCall]) -> list[StoredCall]:
        asked = [call for call in calls if call.pool and call.state == "running" and call.pods]
        if not asked:
            return list(calls)
        from kubefunc.backends.kubernetes.warm.asking import states_of  # most namespaces have none

        said = states_of(self._api, [(call.namespace, call.pods[-1].name) for call in asked])
        workers = {call.address: state for call, state in zip(asked, said, strict=True)}
        return [dataclasses.replace(call, worker=workers.get(call.address, "")) for call in calls]

    def explain(self, call: StoredCall) -> Diagnosis:
        with _as_ours():
            jobs, pods = self._objects(call.namespace, f"{OURS},{CALL_LABEL}={call.id}")
        if not jobs:
            return Diagnosis("JobDeleted", "The Job is gone.", call=call.id, namespace=call.namespace)
        events_of = functools.partial(events_about, self._api, call.namespace)
        return explaining.explain(call, in_order(jobs), pods, events_of)

    def logs(self, call: StoredCall, wish: LogWish, tell: Callable[[str], None]) -> Iterator[LogPiece]:
        with _as_ours():
            if wish.follow:
                yield from Follower(self._api, self, call, wish, tell).pieces()
            else:
                yield from read_logs(self._api, call, wish)

    def check(self, namespace: str, options: Options) -> Iterator[Check]:
        return Doctor(self._api, self._config, namespace).checks(options)

    def remove(self, call: StoredCall) -> None:
        with _as_ours():
            for job in call.jobs:
                self._delete(f"{jobs_path(call.namespace)}/{job}", _DELETE)
                self._delete(
                    f"{secrets_path(call.namespace)}/{job}", None
                )  # where its client died before giving it away

    def _objects(self, namespace: str | None, selector: str) -> tuple[list[JsonDict], list[JsonDict]]:
        """Jobs first: a Pod whose Job is not listed yet belongs to nothing that is shown."""
        return list_all(self._api, jobs_path(namespace), selector), list_all(self._api, pods_path(namespace), selector)

    def _delete(self, path: str, body: JsonDict | None) -> None:
        try:
            self._api.request("DELETE", path, body=body)
        except ApiError as error:
            if not error.not_found:
                raise


@contextlib.contextmanager
def _as_ours() -> Generator[None]:
    """The API server's refusals as kubefunc's errors."""
    try:
        yield
    except TROUBLE as error:
        raise as_error(error) from error
