"""What a call's Job is made of, and the objects themselves: for who submits it, and for who wants to see them."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable

from kubefunc.backends.base import Submission
from kubefunc.backends.kubernetes.control.archives import archive_for
from kubefunc.backends.kubernetes.objects.demands import NOTHING, Demands
from kubefunc.backends.kubernetes.objects.job import build_job
from kubefunc.backends.kubernetes.objects.job_spec import SECRETS_LIMIT, JobSpec
from kubefunc.backends.kubernetes.objects.origin import origin_here
from kubefunc.backends.kubernetes.objects.secrets import build_secrets
from kubefunc.backends.kubernetes.objects.service import build_gang_service, build_service
from kubefunc.backends.kubernetes.objects.template import Json
from kubefunc.backends.runner_specs import pod_spec
from kubefunc.options.packages import SYNC
from kubefunc.options.parsers.quantities import size_in_bytes
from kubefunc.packing.cache_files import cache_directory
from kubefunc.packing.packages.imports import is_foreign
from kubefunc.runner import ARCHIVE, KEY_FILE, PAYLOAD, SPEC_FILE


def job_spec(submission: Submission, session: str, namespace: str, demands: Demands = NOTHING) -> JobSpec:
    """All that the Job of a single call is made of."""
    payload, options = submission.payload.data, submission.options
    uploads = len(payload) > SECRETS_LIMIT
    spec = pod_spec(submission, upload=uploads).replace(express=options.express and not options.detach)
    files = {ARCHIVE: archive_for(submission), SPEC_FILE: spec.encoded(), KEY_FILE: submission.key}
    if not uploads:
        files[PAYLOAD] = payload
    return JobSpec(
        call=submission.call,
        session=session,
        function=submission.function,
        namespace=namespace,
        options=options,
        files=files,
        attempt=submission.attempt,
        origin=origin_here(),
        module=submission.module,
        pool=submission.pool,
        demands=demands,
    )


def objects_of(submission: Submission, session: str, namespace: str) -> list[Json]:
    """The objects of a call or gang in the order in which they are created.

    Raises:
        ConfigurationError: ``pod_template`` takes away what kubefunc needs.
    """
    submission = with_packages(submission)
    if submission.shape == "map":
        from kubefunc.backends.kubernetes.control import map_objects  # a script with warm workers never needs it

        plan = map_objects.plan_of(submission, namespace, adapts=False)
        spec = map_objects.job_spec(plan, map_objects.files_of(plan), session)
    else:
        spec = job_spec(submission, session, namespace)
    services = [build_gang_service(spec, None), build_service(spec, None)]
    return [*build_secrets(spec), build_job(spec), *(each for each in services if each is not None)]


def with_packages(submission: Submission, tell: Callable[[str], None] = lambda words: None) -> Submission:
    """With what ``packages="sync"`` means for this function. ``tell`` is told what takes long."""
    options = submission.options
    if options.packages != SYNC:
        return submission
    from kubefunc.packing.packages.sync import plan  # only for those who use it

    modules = {name for name in submission.payload.imported() if is_foreign(name)}
    if options.pool is not None:
        modules |= set(options.pool.preload)
    limit = None if options.sync_limit is None else size_in_bytes(options.sync_limit)
    cache = cache_directory(os.environ, sys.platform) / "packages"
    wanted = plan(modules, cache, limit, _pods_of(submission), tell)
    return dataclasses.replace(submission, options=dataclasses.replace(options, packages=wanted))


def _pods_of(submission: Submission) -> int:
    """How many Pods start for it at once; of workers, which stay for other calls, those that a pool always has."""
    if submission.options.pool is not None:
        return max(1, submission.options.pool.min_workers)
    if submission.shape == "single":
        return 1
    from kubefunc.backends.kubernetes.control import map_objects

    return len(map_objects.layout_of(submission, adapts=True).chunks)
