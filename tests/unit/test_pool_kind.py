"""Which warm workers of another program a program may use: those that it would have started itself."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from datetime import timedelta
from fractions import Fraction
from numbers import Integral
from typing import Any

import pytest

from kubefunc import Pool
from kubefunc.backends.kubernetes.control import archives
from kubefunc.backends.kubernetes.warm import kind as module
from kubefunc.backends.kubernetes.warm.kind import kind_of
from kubefunc.errors import ConfigurationError
from kubefunc.options import Options
from kubefunc.pool import Counts
from tests.conftest import ROOT

CLUSTER = ("https://one:6443", "mine")


def kind(
    cluster: tuple[str, str] = CLUSTER, namespace: str = "team", idle_timeout: float = 300.0, **options: object
) -> str:
    """That of workers with these options."""
    made = Options.of(logging=False, **options)  # type: ignore[arg-type]
    return kind_of(cluster, namespace, made, (idle_timeout, 60.0, ()))


def test_two_programs_with_the_same_options_have_the_same_kind() -> None:
    """Whoever runs them, and however Python orders its sets there; the kind is a label's value."""
    program = "from tests.unit.test_pool_kind import kind; print(kind(cpu=1, labels={'a': 'b', 'c': 'd'}))"
    kinds = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "LOGNAME": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert kinds == {kind(cpu=1, labels={"c": "d", "a": "b"})}
    assert kind().isalnum()
    assert len(kind()) <= 63


@pytest.mark.parametrize(
    "changed",
    [
        {"image": "python:3.11"},
        {"cpu": 2},
        {"env": {"A": "1"}},
        {"packages": ["numpy"]},
        {"service_account": "other"},
        {"idle_timeout": 60.0},
        {"namespace": "another"},
        {"cluster": ("https://two:6443", "mine")},
        {"cluster": ("https://one:6443", "somebody")},
        {"pod_template": {"spec": {"priorityClassName": "low"}}},
    ],
)
def test_other_options_are_another_kind(changed: dict[str, object]) -> None:
    """All that a Pod is made of, and where it is."""
    assert kind(**changed) != kind()  # type: ignore[arg-type]


def test_another_python_is_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has pickled may not load there."""
    before = kind()
    monkeypatch.setattr(module, "python_here", lambda: ("CPython", 3, 99))
    assert kind() != before


def test_another_version_of_kubefunc_is_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code is in the Pod: every byte of it counts, and so does the protocol."""
    before = kind()
    monkeypatch.setattr(module, "PROTOCOL", 2)
    changed = kind()
    monkeypatch.setattr(archives, "worker_archive_bytes", lambda: b"other code")
    assert len({before, changed, kind()}) == 3


# -- Pool


def test_a_pool_says_what_its_workers_do() -> None:
    """As far as it has any."""

    class Open:
        """On some cluster."""

        def counts(self) -> Counts:
            """One that runs a call, two that start."""
            return Counts(busy=1, starting=2)

        def scale(self, workers: int) -> None:
            """Not here."""

        def close(self) -> None:
            """Nor this."""

    pool, open_pool = Pool(max_workers=3), Open()
    made = "Pool(min_workers=0, max_workers=3, idle_timeout=300.0, fresh=True, preload=(), share=True)"
    assert repr(pool) == made
    pool.opened(open_pool)
    assert pool.workers == 3
    assert repr(pool) == f"<{made}: 1 busy, 0 idle, 2 starting>"


def test_a_pool_travels_as_it_was_made() -> None:
    """Not its workers."""
    made = Pool(min_workers=1, max_workers=3, idle_timeout=5, preload=["json"], share=False)
    assert repr(pickle.loads(pickle.dumps(made))) == repr(made)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"max_workers": 0}, "max_workers=0 is not a whole number of 1 or more"),
        ({"max_workers": True}, "max_workers=True is not a whole number"),
        ({"min_workers": 2.0}, "min_workers=2.0 is not a whole number of 0 or more"),
        ({"min_workers": 5, "max_workers": 2}, "min_workers=5 is more than max_workers=2"),
        ({"idle_timeout": 0}, "idle_timeout=0 is not accepted: it must be more than 0"),
        ({"idle_timeout": "5m"}, r"idle_timeout='5m' is not accepted: write a number of seconds or a datetime"),
        ({"idle_timeout": float("inf")}, "idle_timeout=inf is not accepted: Kubernetes accepts at most"),
        ({"preload": "numpy"}, "preload='numpy' is not a list of modules"),
        ({"fresh": 1}, "fresh=1 is not True or False"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    """With the value, and what is wrong with it."""
    with pytest.raises(ConfigurationError, match=f"Pool: {words}"):
        Pool(**wrong)


def test_a_pool_takes_what_options_take() -> None:
    """A duration as for ``timeout=``, and whole numbers that are no int, as numpy has them."""

    class Whole(Fraction):
        """Registered as numpy's are."""

    Integral.register(Whole)
    pool = Pool(idle_timeout=timedelta(minutes=2), max_workers=Whole(8))  # type: ignore[arg-type]
    assert repr(pool) == repr(Pool(idle_timeout=120, max_workers=8))


def test_what_cannot_be_scaled_is_refused() -> None:
    """With what it has, and what it may have."""
    pool = Pool(max_workers=3)
    with pytest.raises(ConfigurationError, match=r"scale\(4\) is more than max_workers=3"):
        pool.scale(4)
    with pytest.raises(ConfigurationError, match="workers=-1 is not a whole number"):
        pool.scale(-1)
    with pytest.raises(ConfigurationError, match="share='yes' is not True or False"):
        Pool(share="yes")  # type: ignore[arg-type]
    pool.scale(2)
    assert pool.least == 2
