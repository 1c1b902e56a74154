"""kubefunc.volumes: what may be mounted where, and what is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import kubefunc
from kubefunc import errors, volumes
from kubefunc.options import Options, parse_changes
from kubefunc.options.kind import Refused
from kubefunc.volumes import ConfigMap, EmptyDir, HostPath, ImageVolume, PersistentVolumeClaim, Secret

# --- the volumes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PersistentVolumeClaim("My_Data"), "PersistentVolumeClaim: name='My_Data' is not accepted"),
        (lambda: PersistentVolumeClaim("data", sub_path="/models"), "write 'models'"),
        (lambda: PersistentVolumeClaim("data", sub_path="../other"), "must not contain '..'"),
        (lambda: PersistentVolumeClaim("data", sub_path=""), "sub_path='' is not accepted"),
        (
            lambda: PersistentVolumeClaim("data", read_only="yes"),
            "read_only='yes' is not accepted: write True or False",
        ),
        (lambda: Secret("s", mode=400), "mode=400 is not accepted: did you mean 0o400?"),
        (lambda: Secret("s", mode=644), "did you mean 0o644?"),
        (lambda: Secret("s", mode="0400"), "write a number: 0o400"),
        (lambda: Secret("s", mode=0o1777), "between 0 and 0o777"),
        (lambda: Secret("s", items=["password"]), "a dict of keys to paths"),
        (lambda: Secret("s", items={}), "at least one key"),
        (lambda: Secret("s", items={"pass word": "p"}), "items['pass word'] is not accepted"),
        (lambda: Secret("s", items={"p": "/p"}), "items['p']='/p' is not accepted"),
        (lambda: Secret("s", items={"a": "x", "b": "./x"}), "two keys have the path 'x'"),
        (lambda: ConfigMap("app", sub_path="conf/app.yaml"), "a ConfigMap has keys and no directories"),
        (lambda: ConfigMap("app", sub_path="a", optional=True), "an empty directory instead of a missing file"),
        (lambda: ConfigMap("app", sub_path="a", items={"k": "b"}), "items has no file of this path; it has b"),
        (lambda: EmptyDir("10GB"), "EmptyDir: size='10GB' is not accepted: Kubernetes writes '10Gi'"),
        (lambda: EmptyDir(10), "Did you forget a unit?"),
        (lambda: EmptyDir("512m"), "write '512Mi'"),
        (lambda: EmptyDir(("1Gi", "2Gi")), "write one size"),
        (lambda: EmptyDir("1Gi", memory=1), "memory=1 is not accepted"),
        (lambda: ImageVolume("https://registry.example/x:1"), "without a scheme"),
        (lambda: ImageVolume("x:1", pull_policy="always"), "did you mean 'Always'?"),
        (lambda: HostPath("mnt"), "begins with '/'"),
        (lambda: HostPath("/mnt", type="directory"), "did you mean 'Directory'?"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_written(make: Callable[[], Any], words: str) -> None:
    """The error names the class, the field, the value and the fix."""
    with pytest.raises(errors.ConfigurationError) as caught:
        make()
    assert words in str(caught.value)


def test_values_are_normalised() -> None:
    """Sizes become Kubernetes quantities and paths lose what means nothing."""
    assert EmptyDir(2**30) == EmptyDir("1073741824")
    assert PersistentVolumeClaim("data", sub_path="./a//b/").sub_path == "a/b"
    assert Secret("s", mode=0o400).mode == 256


# --- the option


@pytest.mark.parametrize(
    ("value", "at", "words"),
    [
        (["/data"], "", "a dict of mount paths"),
        ({"data": EmptyDir()}, "['data']", "begins with '/'"),
        ({5: EmptyDir()}, "[5]", "begins with '/'"),
        ({"/data/../etc": EmptyDir()}, "['/data/../etc']", "'..'"),
        ({"/a:b": EmptyDir()}, "['/a:b']", "':'"),
        ({"/": EmptyDir()}, "['/']", "whole file system"),
        ({"/tmp": EmptyDir()}, "['/tmp']", "of its own at /tmp"),
        ({"/tmp/cache": EmptyDir()}, "['/tmp/cache']", "of its own at /tmp"),
        ({"/kubefunc/in": EmptyDir()}, "['/kubefunc/in']", "of its own at /kubefunc"),
        ({"/proc/x": EmptyDir()}, "['/proc/x']", "needs its own files"),
        ({"/usr": EmptyDir()}, "['/usr']", "needs its own files"),
        ({"/data": EmptyDir(), "/data/": EmptyDir()}, "['/data/']", "twice"),
        ({"/data": EmptyDir(), "/data/x": EmptyDir()}, "['/data/x']", "inside '/data'"),
        ({"/data": "corpus"}, "['/data']", "PersistentVolumeClaim('corpus')"),
        ({"/data": "/mnt"}, "['/data']", "HostPath('/mnt')"),
        ({"/data": EmptyDir}, "['/data']", "EmptyDir(...)"),
        ({"/data": {"emptyDir": {}}}, "['/data']", "one of kubefunc.volumes"),
    ],
)
def test_a_wrong_path_or_volume_is_refused(value: object, at: str, words: str) -> None:
    """Relative paths, kubefunc's own, doubled ones, and one inside another's volume."""
    with pytest.raises(Refused) as caught:
        volumes.parse(value)
    assert (caught.value.at, words in caught.value.why) == (at, True), caught.value.why


def test_paths_beside_each_other_are_fine() -> None:
    """Also below a system's directory, as the shared memory that PyTorch wants."""
    shared = {"/dev/shm": EmptyDir("1Gi", memory=True), "/data": EmptyDir(), "/data2": EmptyDir()}
    assert volumes.parse(shared) == shared


