"""``packages=``: installed in the Pod, by pip and by uv, from an index that only the tests have."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from kubefunc import Pool, remote
from kubefunc.errors import PackageInstallError
from kubefunc.volumes import PersistentVolumeClaim
from tests.cluster import work
from tests.cluster.cluster import Cluster
from tests.cluster.images import image_with
from tests.cluster.sandbox import listen_inside
from tests.cluster.spaces import Space
from tests.cluster.wheels import REAL, real_wheels
from tests.wheels import Index, install, served, wheel

WAIT = 180
PYTHON = "3.11"
NON_ROOT = {"containers": [{"name": "main", "securityContext": {"readOnlyRootFilesystem": True}}]}

pytestmark = [pytest.mark.xdist_group("packages"), pytest.mark.slow]


@pytest.fixture(scope="module")
def images(cluster: Any) -> dict[str, str]:
    """The images with pip and with uv, on the node."""
    if cluster.hermetic is None:
        pytest.skip("no cluster to test on of our own: images cannot be put on another's node")
    return {installer: _on_node(cluster.hermetic, installer) for installer in ("pip", "uv")}


def _on_node(hermetic: Cluster, installer: str) -> str:
    name, archive = image_with([installer], PYTHON)
    hermetic.import_image(archive)
    return name


@pytest.fixture
def index(calling: Space, hermetic: Cluster, tmp_path: Path) -> Iterator[Index]:
    """An index of tiny packages, which Pods reach at the node's address."""
    wheel(tmp_path, "greeting", "1.0")
    wheel(tmp_path, "greeting", "2.0", requires=["its-words"])
    wheel(tmp_path, "its-words", "1.5", {"its_words/__init__.py": "WORDS = 'hello'\n"})
    wheel(tmp_path, "large", "1.0", {"large.bin.py": "".join(map(str, range(2_000_000)))})
    with served(tmp_path, "ada:s3cret", listen_inside(hermetic.sandbox)) as running:
        yield running


def asked_for(index: Index, name: str) -> int:
    """How often the wheel was downloaded."""
    return sum(path.startswith("/files/") and name in path for path in index.asked)


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_packages_are_installed_for_any_user(
    hermetic: Cluster, images: dict[str, str], index: Index, installer: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not root, and a root file system that is read-only; the output shows the phase."""
    function = remote(work.greet).options(
        image=images[installer],
        packages=["greeting"],
        package_index=index.url,
        run_as_user=1000,
        pod_template=NON_ROOT,
        timeout=60,
    )
    assert function.remote().result(WAIT) == ("2.0", "hello", 1000, "")
    shown = capfd.readouterr().err
    assert f"kubefunc: installing packages with {installer}: greeting" in shown
    assert "kubefunc: packages installed in " in shown


def test_the_password_of_the_index_stands_in_secrets_alone(
    calling: Space, hermetic: Cluster, images: dict[str, str], index: Index
) -> None:
    """Nobody reads it who may not read Secrets."""
    options: dict[str, Any] = {"image": images["uv"], "packages": ["greeting"], "keep": "always"}
    call = remote(work.greet).options(**options, package_index=index.url).remote()
    assert call.result(WAIT)[0] == "2.0"
    assert "s3cret" not in json.dumps([calling.admin.get(kind) for kind in ("jobs", "pods", "events")])
    assert "s3cret" not in "".join(call.logs())
    call.discard()


def test_a_map_installs_once_in_each_pod(hermetic: Cluster, images: dict[str, str], index: Index) -> None:
    """Whatever number of items a Pod has."""
    options: dict[str, Any] = {"image": images["pip"], "packages": ["greeting"], "verbose": False}
    function = remote(work.greet).options(**options, package_index=index.url)
    found = function.map(range(1, 9), chunksize=4, max_parallelism=2).result(WAIT)
    assert {each[:2] for each in found} == {("2.0", "hello")}
    assert asked_for(index, "greeting") == len({each[3] for each in found})


def test_the_second_call_with_a_cache_installs_nothing(
    calling: Space, hermetic: Cluster, images: dict[str, str], index: Index
) -> None:
    """A claim keeps what the first Pod has installed."""
    with claim(calling, "cache"):
        function = remote(work.greet).options(
            image=images["pip"],
            packages=["greeting"],
            package_index=index.url,
            package_cache=PersistentVolumeClaim("cache"),
        )
        assert function.remote().result(WAIT)[0] == "2.0"
        index.asked.clear()
        second = function.remote()
        assert second.result(WAIT)[0] == "2.0"
        assert index.asked == []
        assert "packages found in the cache: greeting" in "".join(second.logs())


class claim:  # noqa: N801
    """A PersistentVolumeClaim on the node's disk, for the time of a test."""

    def __init__(self, space: Space, name: str) -> None:
        self._space = space
        self._name = name
        self._volume = f"{space.namespace}-{name}"

    def __enter__(self) -> None:
        size = {"storage": "1Gi"}
        shared: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
        self._space.admin.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": self._volume},
                "spec": {
                    **shared,
                    "capacity": size,
                    "hostPath": {"path": f"/run/tmp/{self._volume}", "type": "DirectoryOrCreate"},
                },
            }
        )
        self._space.admin.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": self._name, "namespace": self._space.namespace},
                "spec": {**shared, "volumeName": self._volume, "resources": {"requests": size}},
            }
        )

    def __exit__(self, *_: object) -> None:
        self._space.admin.run("delete", "persistentvolumeclaim", self._name, "--wait=false")
        self._space.admin.run("delete", "persistentvolume", self._volume, "--wait=false")


