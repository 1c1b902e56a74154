"""The cluster, on which the same examples run, and where their packages come from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import ClusterUnderTest, cluster, kube
from tests.cluster.images import image_with
from tests.cluster.sandbox import listen_inside
from tests.cluster.wheels import REAL, real_wheels
from tests.conftest import clean_environment
from tests.wheels import served

__all__ = ["cluster", "kube"]


@pytest.fixture(scope="session")
def package_settings(cluster: ClusterUnderTest) -> Iterator[dict[str, str]]:
    """Environment variables for examples with ``packages=[...]``: our own cluster has no way to an index elsewhere."""
    if cluster.hermetic is None:
        yield {}
        return
    image, archive = image_with(["uv"], "3.11")
    cluster.hermetic.import_image(archive)
    with served(real_wheels(REAL), listening=listen_inside(cluster.hermetic.sandbox)) as index:
        yield {"KUBEFUNC_IMAGE": image, "KUBEFUNC_PACKAGE_INDEX": index.url}


@pytest.fixture(scope="session")
def examples_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A clean environment that all examples share: the packages that are sent are compressed once, as for a user."""
    home: Path = tmp_path_factory.mktemp("home")
    return clean_environment(home)
