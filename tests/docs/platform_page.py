"""The YAML in docs/platform.md is what ``manifest()`` gives: ``python -m tests.docs.platform_page`` writes it anew.

A comment explains each part. What differs from call to call, or from machine to machine, is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml  # type: ignore[import-untyped, unused-ignore]

from kubefunc import remote
from kubefunc.backends.kubernetes.objects.labels import PROGRAM_LABEL, SESSION_LABEL, USER_LABEL
from kubefunc.options.running import default_image
from tests.conftest import ROOT

PAGE = ROOT / "docs/platform.md"
_BLOCK: Final = re.compile(r"(?<=```yaml\n).*?(?=```)", re.DOTALL)  # the first one of the page
_ID: Final = "train-k7r2m5q3x6w4t2zn"
_OF_ANOTHER_CALL: Final[Mapping[str, str]] = {
    USER_LABEL: "ada",
    PROGRAM_LABEL: "5d41402a",
    SESSION_LABEL: "8f14e45fce",
    "kubefunc/module": "jobs",
    "kubefunc/host": "laptop",
    "kubefunc/version": "0.1.0",
}
_SECRET: Final = "/v1/Secret"
_JOB: Final = "/batch/v1/Job"
_POD: Final = f"{_JOB}/spec/template/spec"
EXPLAINED: Final[Mapping[str, str]] = {
    _SECRET: "The function, its arguments and the key that signs its result. The Job owns it.",
    f"{_SECRET}/metadata/labels": "Whose call it is. Every object has these labels.",
    f"{_SECRET}/immutable": "It cannot be changed, so the kubelet does not watch it.",
    f"{_SECRET}/data": "kubefunc's runner (300 kB), how to run the call, its key, and the pickled call itself.",
    f"{_JOB}/metadata/annotations": "From which program and machine it comes.",
    f"{_JOB}/spec/backoffLimit": "How many Pods that were deleted or killed are replaced: backoff_limit=.",
    f"{_JOB}/spec/podFailurePolicy": (
        "A drained or preempted Pod is replaced. A failed one is not: retries= run in the same Pod."
    ),
    f"{_JOB}/spec/activeDeadlineSeconds": "The limit for waiting and running together: deadline=, by default 7 days.",
    f"{_JOB}/spec/ttlSecondsAfterFinished": "When a Job that was kept is deleted: ttl=, by default a day.",
    f"{_JOB}/spec/template/metadata/annotations": (
        "No mesh proxy, which would keep the Job from ending (mesh=). No eviction by autoscalers (evictable=)."
    ),
    f"{_POD}/restartPolicy": "The Job controller replaces Pods; the kubelet does not restart containers.",
    f"{_POD}/terminationGracePeriodSeconds": "A function that gets SIGTERM has 25 s to end.",
    f"{_POD}/automountServiceAccountToken": "The Pod has no credentials of the cluster, except with service_account=.",
    f"{_POD}/enableServiceLinks": "The addresses of unrelated Services stay out of the environment.",
    f"{_POD}/nodeSelector": "The runner needs Linux. node_selector= adds to this.",
    f"{_POD}/tolerations": "A Pod on a lost node is given up after 30 s instead of 5 minutes.",
    f"{_POD}/securityContext": "With run_as_user=1000 the Pod meets the level restricted.",
    f"{_POD}/containers": "The container main runs the function.",
    f"{_POD}/containers/0/image": "image=, by default that of the caller's Python.",
    f"{_POD}/containers/0/env": "env= adds to these; its values stand in the Secret.",
    f"{_POD}/containers/0/resources": (
        "cpu= and memory= of the caller. Without these options there are no requests and no limits."
    ),
    f"{_POD}/containers/1/name": (
        "The container courier hands out the result: the client reads it by exec, or from its log."
    ),
    f"{_POD}/volumes": "The Secret, readable by whichever user runs; the result; and /tmp.",
}


@remote(cpu=1, memory="1Gi", namespace="team-a")
def train(seed: int) -> float:
    """The function of the page."""
    return seed / 2


def block() -> str:
    """The YAML of one call, with comments."""
    objects = _replaced(train.manifest(1))
    return "---\n".join("\n".join(_explained(each)) + "\n" for each in objects)


def _replaced(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As another program would make them: the same each time."""
    name = objects[0]["metadata"]["name"]

    def replaced(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {each: "..." if key == "data" else replaced(each, inner) for each, inner in value.items()}
        if isinstance(value, list):
            return [replaced("", each) for each in value]
        named = {name: _ID, default_image(): "python:3.12-slim"}.get(value, value)
        return _OF_ANOTHER_CALL.get(key, named)

    return [replaced("", each) for each in objects]


def _explained(value: dict[str, Any]) -> Iterator[str]:
    path = f"/{value['apiVersion']}/{value['kind']}"
    yield from _comment(path, "")
    yield from _lines(value, path, "")


def _lines(value: Any, path: str, indent: str) -> Iterator[str]:
    """A mapping or list as block-style YAML, with a comment above what has one."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            inner = list(_lines(each, f"{path}/{number}", f"{indent}  ")) if isinstance(each, dict) else [_scalar(each)]
            first = next(place for place, line in enumerate(inner) if not line.lstrip().startswith("#"))
            yield from (line[2:] for line in inner[:first])
            yield f"{indent}- {inner[first].lstrip()}"
            yield from inner[first + 1 :]
        return
    for key, inner in value.items():
        yield from _comment(f"{path}/{key}", indent)
        if isinstance(inner, (dict, list)) and inner:
            yield f"{indent}{key}:"
            yield from _lines(inner, f"{path}/{key}", indent if isinstance(inner, list) else f"{indent}  ")
        else:
            yield f"{indent}{key}: {_scalar(inner)}"


def _scalar(value: object) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True)).partition("\n")[0]


def _comment(path: str, indent: str) -> Iterator[str]:
    if path in EXPLAINED:
        yield f"{indent}# {EXPLAINED[path]}"


def shown() -> str:
    """The block that is in the page now."""
    found = _BLOCK.search(PAGE.read_text(encoding="utf-8"))
    return found.group() if found is not None else ""


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_BLOCK.sub(lambda _: block(), text, count=1), encoding="utf-8")
