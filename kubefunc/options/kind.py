"""What a kind of value is: what it accepts, how it is read, and how a value is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kubefunc.errors import ConfigurationError


class Refused(Exception):
    """A value that is not accepted.

    Attributes:
        why: what is wrong with it and how to write it.
        at: where inside the option's value, as it would be written in Python: ``['PORT']``, ``[1]``.
        shown: the wrong part as text; None means the whole value's repr.
    """

    def __init__(self, why: str, *, at: str = "", shown: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.at = at
        self.shown = shown


@dataclass(frozen=True)
class Kind:
    """One kind of value.

    Attributes:
        accepts: what is accepted, as the end of a sentence.
        parse: from a Python value to the normalised one; accepts its own output.
        read: from an environment variable's text to what ``parse`` takes.
        nothing: makes what None stands for; None where None is refused.
    """

    accepts: str
    parse: Callable[[object], object]
    read: Callable[[str], object] = str
    nothing: Callable[[], object] | None = None


def none() -> None:
    """What None stands for where an option can be switched off."""


def accepted(what: str, kind: Kind, value: object) -> object:
    """The normalised value; None stays None where the kind allows it.

    Args:
        what: where the value was written, for messages: ``@remote: cpu``.

    Raises:
        ConfigurationError: the kind does not accept the value.
    """
    __tracebackhide__ = True
    if value is None and kind.nothing is not None:
        return None
    try:
        if value is None:
            raise Refused("None means nothing here")
        return kind.parse(value)
    except Refused as refused:
        raise _refusal(what, kind, value, refused) from None


def accepted_text(variable: str, kind: Kind, text: str) -> object:
    """The normalised value of an environment variable; ``none`` stands for None where the kind allows it.

    Raises:
        ConfigurationError: the kind does not accept the text.
    """
    if kind.nothing is not None and text.strip().lower() == "none":
        return None
    try:
        return kind.parse(kind.read(text))
    except Refused as refused:
        raise _refusal(variable, kind, text, refused) from None


def _refusal(what: str, kind: Kind, value: object, refused: Refused) -> ConfigurationError:
    shown = brief(value, most=100) if refused.shown is None else refused.shown
    equals = f"={shown}" if shown else ""
    stop = "" if refused.why.endswith("?") else "."
    return ConfigurationError(
        f"{what}{refused.at}{equals} is not accepted: {refused.why}{stop} Accepted: {kind.accepts}."
    )


def brief(value: object, most: int = 60) -> str:
    """The value's repr, cut to this many characters."""
    whole = repr(value)
    return whole if len(whole) <= most else f"{whole[: most - 3]}..."