def test_what_fails_is_told_with_the_way_out(hermetic: Cluster, images: dict[str, str], index: Index) -> None:
    """By a typed error within seconds, with the installer's last lines."""
    tiny = {"volumes": [{"name": "volume-kubefunc-packages", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]}
    nowhere = f"http://{hermetic.sandbox.cable.node_address}:1/simple"
    cases: dict[str, dict[str, Any]] = {
        "NoSuchPackage": {"packages": ["no-such-thing"]},
        "NoSuchVersion": {"packages": ["greeting>=9"]},
        "IndexUnreachable": {"package_index": nowhere},
        "IndexRefused": {"package_index": index.url.replace("s3cret", "wrong")},
        "DiskFull": {"packages": ["large"], "pod_template": tiny},
        "NoInstaller": {"image": f"python:{PYTHON}-slim"},
    }
    common: dict[str, Any] = {"image": images["pip"], "packages": ["greeting"], "package_index": index.url}
    calls = {
        reason: remote(work.greet).options(**{**common, **case, "verbose": False, "keep": "never"}).remote()
        for reason, case in cases.items()
    }
    errors = {reason: call.exception(WAIT) for reason, call in calls.items()}
    for reason, error in errors.items():
        assert isinstance(error, PackageInstallError), (reason, error)
        assert error.diagnosis is not None
        assert error.diagnosis.reason == reason, str(error)
        assert "s3cret" not in str(error)
    assert "No matching distribution found for no-such-thing" in str(errors["NoSuchPackage"])
    assert "from versions: 1.0, 2.0" in str(errors["NoSuchVersion"])


def test_numpy_pandas_scikit_learn_and_pyarrow(hermetic: Cluster, images: dict[str, str], calling: Space) -> None:
    """The real ones, from an index inside the cluster's network."""

    def compute() -> tuple[int, float, bool, int]:
        import numpy
        import pandas
        import pyarrow
        from sklearn.linear_model import LinearRegression

        x = numpy.arange(10.0).reshape(-1, 1)
        model = LinearRegression().fit(x, 2 * x.ravel())
        frame = pandas.DataFrame({"x": x.ravel()})
        table = pyarrow.Table.from_pandas(frame)
        return int(frame.x.sum()), round(float(model.coef_[0]), 6), "x" in table.column_names, table.num_rows

    with served(real_wheels(REAL), listening=listen_inside(hermetic.sandbox)) as index:
        function = remote(compute).options(image=images["uv"], packages=list(REAL), package_index=index.url)
        assert function.remote().result(WAIT) == (45, 2.0, True, 10)


@pytest.mark.timeout(600)
def test_sync_sends_the_packages_of_this_machine(calling: Space, capfd: pytest.CaptureFixture[str]) -> None:
    """To the stock image, which has no installer, without any index: for a call, and for a map of four Pods."""
    del calling

    def total(seed: int) -> tuple[str, int]:
        import numpy

        return numpy.__version__, int(numpy.arange(10).sum()) + seed

    version = metadata.version("numpy")
    assert remote(total).options(packages="sync", run_as_user=1000).remote(1).result(WAIT) == (version, 46)
    assert f"kubefunc: unpacking packages: numpy {version} (" in capfd.readouterr().err

    def fit(slope: int) -> tuple[float, float, str]:
        import numpy
        import pandas
        from sklearn.linear_model import LinearRegression

        x = pandas.DataFrame({"x": numpy.arange(10.0)})
        return round(float(LinearRegression().fit(x, slope * x.x).coef_[0]), 6), float(x.x.sum()), platform.node()

    found = remote(fit).options(packages="sync").map(range(4), chunksize=1, max_parallelism=4).result(2 * WAIT)
    assert [each[:2] for each in found] == [(float(slope), 45.0) for slope in range(4)]
    assert len({pod for *_, pod in found}) == 4


@pytest.fixture
def own_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of packages that this process has installed."""
    place = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(place))
    return place


def test_what_does_not_fit_the_pod_is_installed_from_the_index(
    hermetic: Cluster, images: dict[str, str], index: Index, own_packages: Path
) -> None:
    """The same version, where the Pod's C library is older than compiled parts need. The output says so."""
    files = {"greeting.py": "VERSION = 'of this machine'\n", "greeting_core.so": ""}
    install(own_packages, "greeting", "1.0", files, tag="cp311-cp311-manylinux_2_99_x86_64")
    call = remote(work.greeting_version).options(image=images["pip"], packages="sync", package_index=index.url).remote()
    assert call.result(WAIT) == "1.0"
    assert "installing packages with pip: greeting==1.0 (those of your machine need" in call.logs()


def test_workers_of_a_pool_and_ranks_of_a_gang_have_the_packages(
    hermetic: Cluster, images: dict[str, str], index: Index, own_packages: Path
) -> None:
    """A worker gets them once, for all its calls; each rank for itself. From the index, and from this machine."""
    listed: dict[str, Any] = {"image": images["pip"], "packages": ["greeting"], "package_index": index.url}
    install(own_packages, "greeting", "7.0")
    synced: dict[str, Any] = {"packages": "sync"}
    for options, version in ((listed, "2.0"), (synced, "7.0")):
        function = remote(work.greeting_version).options(**options, verbose=False)
        index.asked.clear()
        ranks = function.options(gang=2).remote().result(WAIT)
        assert ranks == [version] * 2
        assert asked_for(index, "greeting") == (2 if options is listed else 0)
        with Pool(max_workers=1) as pool:
            assert [function.options(pool=pool).remote().result(WAIT) for _ in range(2)] == [version] * 2
        assert asked_for(index, "greeting") == (3 if options is listed else 0)
