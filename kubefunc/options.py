"""Everything that says where and how a function runs, and the layers that it comes from.

Weakest first: the built-in defaults below, :func:`kubefunc.configure`, ``KUBEFUNC_*`` in the environment,
``@remote(...)``, ``.options(...)``. ``env``, ``labels``, ``annotations`` and ``node_selector`` merge key by
key, each ``pod_template`` applies to what those before it made; all else replaces. ``None`` means "explicitly none"
and wipes what weaker layers say; ``UNSET``, or leaving the option out, inherits.

The fields of :class:`Options` are the one list of options: the layers and the environment are read by it, and
a test holds :class:`OptionChanges`, which types the keywords of ``@remote``, ``.options`` and ``configure``,
against it.
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
    """The value of one key of a Secret that is in the Pod's namespace already.

    >>> SecretKey("database", "password")
    SecretKey(name='database', key='password')
    """

    name: str
    key: str

    def __post_init__(self) -> None:
        _check_reference(self, self.name, self.key)


@dataclass(frozen=True)
class ConfigMapKey:
    """The value of one key of a ConfigMap that is in the Pod's namespace already."""

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


class OptionChanges(TypedDict, total=False):
    """The options as people may write them. What each one means stands at the fields of :class:`Options`."""

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
_DISRUPTIONS: Final = {_KIND: Kind("an int from 0 to 1000", values.whole_number(0, 1000), values.read_whole_number)}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how a function runs; normalised and valid by construction.

    Its fields have one form each: durations are seconds as float, ``cpu`` and ``memory`` Kubernetes
    quantities as text. The constructor takes all forms of :class:`OptionChanges` too; :meth:`of` is the same,
    typed so.

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
    """The container image; it needs ``python3`` of the caller's minor version and nothing else.

    Default: None, ``python:X.Y-slim`` of the caller's own X.Y, since pickled code crosses no minor version.
    Local: ignored, functions run under the caller's interpreter.
    """

    cpu: str | None = field(default=None, metadata=_CPU)
    """CPUs that are set aside (a request, no limit): an idle node may give more. Unit: CPUs, or thousandths
    as ``"500m"``.

    Default: None, no request.
    Local: ignored.
    """

    memory: str | tuple[str, str] | None = field(default=None, metadata=_MEMORY)
    """Memory, both request and limit: a node that promises it keeps the promise, and more ends in
    OutOfMemoryError.

    Unit: bytes, as a Kubernetes quantity. A pair ``("1Gi", "8Gi")`` starts with the first and lets retries
    after an OOM kill grow to the second.
    Default: None, neither request nor limit.
    Local: ignored.
    """

    cpu_limit: str | None = field(default=None, metadata=_CPU_LIMIT)
    """CPUs that it may not exceed: the kernel slows it down there. Unit: CPUs, or thousandths as ``"500m"``.

    Without ``cpu`` as much is set aside. Where a namespace's quota demands limits and this says none, ``cpu`` is the
    limit too, or 1.

    Default: None, no limit: what an idle node has to spare would be wasted.
    Local: ignored.
    """

    gpu: Mapping[str, int] | None = field(default=None, metadata=_GPU)
    """Accelerators: a number means ``nvidia.com/gpu``, a dict names other resources. A toleration for each
    comes with it.

    Default: None.
    Local: ignored, the function sees the machine's own.
    """

    # --- how long, how often

    timeout: float | None = field(default=None, metadata=_LIMIT)
    """How long one attempt may take, counted from the function's start, not from submission. Unit: seconds.

    Default: None, no limit but ``deadline``: nobody knows how long a function should take but who wrote it.
    Local: obeyed.
    """

    retries: int = field(default=0, metadata=_RETRIES)
    """How often the function is started again after it raised, died, ran out of time or of memory.

    Default: 0, since not every function may run twice. Drained nodes and preemption are not counted:
    ``max_disruptions``.
    Local: obeyed.
    """

    retry_exceptions: tuple[type[BaseException], ...] = field(default=(Exception,), metadata=_EXCEPTIONS)
    """The exceptions after which ``retries`` applies. Deaths of the process always count.

    Default: ``(Exception,)``. Not to be set from the environment.
    Local: obeyed.
    """

    deadline: float = field(default=7 * 24 * 3600.0, metadata=_SPAN)
    """When the Job is given up however far it has come, counted from submission. Unit: seconds.

    Default: 7 days. Kubernetes never ends a Job that never starts; this does.
    Local: ignored.
    """

    schedule_timeout: float | None = field(default=None, metadata=_LIMIT)
    """How long a call may wait for a node, a quota or a queue before UnschedulableError. Unit: seconds.

    Default: None, wait and say so: an autoscaler or a neighbour's end may well solve it.
    Local: ignored.
    """

    pull_allowance: float = field(default=900.0, metadata=_SPAN)
    """How long pulling the image may take before it counts against the Pod's deadline. Unit: seconds.

    Default: 900, room for a CUDA image over a slow line.
    Local: ignored.
    """

    max_disruptions: int = field(default=5, metadata=_DISRUPTIONS)
    """How often a Pod that was drained, preempted, evicted or deleted is replaced. Execution is at least
    once; 0 makes it at most once.

    Default: 5.
    Local: ignored.
    """

    # --- what it finds there

    env: Mapping[str, EnvValue] = field(default_factory=dict, metadata=_ENV)
    """Environment variables: literal texts (no ``$(NAME)`` is expanded), or keys of a Secret or ConfigMap.
    Texts travel in the call's own Secret. Merged by key.

    Default: none; the caller's environment does not travel, as it may hold secrets.
    Local: texts are set; SecretKey and ConfigMapKey need a cluster.
    """

    service_account: str | None = field(default=None, metadata=_NAME)
    """The ServiceAccount whose token is mounted, for functions that talk to the cluster or make calls of
    their own.

    Default: None, no token: most functions need none, and what is not there cannot be stolen.
    Local: ignored.
    """

    run_as_user: int | None = field(default=None, metadata=_USER)
    """The numeric user id; any but 0 satisfies the *restricted* Pod Security Standard.

    Default: None, the image's own user (root in stock images). OpenShift assigns one itself and refuses
    others.
    Local: ignored.
    """

    # --- where it runs

    context: str | None = field(default=None, metadata=_CONTEXT)
    """The kubeconfig's context.

    Default: None, kubectl's current one.
    Local: ignored.
    """

    namespace: str | None = field(default=None, metadata=_NAMESPACE)
    """The Kubernetes namespace.

    Default: None, the context's, else ``default``, as with kubectl.
    Local: ignored.
    """

    labels: Mapping[str, str] = field(default_factory=dict, metadata=_LABELS)
    """Labels of Job, Pod and Secret, beside kubefunc's own: for cost reports, queues, network policies.
    Merged by key.

    Default: none.
    Local: ignored.
    """

    annotations: Mapping[str, str] = field(default_factory=dict, metadata=_ANNOTATIONS)
    """Annotations of Job and Pod. Merged by key.

    Default: none.
    Local: ignored.
    """

    node_selector: Mapping[str, str] = field(default_factory=dict, metadata=_NODE_SELECTOR)
    """Labels that the node must have, beside ``kubernetes.io/os: linux``. Merged by key.

    Default: none.
    Local: ignored.
    """

    tolerations: tuple[Mapping[str, object], ...] = field(default=(), metadata=_TOLERATIONS)
    """Taints of nodes to put up with: Kubernetes' dicts, or the taint as kubectl writes it,
    ``"dedicated=ml:NoSchedule"``.

    Default: none of the user's; a lost node is given up after 30 s instead of Kubernetes' 300.
    Local: ignored.
    """

    priority_class: str | None = field(default=None, metadata=_NAME)
    """The PriorityClass: who may push out whom on a full cluster.

    Default: None, the cluster's own.
    Local: ignored.
    """

    image_pull_secrets: tuple[str, ...] = field(default=(), metadata=_NAMES)
    """Names of the Secrets with the registry's credentials.

    Default: none; those of the ServiceAccount apply anyway.
    Local: ignored.
    """

    image_pull_policy: PullPolicy | None = field(default=None, metadata=_PULL_POLICY)
    """When the kubelet asks the registry: ``Always``, ``IfNotPresent``, ``Never``.

    Default: None, Kubernetes' own: Always for ``:latest``, else IfNotPresent.
    Local: ignored.
    """

    pod_template: PodTemplate | tuple[PodTemplate, ...] | None = field(default=None, metadata=_POD_TEMPLATE)
    """All else that a Pod can have: a dict merged strategically (containers by name: ours are ``main`` and
    ``courier``), an object of the Kubernetes client, or a function that takes the finished Pod template and returns it.

    Templates of several layers apply one after another, those of :func:`kubefunc.configure` first; None wipes them.

    Default: None.
    Local: ignored.
    """

    mesh: bool = field(default=False, metadata=_SWITCH)
    """Let Istio and Linkerd inject their proxies.

    Default: False: a proxy that outlives ``main`` keeps the Pod, and an early request finds no network.
    Local: ignored.
    """

    evictable: bool = field(default=False, metadata=_SWITCH)
    """Let the Cluster Autoscaler and Karpenter move the Pod to save a node.

    Default: False: moving a call means starting it again.
    Local: ignored.
    """

    # --- how its result comes back

    detach: bool = field(default=False, metadata=_SWITCH)
    """Let the Job outlive this process; its result waits for :func:`kubefunc.attach`.

    Default: False, the end of the process cancels what is unfinished.
    Local: refused, nothing there outlives the client.
    """

    verbose: bool = field(default=True, metadata=_SWITCH)
    """Show what the function prints, and what the call waits for, on ``sys.stderr``.

    Default: True.
    Local: obeyed.
    """

    progress: bool = field(default=True, metadata=_SWITCH)
    """Show how far a map is, on ``sys.stderr``, while the program waits for it: a live line on a terminal or in a
    notebook, elsewhere a line every 30 s.

    Default: True.
    Local: obeyed.
    """

    logging: bool = field(default=True, metadata=_SWITCH)
    """Let ``logging`` in the function be set up as it is here: level and format of the root logger, on ``sys.stderr``.

    Default: True, where the root logger has a handler when the call is made.
    Local: obeyed.
    """

    express: bool = field(default=True, metadata=_SWITCH)
    """Fetch a result by exec the moment that it is there, instead of waiting for the Pod's status.

    Default: True, half a second earlier. False where security tools raise an alarm on exec.
    Local: ignored.
    """

    inline: bool = field(default=True, metadata=_SWITCH)
    """Let a small result travel in the Pod's status, readable by whoever may read Pods.

    Default: True, no further request is needed for it.
    Local: ignored.
    """

    results_in_log: bool = field(default=True, metadata=_SWITCH)
    """Let a result that nobody fetched be written to the courier's log, where a log pipeline may collect it.

    Default: True, results to 4 MiB survive their Pod's end.
    Local: ignored.
    """

    fetch_grace: float = field(default=60.0, metadata=_DURATION)
    """How long a result waits in its Pod for the client before it goes to the log. Unit: seconds.

    Default: 60, a short absence of the client; the Pod keeps its CPU and GPU meanwhile.
    Local: ignored.
    """

    result_ttl: float | None = field(default=None, metadata=_WAIT)
    """How long a result that is too large for the log (above 4 MiB) keeps its Pod. Unit: seconds.

    Default: None, ``ttl`` with ``detach=True``, else 600. The Pod keeps its CPU, memory and GPU meanwhile.
    Local: ignored.
    """

    ttl: float = field(default=24 * 3600.0, metadata=_DURATION)
    """How long a finished Job is kept at most, to be looked at or for ``attach``. Unit: seconds, rounded up.

    Default: 24 h. ``keep`` says which Jobs are kept so long; detached ones always are.
    Local: ignored.
    """

    keep: Keep = field(default="failed", metadata=_KEEP)
    """Which finished Jobs are kept for ``ttl``, to be looked at with kubectl: ``failed``, ``always`` or ``never``.

    A kept Job has ended: it uses no CPU and no memory, only objects of the namespace (a Job, its Pods, its Secrets with
    the arguments) and the Pods' logs on their nodes. Jobs of cancelled calls, and Jobs whose function has not started,
    are deleted in any case; those of detached calls are kept in any case.

    Default: ``failed``, the Job of a call that failed and a map's Job in which an item failed.
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
                f"cpu={self.cpu!r} is more than cpu_limit={self.cpu_limit!r}: no more can be set aside than it may use"
            )
        if self.timeout is not None and self.timeout > self.deadline:
            raise ConfigurationError(
                f"timeout={self.timeout:g} s is longer than deadline={self.deadline:g} s, after which the "
                f"whole Job is given up: raise deadline too"
            )

    @property
    def result_wait(self) -> float:
        """Seconds that a result too large for the log keeps its Pod."""
        if self.result_ttl is not None:
            return self.result_ttl
        return self.ttl if self.detach else RESULT_TTL

    @classmethod
    def of(cls, **changes: Unpack[OptionChanges]) -> Options:
        """The built-in defaults with these changes."""
        return cls.from_layers(parse_changes("Options", **changes))

    @classmethod
    def from_layers(cls, *layers: Layer) -> Options:
        """What applies, all layers taken together.

        >>> weak = parse_changes("configure()", env={"A": "1"})
        >>> Options.from_layers(weak, parse_changes("@remote", env={"B": "2"})).env
        {'A': '1', 'B': '2'}

        Args:
            layers: weakest first.

        Raises:
            ConfigurationError: two options that are right by themselves contradict each other.
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
        """The image, or the stock image of the caller's own Python."""
        return self.image or default_image()

    @property
    def memory_start(self) -> str | None:
        """The memory of the first attempt, as a Kubernetes quantity."""
        return self.memory[0] if isinstance(self.memory, tuple) else self.memory

    @property
    def memory_ceiling(self) -> str | None:
        """How far an OOM kill may raise ``memory``; None where it may not."""
        return self.memory[1] if isinstance(self.memory, tuple) else None


