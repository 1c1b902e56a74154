"""``kubefunc result``: the value of a finished call, or its error."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

from kubefunc.backends.operations import StoredCall
from kubefunc.cli.place import CallId, Place, json_option, with_place
from kubefunc.cli.shown import as_json, on_terminal, print_json, visible_lines
from kubefunc.errors import KubefuncError

UNFINISHED = 4
FAILED = 5


class Unfinished(click.ClickException):
    """The call has not ended."""

    exit_code = UNFINISHED


@click.command()
@with_place
@click.argument("call", metavar="ID", type=CallId(finished=True))
@click.option("--wait", is_flag=True, help="Wait for the end of a call that runs.")
@json_option
def result(*, place: Place, call: str, wait: bool, json_wanted: bool) -> None:
    """Print what a finished call has returned, as Python writes it; of a map a line for each item.

    The result stays where it is. It is unpickled here, which runs code of the person who made the call: trust them.
    Run this with the Python version of the call, in the directory of its modules.
    """
    found = place.find(call)
    if not found.is_finished:
        if not wait:
            name = place.short(found)
            raise Unfinished(
                f"{found.id} has not finished: it is {found.state}. `kubefunc result --wait {name}` waits for its end, "
                f"`kubefunc show {name}` shows it."
            )
        click.echo(f"kubefunc: {found.id} is {found.state}; waiting for its end", err=True)
    outcomes = _outcomes(place, found)
    if json_wanted:
        _print_as_json(found, outcomes)
    else:
        _print(found, outcomes)
    if any(isinstance(outcome, BaseException) for outcome in outcomes):
        sys.exit(FAILED)


def _outcomes(place: Place, found: StoredCall) -> list[Any]:
    """The value of each item, or its exception.

    Raises:
        KubefuncError: the result cannot be had: it says nothing about the function.
    """
    from kubefunc.errors import PythonMismatchError, ResultError
    from kubefunc.handles.call import attach
    from kubefunc.handles.map_call import attach_map
    from kubefunc.session import session

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the classes of a result are found as they were in the program
    os.environ["KUBEFUNC_VERBOSE"] = "no"
    session().use(place.choice, place.context)
    if found.shape == "map":
        outcomes = attach_map(found.address, return_exceptions=True).result()
    else:
        error = (call := attach(found.address)).exception()
        outcomes = [call.result() if error is None else error]
    for outcome in outcomes:
        if isinstance(outcome, (PythonMismatchError, ResultError)):
            raise outcome
    return outcomes


def _print(found: StoredCall, outcomes: list[Any]) -> None:
    for index, outcome in enumerate(outcomes):
        label = f"[{index}] " if found.shape == "map" else ""
        if not isinstance(outcome, BaseException):
            click.echo(label + _safe(repr(outcome)))
        elif found.shape == "map":
            click.echo(f"{label}{_safe(_name(outcome))}: {_safe(str(outcome))}", err=True)
        else:
            click.echo(_safe(_traceback(outcome)), err=True)


def _safe(text: str) -> str:
    return visible_lines(text) if on_terminal() or sys.stderr.isatty() else text


def _traceback(error: BaseException) -> str:
    """Kubefunc's own errors explain themselves; of a function's exception its traceback."""
    if isinstance(error, KubefuncError):
        return f"{_name(error)}: {error}"
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()


def _name(error: BaseException) -> str:
    return type(error).__name__


def _print_as_json(found: StoredCall, outcomes: list[Any]) -> None:
    items = [_item(index, outcome) for index, outcome in enumerate(outcomes)]
    print_json({"id": found.id, "namespace": found.namespace, "shape": found.shape, "items": items})


def _item(index: int, outcome: Any) -> dict[str, Any]:
    """``value`` is there where JSON has such a value; ``repr`` always."""
    if isinstance(outcome, BaseException):
        error = {"type": _name(outcome), "message": str(outcome), "traceback": _traceback(outcome)}
        return {"index": index, "error": error}
    try:
        return {"index": index, "value": as_json(outcome), "repr": repr(outcome)}
    except (TypeError, ValueError):
        return {"index": index, "repr": repr(outcome)}
