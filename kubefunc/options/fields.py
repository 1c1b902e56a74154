"""All options of a function, made of the groups that the modules beside this one define."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kubefunc.errors import ConfigurationError
from kubefunc.options.advanced import Advanced, AdvancedChanges
from kubefunc.options.kind import accepted, brief
from kubefunc.options.network import Network, NetworkChanges
from kubefunc.options.option import UNSET, Layer, kinds, merges
from kubefunc.options.packages import Packages, PackagesChanges
from kubefunc.options.placement import Placement, PlacementChanges
from kubefunc.options.pod import InPod, InPodChanges
from kubefunc.options.results import Results, ResultsChanges
from kubefunc.options.running import Running, RunningChanges

if TYPE_CHECKING:
    from typing_extensions import Unpack

QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"


class OptionChanges(
    RunningChanges,
    InPodChanges,
    PackagesChanges,
    NetworkChanges,
    PlacementChanges,
    AdvancedChanges,
    ResultsChanges,
    total=False,
):
    """The types that each option accepts. The fields of :class:`Options` explain them."""


# A dataclass has the fields of its last base first.
@dataclass(frozen=True, kw_only=True)
class Options(Results, Advanced, Placement, Network, Packages, InPod, Running):
    """Where and how a function runs.

    The constructor checks all values and converts them: durations to seconds as float, ``cpu`` and ``memory`` to
    Kubernetes quantities as text. :meth:`of` does the same and has precise types for its keywords.

    For each option, "Local" says what it does without a cluster.

    >>> from datetime import timedelta
    >>> Options.of(cpu=0.5, timeout=timedelta(minutes=10)).timeout
    600.0
    >>> Options.of(memory="4GB")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    kubefunc.errors.ConfigurationError: Options: memory='4GB' is not accepted: Kubernetes writes '4Gi' (...

    Raises:
        ConfigurationError: a value is not accepted; the message names option, value and what is accepted.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for contradiction in self._contradictions():
            raise ConfigurationError(contradiction)

    def _contradictions(self) -> Iterator[str]:
        """Options of several groups that do not go together."""
        if self.untrusted and self.service_account is not None:
            yield (
                f"service_account={self.service_account!r} gives the Pod a token, and a function with untrusted=True "
                "gets none: leave one of the two out"
            )
        if self.untrusted and self.pool is not None:
            yield "pool= lets calls share Pods, and a function with untrusted=True has one of its own: set pool=None"
        if self.backoff_limit and not self.max_disruptions:
            yield (
                f"backoff_limit={self.backoff_limit} replaces failed Pods, and with max_disruptions=0 the function "
                "runs at most once: leave one of the two out"
            )
        label = self.labels.get(QUEUE_LABEL)
        if self.queue is not None and label not in (None, self.queue):
            yield f"queue={self.queue!r} and labels[{QUEUE_LABEL!r}]={label!r} name two queues: leave one out"
        user = self.security_context.get("runAsUser")
        if self.run_as_user is not None and user not in (None, self.run_as_user):
            yield (
                f"run_as_user={self.run_as_user} and security_context['runAsUser']={user} name two users: leave one of "
                "the two out"
            )

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
                merged[name] = MERGES[name](merged.get(name), value)
        # The values were validated for the field that each one goes to, which no type checker can follow by
        # name.
        return cls(**merged)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


KINDS: Final = kinds(Options)
MERGES: Final = merges(Options)


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
    for name, value in changes.items():
        if name not in KINDS:
            raise _no_such_option(where, name, value)
    parsed: dict[str, object] = {}
    for name, value in changes.items():  # no comprehension: its frame would stand in the user's traceback
        if value is not UNSET:
            parsed[name] = accepted(f"{where}: {name}", KINDS[name], value)
    return Layer(parsed, dict.fromkeys(parsed, where))


def _no_such_option(where: str, name: str, value: object) -> ConfigurationError:
    # A dict, or a text under an unknown name, may hold a password.
    shown = f" (={brief(value, most=100)})" if isinstance(value, (int, float)) or _is_quantity(value) else ""
    return ConfigurationError(f"{where}: there is no option {name!r}{shown}. {_suggestion(name)}")


def _suggestion(name: str) -> str:
    try:
        from kubefunc.options import suggestions  # here, as it is needed only when something is wrong already
    except ImportError:  # in a Pod, where it does not travel
        return f"The options are: {', '.join(KINDS)}."
    return suggestions.suggestion(name, KINDS)


def _is_quantity(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 8 and value[:1].isdigit()
