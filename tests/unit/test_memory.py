"""What the cgroup says about memory, in the files of version 2 and of version 1."""

from __future__ import annotations

import pytest

from kubefunc.runner.execution.memory import parse_oom_kills

V2_QUIET = "low 0\nhigh 0\nmax 1418\noom 0\noom_kill 0\n"
V2_ONE_PROCESS = "low 0\nhigh 0\nmax 2201\noom 1\noom_kill 1\n"
V2_WHOLE_CONTAINER = "low 0\nhigh 0\nmax 2201\noom 1\noom_kill 4\noom_group_kill 1\n"
V1_QUIET = "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"
V1_KILLED = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
V1_OLD_KERNEL = "oom_kill_disable 0\nunder_oom 0\n"


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        (V2_QUIET, 0),
        (V2_ONE_PROCESS, 1),
        (V2_WHOLE_CONTAINER, 4),
        (V1_QUIET, 0),
        (V1_KILLED, 2),
        (V1_OLD_KERNEL, 0),
        ("", 0),
        ("oom_kill\n", 0),
    ],
)
def test_the_killers_counter(text: str, kills: int) -> None:
    """Only ``oom_kill`` counts, not its namesakes; a kernel that has no such counter counts as quiet."""
    assert parse_oom_kills(text) == kills
