"""Which calls a command is about: the options ``--namespace`` and ``--context``, and ids that complete in the shell."""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from kubefunc.cli.shown import visible

if TYPE_CHECKING:
    from kubefunc.backends.operations import Operations, StoredCall
    from kubefunc.choice import BackendChoice

NOT_FOUND = 3
_COMPLETE_WITHIN = 3.0  # seconds that a person waits for the tabulator key
# What stands behind an id in the names of later Jobs, of Secrets and of Pods.
_BEHIND_ID = re.compile(r"(?P<id>.+-[a-z2-7]{16})(?:-r\d+)?(?:-\d+)?(?:-[a-z0-9]{5})?")


class NotFound(click.ClickException):
    """There is no such call."""

    exit_code = NOT_FOUND


@dataclass(frozen=True)
class Place:
    """A cluster and a namespace.

    Attributes:
        namespace: the one of ids that name none.
        context: what ``--context`` or the environment says.
    """

    operations: Operations
    namespace: str
    context: str | None
    choice: BackendChoice

    def list_calls(self, *, everywhere: bool = False, mine: bool = False) -> list[StoredCall]:
        """The calls of the namespace, or of all; those of this user alone, where that is wanted."""
        found = self.operations.list_calls(None if everywhere else self.namespace)
        return [call for call in found if not mine or call.user == self.operations.user]

    def short(self, call: StoredCall) -> str:
        """How a person names this call here."""
        return call.id if call.namespace == self.namespace else call.address

    def find(self, written: str) -> StoredCall:
        """The call of an id, ``namespace/id``, or the name of its Job or Pod.

        Raises:
            NotFound: it is not there.
            BadParameter: not a valid id.
        """
        namespace, call = parse_address(written, self.namespace)
        found = self.operations.find(namespace, call)
        if found is None:
            raise NotFound(_not_found(self.operations, namespace, call))
        return found


def place_of(namespace: str | None, context: str | None, wanted: str | None = None) -> Place:
    """The place that the command line, the environment and the kubeconfig name.

    Args:
        namespace: from the command line.
        context: from the command line.
        wanted: a backend, whichever calls would use.

    Raises:
        ConfigurationError: one of them is wrong, or there is no cluster.
    """
    from kubefunc.choice import choose_backend, operations
    from kubefunc.options import Options, environment_layer, parse_changes

    given = {"namespace": namespace, "context": context}
    changes = parse_changes("kubefunc", **{name: value for name, value in given.items() if value is not None})
    options = Options.from_layers(environment_layer(os.environ), changes)
    choice = choose_backend(wanted, options.context, os.environ)
    found = operations(choice)
    return Place(found, options.namespace or found.namespace, options.context, choice)


def with_place(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``--namespace`` and ``--context``, and its function a ``place``."""

    @functools.wraps(command)
    def placed(namespace: str | None, context: str | None, **options: Any) -> Any:
        return command(place=place_of(namespace, context), **options)

    return context_option(namespace_option(placed))


namespace_option = click.option("-n", "--namespace", help="The namespace of the calls. Default: that of your context.")
context_option = click.option("--context", help="The context of your kubeconfig. Default: the current one.")
mine_option = click.option("--mine", is_flag=True, help="Only calls of your user name, as their label says it.")
json_option = click.option("--json", "json_wanted", is_flag=True, help="Print JSON.")


class CallId(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic from click 8.2 on
    """An id, or ``namespace/id``."""

    name = "id"

    def __init__(self, *, finished: bool | None = None) -> None:
        self._finished = finished

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The ids that begin so; none where the cluster does not answer soon."""
        found: list[CompletionItem] = []
        given = {name: ctx.params.get(name) for name in ("namespace", "context")}
        asking = threading.Thread(target=self._ask, args=(found, given, incomplete), daemon=True)
        asking.start()
        asking.join(_COMPLETE_WITHIN)
        return list(found)

    def _ask(self, found: list[CompletionItem], given: dict[str, Any], incomplete: str) -> None:
        try:
            place = place_of(given["namespace"], given["context"])
            namespace, slash, begun = incomplete.rpartition("/")
            calls = place.operations.list_calls(namespace or place.namespace)
        except Exception:  # noqa: BLE001 - a shell that completes shows no messages
            return
        prefix = f"{namespace}{slash}"
        found += [
            CompletionItem(f"{prefix}{call.id}", help=call.state)
            for call in reversed(calls)
            if call.id.startswith(begun) and self._finished in (None, call.is_finished)
        ]


def parse_address(written: str, namespace: str) -> tuple[str, str]:
    """Namespace and id of what a person has typed or copied.

    >>> parse_address("train-x7k2p5qax7k2p5qa", "team"), parse_address("other/train-x7k2p5qax7k2p5qa-r2-hk2xq", "team")
    (('team', 'train-x7k2p5qax7k2p5qa'), ('other', 'train-x7k2p5qax7k2p5qa'))
    """
    from kubefunc.ids import is_valid_id

    place, _, name = written.strip().rpartition("/")
    behind = _BEHIND_ID.fullmatch(name)
    if not is_valid_id(name) and behind is not None:
        name = behind["id"]
    if not is_valid_id(name):
        raise click.BadParameter(
            f"{visible(written)!r} is not the id of a call. An id looks like 'train-x7k2p5qax7k2p5qa' or "
            "'namespace/train-x7k2p5qax7k2p5qa'; `kubefunc ls` lists them."
        )
    return place or namespace, name


def _not_found(operations: Operations, namespace: str, call: str) -> str:
    import difflib

    ids = [each.id for each in operations.list_calls(namespace)]
    similar = difflib.get_close_matches(call, ids, n=1, cutoff=0.8)
    hint = f" Did you mean {similar[0]}?" if similar else ""
    return (
        f"There is no call {call} in the namespace {namespace}: it was cancelled, its result was collected, its ttl "
        f"has run out, or it is in another namespace (namespace/id, or -n).{hint}"
    )
