"""The options that say where and how a function runs, and the layers that set them.

A later layer wins: the built-in defaults below, :func:`kubefunc.configure`, ``KUBEFUNC_*`` in the environment,
``@remote(...)``, ``.options(...)``. ``env``, ``labels``, ``annotations`` and ``node_selector`` are merged key by
key. Each ``pod_template`` is merged into the one before it. All other options replace the earlier value. ``None``
removes what earlier layers set. ``UNSET``, or leaving the option out, keeps it.

The fields of :class:`Options` are the only list of options. A test checks that :class:`OptionChanges`, which types
the keywords of ``@remote``, ``.options`` and ``configure``, has the same ones.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypedDict, TypeVar, cast

from kubefunc import values
from kubefunc.errors import ConfigurationError
from kubefunc.values import Kind, Refused

if TYPE_CHECKING:
    from typing_extensions import Unpack


F = TypeVar("F", bound=Callable[..., object])


class Unset(enum.Enum):
    """The type of :data:`UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
RESULT_TTL: Final = 600.0  # seconds, for a client that was there a moment ago
"""Inherit from the weaker layers: the same as leaving the option out."""


@dataclass(frozen=True)
class SecretKey:
    """The value of one key of a Secret that already exists in the Pod's namespace.

    >>> SecretKey("database", "password")
    SecretKey(name='database', key='password')
    """

    name: str
    key: str

    def __post_init__(self) -> None:
        _check_reference(self, self.name, self.key)


@dataclass(frozen=True)
class ConfigMapKey:
    """The value of one key of a ConfigMap that already exists in the Pod's namespace."""

    name: str
    key: str

    def __post_init__(self) -> None:
        _check_reference(self, self.name, self.key)


def _check_reference(reference: object, name: object, key: object) -> None:
    where = type(reference).__name__
    _accepted(f"{where}: name", Kind("the name of an object in the Pod's namespace", values.object_name), name)
    _accepted(f"{where}: key", Kind("the name of one of its keys", values.data_key), key)


EnvValue: TypeAlias = str | SecretKey | ConfigMapKey
PodTemplate: TypeAlias = Mapping[str, object] | Callable[[dict[str, object]], dict[str, object]]
PullPolicy: TypeAlias = Literal["Always", "IfNotPresent", "Never"]
Keep: TypeAlias = Literal["failed", "always", "never"]
OnSigterm: TypeAlias = Literal["leave", "cancel"]


class OptionChanges(TypedDict, total=False):
    """The types that each option accepts. The fields of :class:`Options` explain them."""

    image: str | Unset | None
    cpu: float | str | Unset | None
    memory: str | int | tuple[str | int, str | int] | Unset | None
    cpu_limit: float | str | Unset | None
    gpu: int | Mapping[str, int] | Unset | None
    timeout: float | timedelta | Unset | None
    retries: int | Unset
    retry_exceptions: type[BaseException] | Sequence[type[BaseException]] | Unset | None
    env: Mapping[str, EnvValue] | Unset | None
    namespace: str | Unset | None
    context: str | Unset | None
    labels: Mapping[str, str] | Unset | None
    annotations: Mapping[str, str] | Unset | None
    node_selector: Mapping[str, str] | Unset | None
    tolerations: Sequence[str | Mapping[str, object]] | Unset | None
    service_account: str | Unset | None
    image_pull_secrets: Sequence[str] | Unset | None
    image_pull_policy: PullPolicy | Unset | None
    run_as_user: int | Unset | None
    priority_class: str | Unset | None
    pod_template: PodTemplate | Sequence[PodTemplate] | Unset | None
    detach: bool | Unset
    on_sigterm: OnSigterm | Unset
    verbose: bool | Unset
    progress: bool | Unset
    logging: bool | Unset
    express: bool | Unset
    inline: bool | Unset
    results_in_log: bool | Unset
    fetch_grace: float | timedelta | Unset
    result_ttl: float | timedelta | Unset | None
    ttl: float | timedelta | Unset
    keep: Keep | Unset
    deadline: float | timedelta | Unset
    pull_allowance: float | timedelta | Unset
    schedule_timeout: float | timedelta | Unset | None
    max_disruptions: int | Unset
    mesh: bool | Unset
    evictable: bool | Unset


# --- the kinds of values, for the fields below

_KIND: Final = "kind"
_SWITCH: Final = {_KIND: Kind("True or False", values.switch, values.read_switch)}
_DURATION: Final = {_KIND: Kind("seconds or a timedelta, 0 or more", values.seconds, values.read_seconds)}
_SPAN: Final = {_KIND: Kind("seconds or a timedelta, more than 0", values.positive_seconds, values.read_seconds)}
_WAIT: Final = {
    _KIND: Kind("seconds or a timedelta, 0 or more, or None", values.seconds, values.read_seconds, values.none)
}
_LIMIT: Final = {
    _KIND: Kind(
        "seconds or a timedelta, more than 0, or None for no limit",
        values.positive_seconds,
        values.read_seconds,
        values.none,
    )
}
_NAME: Final = {_KIND: Kind("the object's name, or None", values.object_name, nothing=values.none)}

_IMAGE: Final = {
    _KIND: Kind(
        "an image such as 'python:3.12-slim', or None for the caller's own Python",
        values.image,
        nothing=values.none,
    )
}
_CPU: Final = {
    _KIND: Kind(
        "a number of CPUs such as 0.5 or 2, or '500m', or None for no request",
        values.cpu,
        nothing=values.none,
    )
}
_CPU_LIMIT: Final = {
    _KIND: Kind("a number of CPUs such as 0.5 or 2, or '500m', or None for no limit", values.cpu, nothing=values.none)
}
_MEMORY: Final = {
    _KIND: Kind(
        "a Kubernetes quantity such as '4Gi' or '512Mi', an int of bytes, a pair (start, ceiling) of these, "
        "or None for no limit",
        values.memory,
        values.read_memory,
        values.none,
    )
}
_GPU: Final = {
    _KIND: Kind(
        "a number of NVIDIA GPUs, a dict such as {'amd.com/gpu': 1}, or None",
        values.gpu,
        values.read_gpu,
        values.none,
    )
}
_RETRIES: Final = {_KIND: Kind("an int from 0 to 100", values.whole_number(0, 100), values.read_whole_number)}
_EXCEPTIONS: Final = {
    _KIND: Kind(
        "an exception class or a tuple of them; None or () retries only processes that died",
        values.exception_classes,
        values.read_exception_classes,
        tuple,
    )
}
_ENV: Final = {
    _KIND: Kind(
        "a dict of names to texts, SecretKey(name, key) or ConfigMapKey(name, key), or None",
        # The names of options may be set, so that a nested call in the Pod can be configured; it is a
        # function so that it can look at the fields, which stand further down.
        lambda value: values.environment((SecretKey, ConfigMapKey), _variables())(value),
        values.read_mapping,
        dict,
    )
}
_NAMESPACE: Final = {_KIND: Kind("a namespace's name, or None for kubectl's", values.dns_label, nothing=values.none)}
_CONTEXT: Final = {
    _KIND: Kind(
        "the name of a context of the kubeconfig, or None for the current one",
        values.nonempty,
        nothing=values.none,
    )
}
_LABELS: Final = {_KIND: Kind("a dict of label names to texts, or None", values.label_map, values.read_mapping, dict)}
_ANNOTATIONS: Final = {
    _KIND: Kind("a dict of annotation names to texts, or None", values.annotation_map, values.read_mapping, dict)
}
_NODE_SELECTOR: Final = {
    _KIND: Kind("a dict of node labels to texts, or None", values.node_selector, values.read_mapping, dict)
}
_TOLERATIONS: Final = {
    _KIND: Kind(
        "a list of tolerations (dicts) or taints such as 'dedicated=ml:NoSchedule', or None",
        values.tolerations,
        values.read_tolerations,
        tuple,
    )
}
_NAMES: Final = {_KIND: Kind("a list of names of Secrets, or None", values.names, values.read_list, tuple)}
_PULL_POLICY: Final = {
    _KIND: Kind(
        "'Always', 'IfNotPresent', 'Never', or None for Kubernetes' own choice",
        values.one_of("Always", "IfNotPresent", "Never"),
        nothing=values.none,
    )
}
_USER: Final = {
    _KIND: Kind(
        "a numeric user id, or None for the image's own user",
        values.whole_number(0, 2**31 - 1),
        values.read_whole_number,
        values.none,
    )
}


def _parsed_templates(value: object) -> object:
    from kubefunc import pod_templates  # here, as a Pod that imports kubefunc hardly ever needs it

    return pod_templates.parse(value)


_POD_TEMPLATE: Final = {
    _KIND: Kind(
        "a dict with 'metadata' and 'spec' or with the fields of a Pod's spec, a V1PodTemplateSpec, a function from "
        "template to template, a list of these, or None",
        _parsed_templates,
        values.read_json,
        values.none,
    )
}
_KEEP: Final = {_KIND: Kind("'failed', 'always' or 'never'", values.one_of("failed", "always", "never"))}
_SIGTERM: Final = {_KIND: Kind("'leave' or 'cancel'", values.one_of("leave", "cancel"))}
_DISRUPTIONS: Final = {_KIND: Kind("an int from 0 to 1000", values.whole_number(0, 1000), values.read_whole_number)}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how a function runs.

    The constructor checks all values and converts them: durations to seconds as float, ``cpu`` and ``memory`` to
    Kubernetes quantities as text. :meth:`of` does the same and has precise types for its keywords.

    For each option, "Local" says what it does without a cluster.

    >>> Options.of(cpu=0.5, timeout=timedelta(minutes=10)).timeout
    600.0
    >>> Options.of(memory="4GB")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    kubefunc.errors.ConfigurationError: Options: memory='4GB' is not accepted: Kubernetes writes '4Gi' (...

    Raises:
        ConfigurationError: a value is not accepted; the message names option, value and what is accepted.
    """

    # --- what runs

    image: str | None = field(default=None, metadata=_IMAGE)
    """The container image. It needs only ``python3``, of the same minor version as your program.

    Default: None, which means ``python:X.Y-slim`` for your Python X.Y. Pickled code needs the same minor version.
    Local: ignored, functions run with your program's Python.
    """

    cpu: str | None = field(default=None, metadata=_CPU)
    """CPUs that are reserved for the function (its *request*). It may use more where the node is idle.

    Unit: CPUs, or thousandths as ``"500m"``.

    Default: None, no request.
    Local: ignored.
    """

    memory: str | tuple[str, str] | None = field(default=None, metadata=_MEMORY)
    """Memory that is reserved for the function, and its limit. Using more raises OutOfMemoryError.

    A pair ``("1Gi", "8Gi")`` starts with the first value. Each retry after OutOfMemoryError doubles it, up to the
    second value.

    Unit: bytes, as a Kubernetes quantity.
    Default: None, neither request nor limit.
    Local: ignored.
    """

    cpu_limit: str | None = field(default=None, metadata=_CPU_LIMIT)
    """The most CPUs that the function may use. The kernel slows it down at this limit.

    Without ``cpu``, the same number is reserved. If a namespace's quota requires limits and you set none, ``cpu`` is
    the limit, or 1 without it.

    Unit: CPUs, or thousandths as ``"500m"``.
    Default: None, no limit, so that the function can use the CPUs of an idle node.
    Local: ignored.
    """

    gpu: Mapping[str, int] | None = field(default=None, metadata=_GPU)
    """GPUs: a number of ``nvidia.com/gpu``, or a dict such as ``{"amd.com/gpu": 1}``.

    The Pod may also run on nodes that are reserved for these GPUs: it tolerates a taint with the GPU's name.

    Default: None.
    Local: ignored, the function sees the GPUs of this machine.
    """

    # --- how long, how often

    timeout: float | None = field(default=None, metadata=_LIMIT)
    """How long one attempt of the function may take, from its start. Unit: seconds.

    Default: None, no limit except ``deadline``.
    Local: obeyed.
    """

    retries: int = field(default=0, metadata=_RETRIES)
    """How often the function runs again after an exception, a timeout, a crash, or when it ran out of memory.

    Default: 0, since not every function may run twice. Pods that the cluster ended (drained nodes, preemption) count
    for ``max_disruptions`` instead.
    Local: obeyed.
    """

    retry_exceptions: tuple[type[BaseException], ...] = field(default=(Exception,), metadata=_EXCEPTIONS)
    """The exceptions after which the function is retried. It is always retried when its process died.

    Default: ``(Exception,)``. It cannot be set from the environment.
    Local: obeyed.
    """

    deadline: float = field(default=7 * 24 * 3600.0, metadata=_SPAN)
    """How long the whole Job may take, from submission and with all waiting. Unit: seconds.

    Default: 7 days. Without it, Kubernetes would keep a Job that never starts.
    Local: ignored.
    """

    schedule_timeout: float | None = field(default=None, metadata=_LIMIT)
    """How long a call may wait for a node, a quota or a queue before UnschedulableError. Unit: seconds.

    Default: None, wait without a limit. An autoscaler may add a node, or another Pod may end.
    Local: ignored.
    """

    pull_allowance: float = field(default=900.0, metadata=_SPAN)
    """Time for pulling the image, which is added to the Pod's time limit. Unit: seconds.

    Default: 900, enough for a large CUDA image on a slow connection.
    Local: ignored.
    """

    max_disruptions: int = field(default=5, metadata=_DISRUPTIONS)
    """How often the function runs again because its Pod was drained, preempted, evicted or deleted.

    With 0 the function runs at most once. Otherwise it may run more than once.

    Default: 5.
    Local: ignored.
    """

    # --- what the function finds in its Pod

    env: Mapping[str, EnvValue] = field(default_factory=dict, metadata=_ENV)
    """Environment variables: texts, or keys of a Secret or ConfigMap (SecretKey, ConfigMapKey). Merged by key.

    ``$(NAME)`` in a text is not expanded. Texts are stored in the call's own Secret.

    Default: none. Your own environment variables are not sent, since they may hold secrets.
    Local: texts are set. SecretKey and ConfigMapKey need a cluster.
    """

    service_account: str | None = field(default=None, metadata=_NAME)
    """The ServiceAccount of the Pod, for functions that talk to the cluster or make calls themselves.

    The Pod gets the account's token.

    Default: None, no token. Most functions need none.
    Local: ignored.
    """

    run_as_user: int | None = field(default=None, metadata=_USER)
    """The number of the user that runs the function. Any number but 0 (root) is enough for namespaces that enforce
    the Pod Security Standard *restricted*.

    Default: None, the user of the image (root in the default image). OpenShift chooses the user and accepts no other.
    Local: ignored.
    """

    # --- where it runs

    context: str | None = field(default=None, metadata=_CONTEXT)
    """The kubeconfig's context, which names the cluster.

    Default: None, kubectl's current context.
    Local: ignored.
    """

    namespace: str | None = field(default=None, metadata=_NAMESPACE)
    """The Kubernetes namespace.

    Default: None, the context's namespace, else ``default``, as with kubectl.
    Local: ignored.
    """

    labels: Mapping[str, str] = field(default_factory=dict, metadata=_LABELS)
    """Labels of Job, Pod and Secret, for cost reports, queues or network policies. Merged by key.

    Default: none.
    Local: ignored.
    """

    annotations: Mapping[str, str] = field(default_factory=dict, metadata=_ANNOTATIONS)
    """Annotations of Job and Pod. Merged by key.

    Default: none.
    Local: ignored.
    """

    node_selector: Mapping[str, str] = field(default_factory=dict, metadata=_NODE_SELECTOR)
    """Labels that the node must have, in addition to ``kubernetes.io/os: linux``. Merged by key.

    Default: none.
    Local: ignored.
    """

    tolerations: tuple[Mapping[str, object], ...] = field(default=(), metadata=_TOLERATIONS)
    """Node taints to tolerate, so that the Pod may run on nodes that are reserved for some Pods.

    Each is a dict as in Kubernetes, or a taint as kubectl writes it: ``"dedicated=ml:NoSchedule"``.

    Default: none. (For a node that does not answer, kubefunc sets 30 s instead of Kubernetes' 300 s.)
    Local: ignored.
    """

    priority_class: str | None = field(default=None, metadata=_NAME)
    """The PriorityClass. On a full cluster, Pods with a higher priority replace Pods with a lower one.

    Default: None, the cluster's default.
    Local: ignored.
    """

    image_pull_secrets: tuple[str, ...] = field(default=(), metadata=_NAMES)
    """Names of Secrets with the login for the image's registry.

    Default: none. Those of the ServiceAccount are always used.
    Local: ignored.
    """

    image_pull_policy: PullPolicy | None = field(default=None, metadata=_PULL_POLICY)
    """When the node pulls the image from the registry: ``Always``, ``IfNotPresent`` or ``Never``.

    Default: None, as Kubernetes: Always for ``:latest``, else IfNotPresent.
    Local: ignored.
    """

    pod_template: PodTemplate | tuple[PodTemplate, ...] | None = field(default=None, metadata=_POD_TEMPLATE)
    """Any other field of a Pod, such as volumes: a dict, an object of the Kubernetes client, or a function.

    A dict is merged into the Pod template, with lists merged by name as ``kubectl patch`` does it. The function runs
    in the container ``main``; kubefunc's second container is ``courier``. A function takes the Pod template and
    returns it.

    Templates of several layers are merged in order, from :func:`kubefunc.configure` to ``.options``. None removes those
    before it.

    Default: None.
    Local: ignored.
    """

    mesh: bool = field(default=False, metadata=_SWITCH)
    """Let Istio and Linkerd inject their proxies.

    Default: False. Such a proxy can keep the Pod running after the function has ended, and can block the function's
    first network requests.
    Local: ignored.
    """

    evictable: bool = field(default=False, metadata=_SWITCH)
    """Let the Cluster Autoscaler and Karpenter move the Pod to save a node.

    Default: False, since moving a Pod runs its function again.
    Local: ignored.
    """

    # --- how its result comes back

    detach: bool = field(default=False, metadata=_SWITCH)
    """Let the Job continue when this process ends. :func:`kubefunc.attach` gets its result later.

    Default: False, the end of the process cancels calls that are not done.
    Local: an error, since no call on this machine outlives the process.
    """

    on_sigterm: OnSigterm = field(default="leave", metadata=_SIGTERM)
    """What becomes of an unfinished call when SIGTERM ends this program: ``leave`` or ``cancel``.

    A handler of the program's own replaces both. ``cancel`` may take 5 s; a detached call goes on in any case.

    Default: ``leave``, its Job goes on, and a line on ``sys.stderr`` says so.
    Local: obeyed; with ``leave`` the function's process is ended, as nothing there outlives the client.
    """

    verbose: bool = field(default=True, metadata=_SWITCH)
    """Show what the function prints, and what the call waits for, on ``sys.stderr``.

    Default: True.
    Local: obeyed.
    """

    progress: bool = field(default=True, metadata=_SWITCH)
    """Show the progress of a map on ``sys.stderr`` while the program waits for it.

    On a terminal and in a notebook it is one line that changes, elsewhere a new line every 30 s.

    Default: True.
    Local: obeyed.
    """

    logging: bool = field(default=True, metadata=_SWITCH)
    """Set up ``logging`` in the function as in your program: level and format of the root logger.

    Log messages appear on ``sys.stderr``.

    Default: True, if the root logger has a handler when you make the call.
    Local: obeyed.
    """

    express: bool = field(default=True, metadata=_SWITCH)
    """Fetch the result by exec as soon as it exists, instead of waiting for the Pod's status.

    Default: True, which saves half a second. Set False if security tools raise an alarm for each exec.
    Local: ignored.
    """

    inline: bool = field(default=True, metadata=_SWITCH)
    """Send a small result in the Pod's status. Users who may read Pods can read it.

    Default: True, since it needs no further request.
    Local: ignored.
    """

    results_in_log: bool = field(default=True, metadata=_SWITCH)
    """Write a result that nobody fetched to the log of the courier, where a log pipeline may collect it.

    Default: True, so that results up to 4 MiB remain when their Pod ends.
    Local: ignored.
    """

    fetch_grace: float = field(default=60.0, metadata=_DURATION)
    """How long a result waits in its Pod before it is written to the log. Unit: seconds.

    Default: 60, for a client that is away for a short time. The Pod keeps its CPU and GPU for so long.
    Local: ignored.
    """

    result_ttl: float | None = field(default=None, metadata=_WAIT)
    """How long a result that is too large for the log (above 4 MiB) waits in its Pod. Unit: seconds.

    Default: None, which means ``ttl`` with ``detach=True``, else 600. The Pod keeps its CPU, memory and GPU.
    Local: ignored.
    """

    ttl: float = field(default=24 * 3600.0, metadata=_DURATION)
    """How long a finished Job stays, for kubectl or ``attach``. Unit: seconds, rounded up.

    Default: 24 h. ``keep`` says which Jobs stay. Jobs of detached calls always do.
    Local: ignored.
    """

    keep: Keep = field(default="failed", metadata=_KEEP)
    """Which finished Jobs stay for ``ttl``, to be looked at with kubectl: ``failed``, ``always`` or ``never``.

    Such a Job has ended and uses no CPU and no memory. It uses objects in the namespace (a Job, its Pods, its Secrets
    with the arguments) and the Pods' logs on their nodes. Jobs of cancelled calls, and Jobs whose function has not
    started, are always deleted. Jobs of detached calls always stay.

    Default: ``failed``, the Jobs of calls that failed and of maps in which an item failed.
    Local: ignored.
    """

    def __post_init__(self) -> None:
        for name, kind in _kinds().items():
            value = _accepted(f"Options: {name}", kind, getattr(self, name))
            if value is None and kind.nothing is not None:
                value = kind.nothing()
            object.__setattr__(self, name, value)  # the dataclass is frozen; this is its normalisation
        if self.cpu and self.cpu_limit and values.quantity(self.cpu) > values.quantity(self.cpu_limit):
            raise ConfigurationError(
                f"cpu={self.cpu!r} is more than cpu_limit={self.cpu_limit!r}: raise cpu_limit, or lower cpu"
            )
        if self.timeout is not None and self.timeout > self.deadline:
            raise ConfigurationError(
                f"timeout={self.timeout:g} s is longer than deadline={self.deadline:g} s, the limit for the whole "
                f"Job: raise deadline too"
            )

    @property
    def result_wait(self) -> float:
        """How long a result that is too large for the log waits in its Pod, in seconds."""
        if self.result_ttl is not None:
            return self.result_ttl
        return self.ttl if self.detach else RESULT_TTL

    @classmethod
    def of(cls, **changes: Unpack[OptionChanges]) -> Options:
        """The built-in defaults with these changes."""
        return cls.from_layers(parse_changes("Options", **changes))

    @classmethod
    def from_layers(cls, *layers: Layer) -> Options:
        """Merge all layers into the options that apply.

        >>> weak = parse_changes("configure()", env={"A": "1"})
        >>> Options.from_layers(weak, parse_changes("@remote", env={"B": "2"})).env
        {'A': '1', 'B': '2'}

        Args:
            layers: weakest first.

        Raises:
            ConfigurationError: two options contradict each other.
        """
        merged: dict[str, object] = {}
        for layer in layers:
            for name, value in layer.items():
                merged[name] = _MERGED[name](merged.get(name), value) if name in _MERGED else value
        # The values were validated for the field that each one goes to, which no type checker can follow by
        # name.
        return cls(**merged)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    @property
    def resolved_image(self) -> str:
        """The image, or the default image of the caller's Python."""
        return self.image or default_image()

    @property
    def memory_start(self) -> str | None:
        """The memory of the first attempt, as a Kubernetes quantity."""
        return self.memory[0] if isinstance(self.memory, tuple) else self.memory

    @property
    def memory_ceiling(self) -> str | None:
        """The most memory that a retry may get, or None if retries do not raise ``memory``."""
        return self.memory[1] if isinstance(self.memory, tuple) else None


def default_image() -> str:
    """The image of the Python that runs this program."""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    # Docker's library tags a Python that is not yet released as X.Y-rc.
    return f"python:{minor}-slim" if sys.version_info.releaselevel == "final" else f"python:{minor}-rc-slim"


def _merge(below: object, above: object) -> object:
    """Merge mappings key by key. None removes what earlier layers set."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **above}
    return above


def _merge_templates(below: object, above: object) -> object:
    """Append the templates. None removes the earlier ones."""
    if below is None or above is None:
        return above
    from kubefunc import pod_templates

    return pod_templates.joined(*pod_templates.in_order(below), *pod_templates.in_order(above))


_MERGED: Final[Mapping[str, Callable[[object, object], object]]] = {
    **dict.fromkeys(("env", "labels", "annotations", "node_selector"), _merge),
    "pod_template": _merge_templates,
}

# --- layers


class Layer(Mapping[str, object]):
    """The options that one source sets, checked and converted. None means "explicitly none"."""

    def __init__(self, values: Mapping[str, object], sources: Mapping[str, str]) -> None:
        self._values = dict(values)
        self._sources = dict(sources)

    def source(self, name: str) -> str:
        """Where the option was set, for messages: ``@remote``, ``KUBEFUNC_CPU``."""
        return self._sources[name]

    def __getitem__(self, name: str) -> object:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        # Names alone: the values of env may be secrets.
        return f"Layer({', '.join(f'{name} from {self._sources[name]}' for name in self._values)})"


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
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=UNSET,
            annotation=getattr(accepted, "__forward_arg__", accepted),
        )
        for name, accepted in OptionChanges.__annotations__.items()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return function


def parse_changes(where: str, /, **changes: object) -> Layer:
    """Check the names and values of options where they are written.

    >>> parse_changes("@remote", memmory="4Gi")
    Traceback (most recent call last):
    ...
    kubefunc.errors.ConfigurationError: @remote: there is no option 'memmory' (='4Gi'). Did you mean 'memory'?

    Args:
        where: what the user wrote, for messages and for :func:`origins`: ``@remote``, ``.options()``, ``configure()``.
        changes: options as in :class:`OptionChanges`. Those that are UNSET are left out.

    Raises:
        ConfigurationError: there is no such option, or its value is not accepted.
    """
    __tracebackhide__ = True
    kinds = _kinds()
    for name, value in changes.items():
        if name not in kinds:
            raise _no_such_option(where, name, value)
    parsed: dict[str, object] = {}
    for name, value in changes.items():  # no comprehension: its frame would stand in the user's traceback
        if value is not UNSET:
            parsed[name] = _accepted(f"{where}: {name}", kinds[name], value)
    return Layer(parsed, dict.fromkeys(parsed, where))


_PREFIX: Final = "KUBEFUNC_"
_NOT_OPTIONS: Final = frozenset(
    {
        "KUBEFUNC_BACKEND",  # read by the session
        "KUBEFUNC_CALL",  # these four are set by the runner for the function
        "KUBEFUNC_ATTEMPT",
        "KUBEFUNC_DISRUPTIONS",
        "KUBEFUNC_NESTED",
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
    by_variable = _by_variable()
    for variable, text in environ.items():
        if not variable.startswith(_PREFIX) or variable in _NOT_OPTIONS or not text.strip():
            continue
        name = by_variable.get(variable)
        if name is None:
            _refuse_slip(variable, by_variable)
            continue
        parsed[name] = _read(variable, _kinds()[name], text)
        sources[name] = variable
    return Layer(parsed, sources)


def origins(*layers: Layer) -> dict[str, str]:
    """For each option, where its value comes from; merged ones may come from several places.

    >>> origins(environment_layer({"KUBEFUNC_CPU": "2"}))["cpu"]
    'KUBEFUNC_CPU'

    Args:
        layers: weakest first, as for :meth:`Options.from_layers`.
    """
    found = dict.fromkeys(_kinds(), "built-in")
    held: dict[str, object] = {}
    for layer in layers:
        for name, value in layer.items():
            adds = name in _MERGED and held.get(name) is not None and value is not None
            found[name] = f"{found[name]} + {layer.source(name)}" if adds else layer.source(name)
            held[name] = value
    return found


@functools.lru_cache(maxsize=1)  # each call asks several times
def _kinds() -> Mapping[str, Kind]:
    """The kind of each option, by name, in the order of the fields."""
    return {entry.name: cast(Kind, entry.metadata[_KIND]) for entry in dataclasses.fields(Options)}


def _variable(name: str) -> str:
    return f"{_PREFIX}{name.upper()}"


@functools.lru_cache(maxsize=1)
def _by_variable() -> Mapping[str, str]:
    return {_variable(name): name for name in _kinds()}


def _variables() -> frozenset[str]:
    return frozenset({"KUBEFUNC_BACKEND", *_by_variable()})


def _accepted(what: str, kind: Kind, value: object) -> object:
    """The normalised value; None stays None where the kind allows it."""
    __tracebackhide__ = True
    if value is None and kind.nothing is not None:
        return None
    try:
        if value is None:
            raise Refused("None means nothing here")
        return kind.parse(value)
    except Refused as refused:
        raise _refusal(what, kind, value, refused) from None


def _read(variable: str, kind: Kind, text: str) -> object:
    if kind.nothing is not None and text.strip().lower() == "none":
        return None
    try:
        return kind.parse(kind.read(text))
    except Refused as refused:
        raise _refusal(variable, kind, text, refused) from None


def _refusal(what: str, kind: Kind, value: object, refused: Refused) -> ConfigurationError:
    shown = _brief(value) if refused.shown is None else refused.shown
    equals = f"={shown}" if shown else ""
    stop = "" if refused.why.endswith("?") else "."
    return ConfigurationError(
        f"{what}{refused.at}{equals} is not accepted: {refused.why}{stop} Accepted: {kind.accepts}."
    )


def _brief(value: object) -> str:
    whole = repr(value)
    return whole if len(whole) <= 100 else f"{whole[:97]}..."


def _no_such_option(where: str, name: str, value: object) -> ConfigurationError:
    from kubefunc.option_names import suggestion  # here, as it is needed only when something is wrong already

    # A dict, or a text under an unknown name, may hold a password.
    shown = f" (={_brief(value)})" if isinstance(value, (int, float)) or _is_quantity(value) else ""
    return ConfigurationError(f"{where}: there is no option {name!r}{shown}. {suggestion(name, _kinds())}")


def _is_quantity(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 8 and value[:1].isdigit()


def _refuse_slip(variable: str, known: Iterable[str]) -> None:
    """Refuse a variable only if it is nearly one of ours: other programs may use the prefix too."""
    import difflib

    suffixes = {name.removeprefix(_PREFIX): name for name in known}
    near = difflib.get_close_matches(variable.removeprefix(_PREFIX), suffixes, n=1, cutoff=0.75)
    if near:
        raise ConfigurationError(
            f"{variable} in the environment sets no option. Did you mean {suffixes[near[0]]}? (Or unset it.)"
        )
