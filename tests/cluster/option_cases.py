"""For each option the values whose objects the API server must accept. An option without a case fails a unit test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kubefunc import ConfigMapKey, SecretKey
from kubefunc.volumes import PersistentVolumeClaim

PREFERRED: Final = {
    "weight": 1,
    "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}},
}
SPREAD: Final = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
CASES: Final[Mapping[str, Sequence[Any]]] = {
    "pool": [True],
    "image": ["registry.example:5000/team/image@sha256:" + "0" * 64],
    "cpu": [0.5, "250m"],
    "memory": ["512Mi", ("1Gi", "8Gi"), 2**30],
    "cpu_limit": [2],
    "gpu": [1, {"amd.com/gpu": 2}],
    "timeout": [600, 0.5],
    "retries": [100],
    "retry_exceptions": [ValueError],
    "deadline": [3600.5],
    "schedule_timeout": [60],
    "pull_allowance": [1],
    "max_disruptions": [0, 1000],
    "env": [{"A": "text", "B": SecretKey("login", "password"), "C": ConfigMapKey("app", "level"), "PATH": "/opt/bin"}],
    "service_account": ["runner"],
    "run_as_user": [1000, 0],
    "volumes": [{"/data": PersistentVolumeClaim("corpus", read_only=True)}],
    "publish": [ConfigMapKey("scores", "result"), SecretKey("scores", "result")],
    "packages": [["requests>=2"]],
    "package_index": ["https://pypi.example/simple"],
    "package_cache": [PersistentVolumeClaim("pip-cache")],
    "sync_limit": ["100Mi", None],
    "context": [None],
    "namespace": [None],
    "labels": [{"team": "ml", "example.org/cost": "7"}],
    "annotations": [{"note": "any text, ünïcode"}],
    "node_selector": [{"disk": "ssd"}],
    "tolerations": [["dedicated=ml:NoSchedule", {"key": "spot", "operator": "Exists"}]],
    "priority_class": ["high"],
    "image_pull_secrets": [["registry"]],
    "image_pull_policy": ["Always", "Never"],
    "pod_template": [{"spec": {"hostNetwork": True, "dnsPolicy": "Default"}}],
    "owner": ["pod"],
    "mesh": [True],
    "evictable": [True],
    "untrusted": [True],
    "ports": [{"http": 8080}],
    "service": ["scores"],
    "gang": [1, 4],
    "runtime_class": ["gvisor"],
    "queue": ["team-a"],
    "affinity": [{"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [PREFERRED]}}],
    "topology_spread": [
        [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}]
    ],
    "init_containers": [[{"name": "prepare", "command": ["true"]}]],
    "sidecars": [[{"name": "proxy", "image": "envoyproxy/envoy:v1.30-latest"}]],
    "host_aliases": [{"10.0.0.7": ["db", "db.internal"]}],
    "security_context": [{"fsGroup": 1000, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}],
    "backoff_limit": [0, 3],
    "job_template": [{"metadata": {"annotations": {"a": "b"}}, "spec": {"suspend": True}}],
    "detach": [True],
    "on_sigterm": ["cancel"],
    "verbose": [False],
    "logging": [False],
    "progress": [False],
    "express": [False],
    "inline": [False],
    "results_in_log": [False],
    "fetch_grace": [0],
    "result_ttl": [86400],
    "ttl": [0, 0.5],
    "keep": ["always"],
    "stream_ahead": [1],
}
NEEDED: Final[Mapping[str, Mapping[str, Any]]] = {"service": {"ports": {"http": 8080}}}  # beside the option
PAIRS: Final = [(name, value) for name, values in CASES.items() for value in values]


def case_name(part: object) -> str:
    """For the names of tests."""
    return part if isinstance(part, str) else ""
