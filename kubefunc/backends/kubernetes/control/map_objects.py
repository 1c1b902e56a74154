"""What a map's Job is made of, and what is read from it again: data in, data out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle  # type: ignore[import-untyped, unused-ignore]

from kubefunc.backends.base import Submission
from kubefunc.backends.kubernetes.attempts.layout import Layout
from kubefunc.backends.kubernetes.control.archives import archive_for
from kubefunc.backends.kubernetes.control.jobs import JsonDict
from kubefunc.backends.kubernetes.objects import kept
from kubefunc.backends.kubernetes.objects.demands import NOTHING, Demands
from kubefunc.backends.kubernetes.objects.job_spec import ITEMS_LIMIT, SECRETS_LIMIT, Indexed, JobSpec, job_name
from kubefunc.backends.kubernetes.objects.labels import ATTEMPT_ANNOTATION
from kubefunc.backends.kubernetes.objects.origin import origin_here
from kubefunc.backends.kubernetes.objects.volumes import IN_VOLUME
from kubefunc.backends.runner_specs import gang_spec, pod_spec
from kubefunc.chunks import AT_LEAST_PODS, FIXED_PODS, MAX_PARALLELISM, chunksize
from kubefunc.errors import ConfigurationError
from kubefunc.options import Options
from kubefunc.runner import ARCHIVE, ITEMS, KEY_FILE, PAYLOAD, RESULT_TTL, SKIP_WAIT, SPEC_FILE
from kubefunc.runner.protocol import records
from kubefunc.runner.protocol.spec import RunnerSpec

OPTIONS = "options"
MEETING_PORT = 29400
MASTER_PORT = 29500  # the default of torch.distributed
PLACES_NEEDED = (
    "it has more chunks than Pods at once, so a chunk's results above 4 MiB are kept for "
    f"{RESULT_TTL:.0f} s only, unless you give result_ttl=: collect them sooner, or raise max_parallelism="
)


@dataclass(frozen=True)
class Plan:
    """One Job of a map or gang, before it is made.

    Attributes:
        submission: what it runs, with the number of this attempt.
        namespace: where.
        layout: how its items lie in chunks.
        uploads_items: the arguments are too much for Secrets: each Pod is brought its own.
    """

    submission: Submission
    namespace: str
    layout: Layout
    uploads_items: bool

    @property
    def job(self) -> str:
        return job_name(self.submission.call, self.submission.attempt)


def plan_of(submission: Submission, namespace: str, *, adapts: bool) -> Plan:
    """How to run these items.

    Args:
        submission: their map, with the number of this attempt.
        namespace: where.
        adapts: running Pods can be asked to give items back.
    """
    size = sum(map(len, submission.items.values())) + records.ITEM.size * len(submission.items)
    return Plan(submission, namespace, layout_of(submission, adapts=adapts), size > ITEMS_LIMIT)


def layout_of(submission: Submission, *, adapts: bool) -> Layout:
    """How the items of a map, or of a part of it, lie in chunks."""
    indexes = sorted(submission.items)
    whole = range(submission.count)
    few = AT_LEAST_PODS if adapts else FIXED_PODS
    wanted = submission.chunk_hint or submission.chunksize
    size = wanted or chunksize(len(indexes), submission.options, submission.max_parallelism, few)
    return Layout(submission.count, size, whole if len(indexes) == len(whole) else indexes)


def job_spec(plan: Plan, files: Mapping[str, bytes], session: str, demands: Demands = NOTHING) -> JobSpec:
    """All that the Job is made of.

    Args:
        plan: what it runs.
        files: those of :func:`files_of`.
        session: of the program that makes it.
        demands: what the namespace demands of containers.
    """
    submission, layout = plan.submission, plan.layout
    return JobSpec(
        call=submission.call,
        session=session,
        function=submission.function,
        namespace=plan.namespace,
        options=submission.options,
        files={**files, SPEC_FILE: _runner_spec(plan).encoded()},
        attempt=submission.attempt,
        origin=origin_here(),
        module=submission.module,
        demands=demands,
        indexed=Indexed(
            items=len(layout.indexes),
            chunks=len(layout.chunks),
            longest=layout.size,
            parallelism=submission.max_parallelism or MAX_PARALLELISM,
        ),
    )


def files_of(plan: Plan) -> dict[str, bytes]:
    """Beside ``spec.json``."""
    submission = plan.submission
    files = {ARCHIVE: archive_for(submission), KEY_FILE: submission.key, OPTIONS: _written_options(submission)}
    if submission.payload.size <= SECRETS_LIMIT:
        files[PAYLOAD] = submission.payload.data
    if not plan.uploads_items:
        items = submission.items
        joined = (records.join_items([(index, items[index]) for index in chunk]) for chunk in plan.layout.chunks)
        files[ITEMS] = records.join_chunks(list(joined))
    return files


def _runner_spec(plan: Plan) -> RunnerSpec:
    """What the runner must know of each chunk."""
    submission = plan.submission
    described = {
        **plan.layout.as_json(),
        "max_parallelism": submission.max_parallelism,
    }
    wait = RESULT_TTL if needs_places_again(plan) else submission.options.result_wait
    return pod_spec(submission, upload=submission.payload.size > SECRETS_LIMIT).replace(
        result_ttl=wait,
        map=described,
        gang=_gang_of(plan),
        upload_items=plan.uploads_items,
        skip_wait=0.0 if submission.options.detach else SKIP_WAIT,
    )


def _gang_of(plan: Plan) -> dict[str, object] | None:
    """Its ranks, by the names that the Job and its headless Service give the Pods."""
    if plan.submission.options.gang is None:
        return None
    job = plan.job
    peers = [f"{job}-{rank}.{job}.{plan.namespace}.svc" for rank in range(plan.submission.count)]
    return gang_spec(peers, MEETING_PORT, MASTER_PORT, apart=True)


def map_of(spec: RunnerSpec) -> Mapping[str, Any]:
    """What a spec says of its map."""
    if spec.map is None:
        raise ValueError(f"{spec.call} is no map")
    return spec.map


def needs_places_again(plan: Plan) -> bool:
    """Whether a Pod of a detached map that keeps its results would keep another one from running."""
    options, places = plan.submission.options, plan.submission.max_parallelism or MAX_PARALLELISM
    return options.detach and options.result_ttl is None and len(plan.layout.chunks) > places


def secrets_of(job: JsonDict) -> list[str]:
    """The names of the Secrets that a Job mounts."""
    volumes: list[JsonDict] = job["spec"]["template"]["spec"]["volumes"]
    (mine,) = (volume for volume in volumes if volume["name"] == IN_VOLUME)
    return [source["secret"]["name"] for source in mine["projected"]["sources"] if "secret" in source]


def attempt_of(job: JsonDict) -> int:
    """Which Job of its map this is."""
    return int(job["metadata"]["annotations"][ATTEMPT_ANNOTATION])


def joined(files: Mapping[str, bytes], name: str) -> bytes:
    """A file that several Secrets may share."""
    if name in files:
        return files[name]
    count = sum(each.startswith(f"{name}.") for each in files)
    return b"".join(files[f"{name}.{number}"] for number in range(count))


def _written_options(submission: Submission) -> bytes:
    """For who runs failed items again from another process: signed, as they are unpickled there."""
    try:
        return kept.signed(submission.key, bytes(cloudpickle.dumps(submission.options)))
    except Exception:  # noqa: BLE001 - a pod_template may be anything; only retry_failed() elsewhere needs it
        return b""


def read_options(files: Mapping[str, bytes]) -> Options:
    """The options of a map that another process has submitted.

    Raises:
        ConfigurationError: they could not be kept.
    """
    written = kept.verified(files[KEY_FILE], files.get(OPTIONS, b""))
    options: Any = cloudpickle.loads(written) if written else None
    if not isinstance(options, Options):
        raise ConfigurationError(
            "The options of this map could not be kept on the cluster: map its failed inputs again."
        )
    return options
