"""``volumes=`` on this machine: nothing is mounted, and one line says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

import kubefunc.session
from kubefunc.volumes import EmptyDir, PersistentVolumeClaim
from tests.local.work import add

pytestmark = pytest.mark.usefixtures("forked")


def test_a_path_that_this_machine_lacks_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Calls and maps run as without the option; a path that is there is used as it is."""
    volumes = {"/not-here": PersistentVolumeClaim("corpus"), "/var/tmp": EmptyDir()}
    assert Path("/var/tmp").exists()
    function = add.options(volumes=volumes)
    assert [function.remote(1, 2).result(60), function.remote(1, 3).result(60)] == [3, 4]
    assert function.starmap([(1, 2)]).result(60) == [3]
    kubefunc.session.session().console.settle()
    told = "volumes= mounts nothing on this machine, which has no /not-here\n"
    assert capsys.readouterr().err.count(told) == 1