def options(*layers: dict[str, Any] | None) -> Any:
    """What remains of these values of the option, the weakest first."""
    return Options.from_layers(*(parse_changes("@remote", volumes=value) for value in layers)).volumes


def test_layers_merge_by_mount_path() -> None:
    """A path that is written otherwise is the same path; None removes one volume, or all."""
    data, other, scratch = PersistentVolumeClaim("corpus"), PersistentVolumeClaim("other"), EmptyDir()
    below: dict[str, Any] = {"/data": data, "/scratch": scratch}
    assert options(below, {"/data/": other}) == {"/data": other, "/scratch": scratch}
    assert options(below, {"/data": None}) == {"/scratch": scratch}
    assert options(below, None) == {}
    assert options(below, None, {"/data": other}) == {"/data": other}
    assert options({"/data": None}) == {}


def test_layers_that_do_not_go_together_are_refused() -> None:
    """Each is fine, and one would hide a part of the other."""
    with pytest.raises(errors.ConfigurationError, match="it is inside '/data'"):
        options({"/data": EmptyDir()}, {"/data/x": EmptyDir()})


def test_the_error_names_option_value_and_fix() -> None:
    """As for every option."""
    with pytest.raises(errors.ConfigurationError) as caught:
        parse_changes("@remote", volumes={"data": EmptyDir()})
    assert str(caught.value).startswith("@remote: volumes['data'] is not accepted: a mount path is absolute")


def test_the_environment_cannot_say_what_to_mount() -> None:
    """A text would have to name kind, object and all else."""
    from kubefunc.options import environment_layer

    with pytest.raises(errors.ConfigurationError, match="in Python only"):
        environment_layer({"KUBEFUNC_VOLUMES": "/data=corpus"})


def test_a_reference_that_belongs_to_a_job_is_for_publish() -> None:
    """A variable only reads its key."""
    with pytest.raises(errors.ConfigurationError, match="owned= is for publish="):
        parse_changes("@remote", env={"A": kubefunc.SecretKey("s", "k", owned=True)})
