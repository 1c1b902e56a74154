"""``kubefunc ls`` and ``kubefunc show``: which calls there are, and how one of them is."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import click

from kubefunc.backends.operations import StoredCall, StoredPod
from kubefunc.cli.place import CallId, Place, json_option, mine_option, with_place
from kubefunc.cli.shown import (
    Column,
    age,
    labelled,
    moment,
    print_json,
    print_table,
    styled,
    visible,
    visible_lines,
)
from kubefunc.diagnosis import Diagnosis

STATES = ("queued", "pending", "starting", "running", "succeeded", "failed")
PODS_SHOWN = 10


@click.command()
@with_place
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="The calls of all namespaces.")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only calls in this state.")
@mine_option
@json_option
def ls(*, place: Place, everywhere: bool, states: tuple[str, ...], mine: bool, json_wanted: bool) -> None:
    """List the calls and maps of a namespace, the newest last.

    Results that were collected are gone, and so are their Jobs: finished calls in the list have failed, or were
    made with detach=True. Warm workers say what they do: busy, idle (a program has it), or free.
    """
    found = place.list_calls(everywhere=everywhere, mine=mine)
    calls = place.operations.ask_workers([call for call in found if not states or call.state in states])
    if json_wanted:
        print_json([call_as_json(call) for call in calls])
        return
    if not calls:
        where = "any namespace" if everywhere else f"the namespace {place.namespace}"
        which = f"{' of yours' if mine else ''}{' in this state' if states else ''}"
        click.echo(f"No calls{which} in {where}.", err=True)
        return
    now = datetime.datetime.now(datetime.timezone.utc)
    columns = [
        Column("ID"),
        Column("STATE"),
        Column("AGE", 4),
        Column("RAN", 3),
        Column("DONE", 5),
        Column("FUNCTION", 1),
        Column("USER", 2),
    ]
    rows = [_row(call, now) for call in calls]
    if everywhere:
        columns, rows = (
            [Column("NAMESPACE"), *columns],
            [[call.namespace, *row] for call, row in zip(calls, rows, strict=True)],
        )
    print_table(columns, rows)


def _row(call: StoredCall, now: datetime.datetime) -> list[str]:
    return [call.id, call.state, age(call.created, now), _ran(call, now), _done(call), _function(call), call.user]


def _function(call: StoredCall) -> str:
    """What a person knows it by."""
    return ", ".join(filter(None, ("warm worker", call.worker))) if call.pool else call.function


def _ran(call: StoredCall | StoredPod, now: datetime.datetime) -> str:
    """From its function's start to its end, or until now."""
    end = moment(call.finished) if call.finished else now
    return age(call.started, end) if end is not None else ""


def _done(call: StoredCall) -> str:
    """How many of its Pods' shares have ended: 1 for a call."""
    ended = call.succeeded + call.failed
    if call.pool:
        return ""
    if call.shape == "single":
        ended = int(call.is_finished)
    return f"{ended}/{call.chunks}"


def call_as_json(call: StoredCall) -> dict[str, Any]:
    """The document of one call: the fields of StoredCall, with null for what is not known."""
    fields = {name: None if value == "" else value for name, value in dataclasses.asdict(call).items()}
    fields["pods"] = [
        {name: None if value == "" else value for name, value in dataclasses.asdict(pod).items()} for pod in call.pods
    ]
    return fields


@click.command()
@with_place
@click.argument("call", metavar="ID", type=CallId())
@json_option
def show(*, place: Place, call: str, json_wanted: bool) -> None:
    """Show a call: who made it, its Pods, and what it waits for or how it ended."""
    (found,) = place.operations.ask_workers([place.find(call)])
    diagnosis = place.operations.explain(found)
    if json_wanted:
        print_json({**call_as_json(found), "diagnosis": _diagnosis_as_json(diagnosis)})
        return
    now = datetime.datetime.now(datetime.timezone.utc)
    click.echo(f"{found.id}  {styled(found.state, found.state)}")
    click.echo(labelled(_facts(found, now)))
    for line in _pod_lines(found, now):
        click.echo(visible(line))
    click.echo()
    click.echo(visible_lines(_words(diagnosis).replace(found.address, place.short(found))))


def _facts(call: StoredCall, now: datetime.datetime) -> dict[str, str]:
    made = [f"by {call.user}" if call.user else "", f"with {call.program}" if call.program else ""]
    made += [f"on {call.host}" if call.host else ""]
    since = f"{age(call.created, now)} ago" if call.created else ""
    module = f" in {call.module}" if call.module else ""
    return {
        "function": f"{_function(call)}{module}",
        "pool": call.pool,
        **_parts(call),
        "namespace": call.namespace,
        "made": ", ".join(filter(None, (" ".join(filter(None, made)), since))),
        "attempt": str(call.attempt) if call.attempt > 1 else "",
        "ran": _ran(call, now),
        "kubefunc": call.version,
    }


def _parts(call: StoredCall) -> dict[str, str]:
    """Of a map its items, of a gang its ranks; each Pod has a share of them."""
    if call.shape == "single":
        return {}
    ended = call.succeeded + call.failed
    if call.is_gang:
        return {"ranks": f"{call.chunks}, {ended} have ended"}
    return {"items": f"{call.items} in {call.chunks} Pods, {ended} of them have ended"}


def _pod_lines(call: StoredCall, now: datetime.datetime) -> list[str]:
    """The Pods that matter most: those that have not ended first."""
    order = {state: position for position, state in enumerate((*STATES[:4], "failed", "succeeded"))}
    pods = sorted(call.pods, key=lambda pod: order[pod.state])
    lines = [f"  Pod {pod.name}: {_pod_words(pod, now)}" for pod in pods[:PODS_SHOWN]]
    more = len(pods) - PODS_SHOWN
    return [*lines, f"  and {more} more Pods"] if more > 0 else lines


def _pod_words(pod: StoredPod, now: datetime.datetime) -> str:
    ran, code = _ran(pod, now), pod.exit_code
    parts = [pod.state, f"for {ran}" if ran and pod.state == "running" else f"after {ran}" if ran else ""]
    parts += [f"on node {pod.node}" if pod.node else "", f"(exit code {code})" if code else ""]
    return " ".join(filter(None, parts))


def _words(diagnosis: Diagnosis) -> str:
    lines = [diagnosis.message, *(f"  cluster: {word}" for word in diagnosis.events)]
    return "\n".join([*lines, f"  do: {diagnosis.advice}"] if diagnosis.advice else lines)


def _diagnosis_as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "reason": diagnosis.reason or None,
        "message": diagnosis.message,
        "advice": diagnosis.advice or None,
        "pod": diagnosis.pod,
        "node": diagnosis.node,
        "exit_code": diagnosis.exit_code,
        "signal": diagnosis.signal,
        "events": list(diagnosis.events),
    }
