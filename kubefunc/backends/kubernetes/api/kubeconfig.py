"""Which cluster the user's kubectl talks to: found without importing `kubernetes`.

Deciding that there is no cluster is on the path of every local call, so it costs a look at the environment
and at two files. Only a kubeconfig that is there is parsed, and only for what a person is told and where it
can be broken; credentials are left to `kubernetes.config` (see :mod:`kubefunc.backends.kubernetes.api.requests`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubefunc.errors import ConfigurationError

IN_CLUSTER = "in-cluster"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class ClusterConfig:
    """One cluster, and who we are there.

    Attributes:
        context: the kubeconfig's context, or ``in-cluster``.
        namespace: the namespace that the context names, ``default`` where it names none.
        host: the API server's URL, for messages.
        source: the file that defines the context, or ``in-cluster``.
        files: every kubeconfig file that takes part, in the order of ``$KUBECONFIG``.
        login: how the user logs in, for messages (``The credential plugin 'aws'``), where the user entry says it.
    """

    context: str
    namespace: str
    host: str
    source: str
    files: tuple[str, ...] = ()
    login: str | None = None


def find_config(
    context: str | None, environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT
) -> ClusterConfig | None:
    """The cluster that kubectl would talk to, or None where none is configured.

    A kubeconfig comes before the in-cluster configuration, as with kubectl. A file that defines no cluster at
    all (what minikube and kind leave behind when the last cluster is deleted) counts as no configuration.

    Raises:
        ConfigurationError: a kubeconfig is broken, or the context that was asked for is not in it.
    """
    documents = [_Document.read(path) for path in _kubeconfig_files(environ)]
    if any(document.clusters or document.contexts for document in documents):
        return _choose(context, documents)
    inside = _in_cluster(environ, service_account)
    if context is not None and (inside is None or context != IN_CLUSTER):
        raise ConfigurationError(
            f"The context {context!r} was asked for, but no kubeconfig defines it. "
            "Set KUBECONFIG to the file that does, or leave the context out."
        )
    return inside


def entries_of(config: ClusterConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of this context's cluster and user, as its files hold them now.

    Raises:
        ConfigurationError: they are not there any more, or are broken.
    """
    documents = [_Document.read(path) for path in config.files]
    _choose(config.context, documents)
    context = next(document.contexts[config.context] for document in documents if config.context in document.contexts)
    cluster = _lookup(context.get("cluster"), [document.clusters for document in documents])
    user = _lookup(context.get("user"), [document.users for document in documents])
    return cluster or {}, user or {}


def _kubeconfig_files(environ: Mapping[str, str]) -> list[str]:
    named = [part for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    if not named:
        home = environ.get("HOME") or environ.get("USERPROFILE") or os.path.expanduser("~")
        default = os.path.join(home, ".kube", "config")
        return [default] if os.path.isfile(default) else []
    # kubectl skips the missing files of a list; but a list of which nothing exists was set for a reason,
    # and running the program on this machine instead would be the silent switch that we promise not to make.
    # Not only regular files: /dev/null is the usual way to say "no cluster".
    existing = [path for path in map(os.path.expanduser, named) if os.path.exists(path) and not os.path.isdir(path)]
    if existing:
        return existing
    raise ConfigurationError(
        f"KUBECONFIG is {environ['KUBECONFIG']!r}, but no such file exists. "
        "Correct it, or unset it (and set KUBEFUNC_BACKEND=local to run on this machine)."
    )


def _in_cluster(environ: Mapping[str, str], service_account: Path) -> ClusterConfig | None:
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    # Every Pod has the variables; only one with a service account token has the file.
    if not host or not port or not (service_account / "token").is_file():
        return None
    namespace = service_account / "namespace"
    return ClusterConfig(
        context=IN_CLUSTER,
        namespace=namespace.read_text().strip() if namespace.is_file() else "default",
        host=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        source=IN_CLUSTER,
    )


@dataclass(frozen=True)
class _Document:
    """One kubeconfig file, as far as we look at it."""

    path: str
    current: str
    contexts: dict[str, dict[str, Any]]
    clusters: dict[str, dict[str, Any]]
    users: dict[str, dict[str, Any]]

    @staticmethod
    def read(path: str) -> _Document:
        content = _yaml(path)
        return _Document(
            path=path,
            current=str(content.get("current-context") or ""),
            contexts=_entries(path, content, "contexts", "context"),
            clusters=_entries(path, content, "clusters", "cluster"),
            users=_entries(path, content, "users", "user"),
        )


def _yaml(path: str) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped, unused-ignore]  # a dependency of `kubernetes`; 15 ms that a program without a kubeconfig does not pay

    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"The kubeconfig {path} cannot be read: {exc.strerror}.") from exc
    try:
        content = yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as exc:
        raise ConfigurationError(f"The kubeconfig {path} is not valid YAML: {exc}") from exc
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"The kubeconfig {path} holds {type(content).__name__}, not a mapping.")
    return content


