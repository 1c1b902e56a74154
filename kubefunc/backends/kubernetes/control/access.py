"""How a call of the cluster is reached: by its Service, or by a port that is forwarded to its Pods."""

from __future__ import annotations

from kubefunc import errors
from kubefunc.backends.base import Forward, Places
from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.requests import Api, as_error
from kubefunc.backends.kubernetes.control import forwarding
from kubefunc.backends.kubernetes.control.jobs import Jobs
from kubefunc.backends.kubernetes.objects.service import Reach, reach_of
from kubefunc.backends.reach import NO_SERVICE, port_number
from kubefunc.options import Options


class ClusterAccess:
    """Implements :class:`kubefunc.backends.base.Access`."""

    def __init__(self, api: Api, jobs: Jobs, call: str, namespace: str, options: Options | None) -> None:
        """``options``: where this client has submitted the call."""
        self._api = api
        self._jobs = jobs
        self._call = call
        self._namespace = namespace
        self._options = options

    def endpoint(self) -> str:
        reach = self._reach()
        if reach.service is None:
            raise errors.ConfigurationError(f"{self._call} {NO_SERVICE}.")
        return f"{reach.service}.{reach.namespace}.svc:{next(iter(reach.ports.values()))}"

    def forward(self, port: str | int | None, places: Places) -> Forward:
        reach = self._reach()
        own = Api(self._api.config, connections=forwarding.CONNECTIONS)
        return forwarding.Forward(own, reach.namespace, port_number(reach.ports, port), places)

    def _reach(self) -> Reach:
        """Known where this client has submitted it, else read from its Job."""
        if self._options is not None:
            return Reach(self._namespace, self._options.ports, self._options.service)
        try:
            jobs = self._jobs.of_call(self._namespace, self._call)
        except TROUBLE as error:
            raise as_error(error) from error
        if not jobs:
            raise errors.ConfigurationError(f"{self._call} has ended: its Job is gone from {self._namespace}.")
        return reach_of(self._namespace, jobs[-1])
