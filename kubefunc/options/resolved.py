"""The options of the calls of a process, merged once for each combination of layers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from kubefunc.options.fields import Options
from kubefunc.options.layers import environment_layer
from kubefunc.options.option import PREFIX, Layer

KEPT: Final = 64  # combinations: as many remote functions as a program calls in turn

_Variables = tuple[tuple[str, str], ...]


class Resolved:
    """Remembers what it has merged: a program calls few functions often, and merging checks every option again.

    Layers never change, so the same ones with the same variables give the same options.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._known: dict[tuple[int, ...], tuple[tuple[Layer, ...], _Variables, Options]] = {}
        self._seen: tuple[Mapping[Any, Any], _Variables] | None = None

    def of(self, defaults: Layer, *layers: Layer) -> Options:
        """The options that apply: of ``configure()``, the environment as it is now, and these, weakest first.

        Raises:
            ConfigurationError: options contradict each other, or a variable's value is not accepted.
        """
        variables = self._variables()
        given = (defaults, *layers)
        key = tuple(map(id, given))
        known = self._known.get(key)  # it holds the layers, so no other has their identity
        if known is not None and known[1] == variables:
            return known[2]
        options = Options.from_layers(defaults, environment_layer(dict(variables)), *layers)
        if len(self._known) >= KEPT:
            self._known.clear()
        self._known[key] = given, variables, options
        return options

    def _variables(self) -> _Variables:
        # What os.environ keeps: compared in a microsecond, while its own methods decode each variable.
        raw: Mapping[Any, Any] = getattr(self._environ, "_data", self._environ)
        if self._seen is not None and self._seen[0] == raw:
            return self._seen[1]
        variables = tuple((name, value) for name, value in self._environ.items() if name.startswith(PREFIX))
        self._seen = dict(raw), variables
        return variables