def _entries(path: str, content: dict[str, Any], plural: str, singular: str) -> dict[str, dict[str, Any]]:
    listed = content.get(plural) or []
    if not isinstance(listed, list):
        raise ConfigurationError(f"In the kubeconfig {path}, `{plural}` is {type(listed).__name__}, not a list.")
    entries: dict[str, dict[str, Any]] = {}
    for position, item in enumerate(listed):
        value = item.get(singular, {}) if isinstance(item, dict) else None
        if not isinstance(item, dict) or "name" not in item or not isinstance(value or {}, dict):
            raise ConfigurationError(
                f"In the kubeconfig {path}, `{plural}[{position}]` has no `name` or no `{singular}` mapping."
            )
        entries.setdefault(str(item["name"]), value or {})
    return entries


def _choose(wanted: str | None, documents: Sequence[_Document]) -> ClusterConfig:
    # First come, first served, as kubectl merges; kubernetes.config lets the last current-context win.
    name = wanted or next((document.current for document in documents if document.current), "")
    known = sorted({context for document in documents for context in document.contexts})
    paths = ", ".join(document.path for document in documents)
    if not name:
        raise ConfigurationError(
            f"The kubeconfig {paths} has no current context. Choose one with "
            f"`kubectl config use-context NAME` or with context=; known are: {', '.join(known) or 'none'}."
        )
    owner = next((document for document in documents if name in document.contexts), None)
    if owner is None:
        raise ConfigurationError(
            f"The context {name!r} is not in the kubeconfig {paths}; known are: {', '.join(known) or 'none'}."
        )
    return _resolve(name, owner, documents)


def _resolve(name: str, owner: _Document, documents: Sequence[_Document]) -> ClusterConfig:
    context = owner.contexts[name]
    cluster = _lookup(context.get("cluster"), [document.clusters for document in documents])
    if cluster is None:
        raise ConfigurationError(
            f"In the kubeconfig {owner.path}, the context {name!r} names the cluster "
            f"{context.get('cluster')!r}, which is not defined."
        )
    host = cluster.get("server")
    if not isinstance(host, str) or not host.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"In the kubeconfig {owner.path}, the cluster {context.get('cluster')!r} has the server "
            f"{host!r}; expected a URL such as https://host:6443."
        )
    user = _lookup(context.get("user"), [document.users for document in documents])
    if user is None and context.get("user"):  # kubernetes.config would go on without credentials
        raise ConfigurationError(
            f"In the kubeconfig {owner.path}, the context {name!r} names the user "
            f"{context['user']!r}, which is not defined."
        )
    return ClusterConfig(
        context=name,
        namespace=str(context.get("namespace") or "default"),
        host=host.rstrip("/"),
        source=owner.path,
        files=tuple(document.path for document in documents),
        login=_login_of(user or {}),
    )


def _login_of(user: Mapping[str, Any]) -> str | None:
    plugin, provider = user.get("exec"), user.get("auth-provider")
    if isinstance(plugin, dict):
        return f"The credential plugin {plugin.get('command')!r}"
    if isinstance(provider, dict):
        return f"The credential plugin {provider.get('name')!r}"
    if user.get("tokenFile"):
        return f"The token file {user['tokenFile']!r}"
    return "The empty token" if "token" in user and not user["token"] else None


def _lookup(name: object, tables: Sequence[Mapping[str, dict[str, Any]]]) -> dict[str, Any] | None:
    return next((table[str(name)] for table in tables if str(name) in table), None)
