"""What is noted in an exception of a function that could not use one of its volumes."""

from __future__ import annotations

import errno

import pytest

from kubefunc.handles.volume_notes import note_for
from kubefunc.volumes import ConfigMap, EmptyDir, HostPath, ImageVolume, PersistentVolumeClaim, Secret, Volume

VOLUMES: dict[str, Volume] = {
    "/data": PersistentVolumeClaim("corpus", read_only=True),
    "/conf": ConfigMap("app"),
    "/secret": Secret("login", mode=0o400),
    "/models": ImageVolume("models:1"),
    "/node": HostPath("/mnt", read_only=True),
    "/fast": EmptyDir("1Gi", memory=True),
    "/scratch": EmptyDir("1Gi"),
}


@pytest.mark.parametrize(
    ("code", "file", "note"),
    [
        (errno.EROFS, "/data/x", "volumes={\"/data\": PersistentVolumeClaim('corpus')} is mounted with read_only=True"),
        (errno.EROFS, "/node/x", "volumes={\"/node\": HostPath('/mnt')} is mounted with read_only=True"),
        (errno.EROFS, "/conf/x", "volumes={\"/conf\": ConfigMap('app')} is read-only"),
        (errno.EROFS, "/models", "volumes={\"/models\": ImageVolume('models:1')} is read-only"),
        (errno.EACCES, "/secret/pw", "its files belong to root, with mode=0o400"),
        (errno.ENOSPC, None, "volumes={\"/fast\": EmptyDir('1Gi')} is full"),
        (errno.ENOSPC, "/fast/x", "is full: raise its size"),
        (errno.ENOSPC, "/scratch/x", None),
        (errno.EROFS, "/database/x", None),
        (errno.EACCES, "/data/x", None),
        (errno.ENOENT, "/conf/x", None),
    ],
)
def test_the_note_names_the_option(code: int, file: str | None, note: str | None) -> None:
    """What is about no volume, or not about the volume being one, gets none."""
    found = note_for(OSError(code, "words", file), VOLUMES)
    assert (found is None) if note is None else (note in str(found))


def test_the_exception_may_be_the_cause_of_another() -> None:
    """Libraries wrap what the system says."""
    wrapped = ValueError("cannot save")
    wrapped.__cause__ = OSError(errno.EROFS, "words", "/conf/x")
    assert "read-only" in str(note_for(wrapped, VOLUMES))
    assert note_for(ValueError("other"), VOLUMES) is None
    assert note_for(OSError(errno.EROFS, "words", "/conf/x"), {}) is None