def default_image() -> str:
    """The stock image of the interpreter that this runs under."""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    # Docker's library tags a Python that is not yet released as X.Y-rc.
    return f"python:{minor}-slim" if sys.version_info.releaselevel == "final" else f"python:{minor}-rc-slim"


def _merge(below: object, above: object) -> object:
    """Mappings key by key; a None above wipes what is below, so that the next layer starts anew."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **above}
    return above


def _merge_templates(below: object, above: object) -> object:
    """One after another; None wipes."""
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
    """The options that one source sets, valid and normalised; None stands for "explicitly none"."""

    def __init__(self, values: Mapping[str, object], sources: Mapping[str, str]) -> None:
        self._values = dict(values)
        self._sources = dict(sources)

    def source(self, name: str) -> str:
        """Where the option was set, for a person: ``@remote``, ``KUBEFUNC_CPU``."""
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
    """Let the function's signature list the options that ``**changes`` stands for: notebooks complete them.

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
    """Validate names and values at once, where they are written.

    >>> parse_changes("@remote", memmory="4Gi")
    Traceback (most recent call last):
    ...
    kubefunc.errors.ConfigurationError: @remote: there is no option 'memmory' (='4Gi'). Did you mean 'memory'?

    Args:
        where: what the person wrote, for messages and for :func:`origins`: ``@remote``, ``.options()``,
        ``configure()``. changes: options as in :class:`OptionChanges`; those that are UNSET are left out.

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
        "KUBEFUNC_CALL",  # these three are set by the runner for the function
        "KUBEFUNC_ATTEMPT",
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
