"""What is found to stand in a call's way: what replaces what, and what becomes of it."""

from __future__ import annotations

import pytest

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose.finding import Finding, sharper
from kubefunc.backends.kubernetes.diagnose.starting import waiting_trouble
from kubefunc.diagnosis import Diagnosis, Phase

KNOWN = Diagnosis("", "", phase=Phase.RUNNING, call="f-1", namespace="ns", pod="f-1-abc", events=("a warning",))


def test_a_back_off_without_words_does_not_hide_the_reason() -> None:
    """Up to Kubernetes 1.31 ``ImagePullBackOff`` says only that it waits: the refusal before it stays the finding."""
    refused = waiting_trouble("ErrImagePull", "pull access denied", "thing:1")
    waits = waiting_trouble("ImagePullBackOff", 'Back-off pulling image "thing:1"', "thing:1")
    assert waits is not None
    assert waits.vague
    assert sharper(refused, waits) is refused
    assert sharper(None, waits) is waits


def test_words_are_never_replaced_by_older_ones() -> None:
    """A new finding with words of its own, or the end of the trouble, is believed."""
    network = waiting_trouble("ErrImagePull", "dial tcp: i/o timeout", "thing:1")
    refused = waiting_trouble("ImagePullBackOff", 'Back-off pulling image "thing:1": manifest unknown', "thing:1")
    assert sharper(network, refused) is refused
    assert sharper(refused, None) is None


def test_an_error_has_all_that_is_known() -> None:
    """Place and warnings come from the call, the rest from the finding, in the text as in the diagnosis."""
    finding = Finding(errors.PodConfigError, "Why", "It is so.", "Do that.", ("Why: words", "a warning"))
    error = finding.as_error(KNOWN)
    assert type(error) is errors.PodConfigError
    assert error.diagnosis is not None
    assert error.diagnosis.events == ("a warning", "Why: words")
    assert str(error).splitlines() == [
        "It is so.",
        "  where: call f-1, namespace ns, Pod f-1-abc",
        "  cluster: a warning",
        "  cluster: Why: words",
        "  do: Do that.",
    ]


@pytest.mark.parametrize(("exit_code", "signal"), [(3, None), (137, 9)])
def test_a_dead_worker_has_its_numbers(exit_code: int, signal: int | None) -> None:
    """``WorkerDiedError`` has exit code and signal as attributes, as when the supervisor told of them."""
    error = Finding(errors.WorkerDiedError, "WorkerDied", "", "", exit_code=exit_code, signal=signal).as_error(KNOWN)
    assert isinstance(error, errors.WorkerDiedError)
    assert (error.exit_code, error.signal) == (exit_code, signal)
