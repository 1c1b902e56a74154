"""The layers that set options: the environment, the signatures that list them, and where a value comes from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from kubefunc.errors import ConfigurationError
from kubefunc.options.fields import KINDS, MERGES, OptionChanges
from kubefunc.options.kind import accepted_text
from kubefunc.options.option import BACKEND_VARIABLE, PREFIX, UNSET, Layer, replace, variable_of
from kubefunc.runner import ENV_ATTEMPT, ENV_CALL, ENV_DISRUPTIONS, ENV_NESTED, ENV_PEERS, ENV_RANK

F = TypeVar("F", bound=Callable[..., object])

_BY_VARIABLE: Final = {variable_of(name): name for name in KINDS}
_NOT_OPTIONS: Final = frozenset(
    {
        BACKEND_VARIABLE,  # read by the session
        "KUBEFUNC_LOCAL_CLEAN_ENV",  # read by the local backend
        ENV_CALL,  # these four are set by the runner for the function
        ENV_ATTEMPT,
        ENV_DISRUPTIONS,
        ENV_NESTED,
        ENV_RANK,  # and these two, of a gang
        ENV_PEERS,
    }
)


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """The options that ``KUBEFUNC_*`` variables set; ``none`` stands for None, an empty variable for an
    absent one.

    >>> environment_layer({"KUBEFUNC_CPU": "0.5", "KUBEFUNC_VERBOSE": "no"})["verbose"]
    False

    Raises:
        ConfigurationError: a value is not accepted, or a variable's name is nearly that of an option.
    """
    parsed: dict[str, object] = {}
    sources: dict[str, str] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable in _NOT_OPTIONS or not text.strip():
            continue
        name = _BY_VARIABLE.get(variable)
        if name is None:
            _refuse_slip(variable, _BY_VARIABLE)
            continue
        parsed[name] = accepted_text(variable, KINDS[name], text)
        sources[name] = variable
    return Layer(parsed, sources)


def _refuse_slip(variable: str, known: Iterable[str]) -> None:
    """Refuse a variable only if it is nearly one of ours: other programs may use the prefix too."""
    import difflib

    suffixes = {name.removeprefix(PREFIX): name for name in known}
    near = difflib.get_close_matches(variable.removeprefix(PREFIX), suffixes, n=1, cutoff=0.75)
    if near:
        raise ConfigurationError(
            f"{variable} in the environment sets no option. Did you mean {suffixes[near[0]]}? (Or unset it.)"
        )


def origins(*layers: Layer) -> dict[str, str]:
    """For each option, where its value comes from; merged ones may come from several places.

    >>> origins(environment_layer({"KUBEFUNC_CPU": "2"}))["cpu"]
    'KUBEFUNC_CPU'

    Args:
        layers: weakest first, as for :meth:`Options.from_layers`.
    """
    found = dict.fromkeys(KINDS, "built-in")
    held: dict[str, object] = {}
    for layer in layers:
        for name, value in layer.items():
            adds = MERGES[name] is not replace and held.get(name) is not None and value is not None
            found[name] = f"{found[name]} + {layer.source(name)}" if adds else layer.source(name)
            held[name] = value
    return found


_PARAMETERS: Final = [
    inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=UNSET,
        annotation=getattr(accepted, "__forward_arg__", accepted),
    )
    for name, accepted in OptionChanges.__annotations__.items()
]


def shows_options(function: F) -> F:
    """List the options in the function's signature in place of ``**changes``, so that notebooks complete them.

    >>> import inspect
    >>> @shows_options
    ... def configure(**changes): ...
    >>> inspect.signature(configure).parameters["cpu"]
    <Parameter "cpu: 'float | str | Unset | None' = UNSET">
    """
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=[*own, *_PARAMETERS])  # type: ignore[attr-defined]
    return function
