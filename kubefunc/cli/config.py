"""``kubefunc config``: what calls from here would use."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import click

from kubefunc.choice import choose_backend
from kubefunc.cli.place import json_option
from kubefunc.cli.shown import print_json
from kubefunc.options import Layer, Options, environment_layer, origins

BUILT_IN = "built-in"


@dataclass(frozen=True)
class Setting:
    """One line of ``kubefunc config``: a setting, its value and its source."""

    name: str
    value: str
    source: str


@click.command()
@json_option
def config(*, json_wanted: bool) -> None:
    """Show backend, image and options of calls from here.

    Each line also says where the value comes from. A program can override these values with configure(), @remote and
    .options().
    """
    settings = list(read_settings(os.environ))
    if json_wanted:
        print_json([dataclasses.asdict(setting) for setting in settings])
        return
    names = max(len(setting.name) for setting in settings)
    values = max(len(setting.value) for setting in settings)
    for setting in settings:
        click.echo(f"{setting.name:{names}}  {setting.value:{values}}  {setting.source}".rstrip())


def read_settings(environ: Mapping[str, str]) -> Iterator[Setting]:
    """Backend, place and image, then every option that the environment sets.

    Raises:
        ConfigurationError: the kubeconfig or a ``KUBEFUNC_*`` variable is wrong.
    """
    layer = environment_layer(environ)
    options = Options.from_layers(layer)
    sources = origins(layer)
    yield from _place(options, sources, environ)
    if options.image is None:
        yield Setting("image", options.resolved_image, f"this Python, {platform.python_version()}")
    else:
        yield Setting("image", options.image, sources["image"])
    for name in layer:
        if name not in ("context", "namespace", "image"):
            yield Setting(name, _shown(layer, name), sources[name])


def _place(options: Options, sources: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[Setting]:
    """The backend that calls would use, and its place on a cluster. Nothing is started to find out."""
    choice = choose_backend(None, options.context, environ)
    chosen = "KUBEFUNC_BACKEND" if environ.get("KUBEFUNC_BACKEND") else None
    cluster = choice.cluster
    if cluster is None:
        yield Setting("backend", "local", chosen or "no kubeconfig, and not inside a Pod")
        return
    by_kubeconfig = sources["context"] == BUILT_IN
    yield Setting("backend", choice.name, chosen or cluster.source)
    yield Setting("context", cluster.context, cluster.source if by_kubeconfig else sources["context"])
    yield Setting("server", cluster.host, f"context {cluster.context}")
    if options.namespace is None:
        yield Setting("namespace", cluster.namespace, f"context {cluster.context}")
    else:
        yield Setting("namespace", options.namespace, sources["namespace"])


def _shown(layer: Layer, name: str) -> str:
    """The value for a terminal; of ``env`` the names alone, since its values may be secrets."""
    value = layer[name]
    if isinstance(value, Mapping):
        return ", ".join(value if name == "env" else (f"{key}={item}" for key, item in value.items()))
    if name == "package_index":  # its user and password are not for a screen
        return re.sub("://[^/@]+@", "://****@", str(value))
    return "none" if value is None else str(value)
