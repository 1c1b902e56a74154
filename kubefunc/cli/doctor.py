"""``kubefunc doctor``: can calls run on the cluster, and if not, what is in their way."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from kubefunc.backends.operations import Check
from kubefunc.choice import choose_backend
from kubefunc.cli.place import Place, context_option, json_option, namespace_option, place_of
from kubefunc.cli.shown import print_json, styled, visible, visible_lines
from kubefunc.errors import KubefuncError, PythonMismatchError
from kubefunc.options import Options, environment_layer
from kubefunc.role import NAME, Rule, rule_yaml

CALL_WITHIN = 120.0  # seconds for a Pod to start: a first pull of the image takes most of them
_STATES = {"ok": "succeeded", "warning": "pending", "problem": "failed", "unknown": "queued"}
_COLUMN = 12


@click.command()
@namespace_option
@context_option
@click.option("--call", is_flag=True, help="Also run a real call, which shows image, Python and nodes.")
@json_option
def doctor(*, namespace: str | None, context: str | None, call: bool, json_wanted: bool) -> None:
    """Check that calls can run: server, login, permissions, security level, quota, limits.

    The last line is "Kubernetes: ready" (exit code 0) or "Kubernetes: not ready" (1). Rules that your Role lacks
    stand below it as YAML.
    """
    found: list[Check] = []
    for check in _checks(namespace, context, with_call=call):
        found.append(check)
        if not json_wanted:
            _print(check)
    is_ready = all(check.status != "problem" for check in found)
    missing = [rule for check in found for rule in check.missing]
    if json_wanted:
        print_json({"ready": is_ready, "checks": [_as_json(check) for check in found]})
    else:
        click.echo(f"Kubernetes: {'ready' if is_ready else 'not ready'}")
        if missing:
            click.echo(_rules_to_add(missing), nl=False)
    sys.exit(0 if is_ready else 1)


def _checks(namespace: str | None, context: str | None, *, with_call: bool) -> Iterator[Check]:
    try:
        place = place_of(namespace, context, "kubernetes")
        calls_run_here = choose_backend(None, place.context, os.environ).cluster is None
    except KubefuncError as error:
        yield Check("kubeconfig", "problem", str(error))
        if _without_cluster(context):
            yield Check("backend", "warning", "As no cluster is configured, calls run on this machine.")
        return
    where = f"Context {place.choice.cluster.context} of {place.choice.cluster.source}" if place.choice.cluster else ""
    yield Check("kubeconfig", "ok", f"{where}, namespace {place.namespace}.")
    if calls_run_here:
        yield Check("backend", "warning", "KUBEFUNC_BACKEND=local: calls run on this machine.", "Unset it.")
    problems = 0
    for check in place.operations.check(place.namespace, Options.from_layers(environment_layer(os.environ))):
        problems += check.status == "problem"
        yield check
    if with_call and not problems:
        yield _called(place)


def _without_cluster(context: str | None) -> bool:
    try:
        return choose_backend(None, context, os.environ).cluster is None
    except KubefuncError:
        return False


def _called(place: Place) -> Check:
    """A function that every Python has, run as any other."""
    from kubefunc.function import remote
    from kubefunc.session import session

    session().use(place.choice, place.context)
    probe: Any = remote(platform.python_version)
    probe = probe.options(
        context=place.context, namespace=place.namespace, verbose=False, keep="never", schedule_timeout=CALL_WITHIN
    )
    try:
        call = probe.remote()
        version = call.result()
    except PythonMismatchError as error:
        return _failed("The image has another minor version of Python than this machine.", error)
    except KubefuncError as error:
        return _failed("A call failed.", error)
    return Check("call", "ok", f"A call ran on node {call.stats.node}, with Python {version}.")


def _failed(message: str, error: KubefuncError) -> Check:
    told = error.diagnosis
    if told is None:
        return Check("call", "problem", f"{message} {error}")
    return Check("call", "problem", f"{message} {told.message}", told.advice, told.events)


def _print(check: Check) -> None:
    word = styled(f"{check.status:8}", _STATES[check.status])
    indent = "\n" + " " * (_COLUMN + 9)
    lines = [visible_lines(check.message).replace("\n", indent)]
    lines += [f"cluster: {visible(word)}" for word in check.words]
    lines += [f"do: {check.advice}"] if check.advice and check.status != "ok" else []
    click.echo(f"{word} {check.name:{_COLUMN}}{indent.join(lines)}")


def _rules_to_add(missing: Sequence[Rule]) -> str:
    head = f"# Add to the rules of the Role (`kubefunc role` prints all of it; its name there is {NAME}):\nrules:\n"
    return head + "".join(rule_yaml(rule) for rule in missing)


def _as_json(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "status": check.status,
        "message": check.message,
        "advice": check.advice or None,
        "cluster": list(check.words),
        "missing_rules": _role_rules(check.missing),
    }


def _role_rules(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """Rules as they stand in a Role."""
    return [{"apiGroups": [each.group], "resources": [each.resource], "verbs": list(each.verbs)} for each in rules]
