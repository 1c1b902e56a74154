"""``kubefunc render``: the objects of a call as YAML, without a cluster."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubefunc.cli.place import context_option, json_option, namespace_option
from kubefunc.cli.shown import print_json
from kubefunc.errors import ConfigurationError

if TYPE_CHECKING:
    from kubefunc.function import RemoteFunction


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("arguments", metavar="[ARGUMENT...]", nargs=-1)
@namespace_option
@context_option
@click.option("--no-secrets", is_flag=True, help="Leave the Secrets out: they hold code and arguments as base64.")
@json_option
def render(
    *,
    function: str,
    arguments: tuple[str, ...],
    namespace: str | None,
    context: str | None,
    no_secrets: bool,
    json_wanted: bool,
) -> None:
    """Print the objects that a call would create, as YAML. No cluster is asked.

    FUNCTION is one that @remote decorates; MODULE is as for `import`, or the path of a file. Arguments are Python
    literals (3, '[1, 2]', None), else texts; NAME=VALUE is a keyword argument. Each time it is another call, with an
    id of its own.

    \b
    kubefunc render jobs:train 3 --no-secrets
    kubefunc render jobs.py:train 3 rate=0.1 | kubectl create --dry-run=server -f -
    """
    found = find_function(function)
    given = {"namespace": namespace, "context": context}
    changes: Any = {name: value for name, value in given.items() if value is not None}
    positional, keywords = read_arguments(arguments)
    try:
        objects = found.options(**changes).manifest(*positional, **keywords)
    except TypeError as error:  # the arguments do not fit
        raise click.UsageError(str(error)) from error
    if no_secrets:
        objects = [each for each in objects if each["kind"] != "Secret"]
    if json_wanted:
        print_json(objects)
    else:
        click.echo(_yaml(objects), nl=False)


def find_function(written: str) -> RemoteFunction[..., Any]:
    """The remote function of ``module:function``, ``module:Class.method`` or ``path/to/file.py:function``.

    Raises:
        ConfigurationError: there is none, or it is not decorated.
        click.UsageError: it is not written so.
    """
    from kubefunc.function import RemoteFunction

    name, colon, path = written.rpartition(":")
    if not colon or not name or not path:
        raise click.UsageError(f"{written!r} is not MODULE:FUNCTION, such as jobs:train or jobs.py:train.")
    found: Any = _imported(name)
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"{name} has no {path!r}.")
        found = getattr(found, part)
    if not isinstance(found, RemoteFunction):
        raise ConfigurationError(f"{written} is a {type(found).__name__} that @remote does not decorate.")
    return found


def _imported(name: str) -> Any:
    """The module; what it prints goes to standard error, as the output is YAML."""
    folder = os.getcwd()
    if name.endswith(".py"):
        file = Path(name).resolve()
        if not file.is_file():
            raise ConfigurationError(f"There is no file {name}.")
        folder, name = str(file.parent), file.stem
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(f"There is no module {name!r} in {folder} or on Python's path.") from None
        raise ConfigurationError(f"{name} cannot be imported: {error}") from error
    except Exception as error:  # a module of the user's may raise anything
        raise ConfigurationError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def read_arguments(written: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments.

    >>> read_arguments(["3", "text", "rate=0.1", "a-b=c"])
    ([3, 'text', 'a-b=c'], {'rate': 0.1})
    """
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for each in written:
        name, sign, value = each.partition("=")
        if sign and name.isidentifier():
            keywords[name] = _literal(value)
        else:
            positional.append(_literal(each))
    return positional, keywords


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _yaml(objects: Sequence[dict[str, Any]]) -> str:
    import yaml  # type: ignore[import-untyped, unused-ignore]  # a dependency of `kubernetes`

    return str(yaml.safe_dump_all(objects, sort_keys=False, width=120, explicit_start=True))
