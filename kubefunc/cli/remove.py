"""``kubefunc cancel`` and ``kubefunc clean``: stop calls, delete finished ones."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence

import click

from kubefunc.backends.operations import StoredCall
from kubefunc.cli.calls import call_as_json
from kubefunc.cli.logs import Duration
from kubefunc.cli.place import NOT_FOUND, CallId, NotFound, Place, json_option, mine_option, parse_address, with_place
from kubefunc.cli.shown import moment, print_json, visible


@click.command()
@with_place
@click.argument("calls", metavar="ID...", nargs=-1, required=True, type=CallId(finished=False))
@json_option
def cancel(*, place: Place, calls: tuple[str, ...], json_wanted: bool) -> None:
    """Stop calls, whichever program made them, and delete their Jobs.

    A program that waits for such a call gets a JobDeletedError. A finished call is left alone: `kubefunc clean`
    deletes it with its result.
    """
    for call in calls:  # what is mistyped is refused before any call is stopped
        parse_address(call, place.namespace)
    cancelled: list[StoredCall] = []
    missing = False
    for call in calls:
        try:
            found = place.find(call)
        except NotFound as error:
            missing = True
            error.show()
            continue
        if found.is_finished:
            click.echo(
                f"{found.id} has already {found.state}; `kubefunc clean {place.short(found)}` deletes it.", err=True
            )
            continue
        place.operations.remove(found)
        cancelled.append(found)
        if not json_wanted:
            click.echo(f"cancelled {found.id}")
    if json_wanted:
        print_json([call_as_json(call) for call in cancelled])
    if missing:
        sys.exit(NOT_FOUND)


@click.command()
@with_place
@click.argument("calls", metavar="[ID...]", nargs=-1, type=CallId(finished=True))
@click.option("--failed", "only_failed", is_flag=True, help="Only failed calls: results of others stay.")
@mine_option
@click.option("--older-than", type=Duration(), help="Only calls that ended so long ago: 30m, 12h, 7d.")
@click.option("--dry-run", is_flag=True, help="Say which, and delete nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def clean(
    *,
    place: Place,
    calls: tuple[str, ...],
    only_failed: bool,
    mine: bool,
    older_than: float | None,
    dry_run: bool,
    yes: bool,
    json_wanted: bool,
) -> None:
    """Delete finished calls: their Jobs, Pods, Secrets and stored results.

    Without ids: those of the whole namespace, also those of others (--mine: yours alone). Calls that run or wait are
    never deleted (see `kubefunc cancel`). A result that nobody has collected is lost.
    """
    chosen = _chosen(place, calls) if calls else place.list_calls(mine=mine)
    now = datetime.datetime.now(datetime.timezone.utc)
    finished = [call for call in chosen if call.is_finished and (call.state == "failed" or not only_failed)]
    if older_than is not None:
        finished = [call for call in finished if _is_older(call, now - datetime.timedelta(seconds=older_than))]
    if finished and not dry_run and not yes:
        _ask(finished, place)
    for call in finished:
        if not dry_run:
            place.operations.remove(call)
        if not json_wanted:
            click.echo(f"{'would delete' if dry_run else 'deleted'} {call.id} ({call.state})")
    if json_wanted:
        print_json([call_as_json(call) for call in finished])
    elif not finished:
        click.echo(f"Nothing to delete in the namespace {place.namespace}.", err=True)


def _chosen(place: Place, calls: Sequence[str]) -> Sequence[StoredCall]:
    found = [place.find(call) for call in calls]
    for call in found:
        if not call.is_finished:
            click.echo(f"{call.id} is {call.state}; `kubefunc cancel {place.short(call)}` stops it.", err=True)
    return found


def _is_older(call: StoredCall, than: datetime.datetime) -> bool:
    ended = moment(call.finished)
    return ended is not None and ended < than


def _ask(finished: Sequence[StoredCall], place: Place) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody is there to be asked: give --yes to delete, or --dry-run to see what would be.")
    for call in finished:
        click.echo(f"  {call.id}  {call.state}  {visible(call.user)}".rstrip(), err=True)
    what = "this finished call" if len(finished) == 1 else f"these {len(finished)} finished calls"
    if not click.confirm(f"Delete {what} of the namespace {place.namespace}, with the results?", err=True):
        raise click.ClickException("Nothing was deleted.")
