"""A container that was not started: by the image's fault or by the node's."""

from __future__ import annotations

import pytest

from kubefunc.backends.kubernetes.diagnose.ending import main_trouble
from kubefunc.backends.kubernetes.objects.views import pod_view
from kubefunc.errors import KubefuncError, PodConfigError, PodLostError


def not_started(message: str) -> dict[str, object]:
    """A Pod as the kubelet leaves it when containerd did not start ``main``."""
    ended = {"exitCode": 128, "reason": "StartError", "message": message}
    return {
        "metadata": {"name": "f-aaaaaaaa-bbbbb", "uid": "1"},
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Failed", "containerStatuses": [{"name": "main", "state": {"terminated": ended}}]},
    }


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ('exec: "python3": executable file not found in $PATH: unknown', PodConfigError),
        ("exec /usr/bin/python3: exec format error", PodConfigError),
        ('failed to start containerd task "01e9": context canceled: unknown', PodLostError),
        ("failed to create containerd task: context deadline exceeded: unknown", PodLostError),
    ],
)
def test_only_the_image_is_blamed_for_its_own_faults(words: str, error: type[KubefuncError]) -> None:
    """An overloaded node gives up in words of its own: the call is run again, as if its node had been lost."""
    finding = main_trouble(pod_view(not_started(words)))
    assert finding is not None
    assert finding.error is error
    assert words in finding.words[0]
