"""Options: what may be written, what it becomes, what is refused, and which layer wins."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import pickle
import sys
import textwrap
from collections.abc import Mapping
from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubefunc import options as options_module
from kubefunc.errors import ConfigurationError
from kubefunc.options import (
    UNSET,
    ConfigMapKey,
    Layer,
    OptionChanges,
    Options,
    SecretKey,
    environment_layer,
    origins,
    parse_changes,
)
from kubefunc.options.option import Group
from kubefunc.options.parsers.quantities import quantity

FIELDS = [entry.name for entry in dataclasses.fields(Options)]


def parsed(name: str, value: object) -> object:
    """What an option's value becomes."""
    return parse_changes("@remote", **{name: value})[name]


def refusal(name: str, value: object) -> str:
    """The message with which an option's value is refused."""
    with pytest.raises(ConfigurationError) as caught:
        parse_changes("@remote", **{name: value})
    return str(caught.value)


# --- one list of options


def test_the_typed_keywords_are_the_options() -> None:
    """What @remote, .options and configure are typed to take is exactly what Options has."""
    assert sorted(OptionChanges.__annotations__) == sorted(FIELDS)
    assert OptionChanges.__required_keys__ == frozenset()


def test_every_typed_keyword_takes_none_exactly_where_none_is_accepted() -> None:
    """The type of a keyword has None in it if and only if None is accepted."""
    for name, annotation in OptionChanges.__annotations__.items():
        if "None" in annotation.__forward_arg__:
            assert parsed(name, None) is None, name
        else:
            assert "None means nothing here" in refusal(name, None), name


def body_of(group: type[Group]) -> list[ast.stmt]:
    """The statements in the body of the class that has a group of options."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(group))).body[0]
    assert isinstance(definition, ast.ClassDef)
    return definition.body


def test_every_option_is_told_with_its_default_and_its_local_meaning() -> None:
    """Each field has a docstring of its own that names its default and what the local backend makes of it."""
    body = [statement for group in Group.__subclasses__() for statement in body_of(group)]
    told: dict[str, str] = {}
    for statement, following in itertools.pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(following, ast.Expr), statement.target.id
            assert isinstance(following.value, ast.Constant), statement.target.id
            told[statement.target.id] = str(following.value.value)
    assert sorted(told) == sorted(FIELDS)
    for name, text in told.items():
        assert "Default:" in text, name
        assert "Local:" in text, name


def test_the_defaults() -> None:
    """What applies when nobody says anything."""
    assert dataclasses.asdict(Options()) == {
        "image": None,
        "cpu": None,
        "memory": None,
        "cpu_limit": None,
        "gpu": None,
        "timeout": None,
        "retries": 0,
        "retry_exceptions": (Exception,),
        "deadline": 7 * 24 * 3600.0,
        "schedule_timeout": None,
        "pull_allowance": 900.0,
        "max_disruptions": 5,
        "pool": None,
        "env": {},
        "service_account": None,
        "run_as_user": None,
        "ports": {},
        "service": None,
        "gang": None,
        "volumes": {},
        "packages": None,
        "package_index": None,
        "package_cache": None,
        "sync_limit": "1Gi",
        "context": None,
        "namespace": None,
        "labels": {},
        "annotations": {},
        "node_selector": {},
        "tolerations": (),
        "priority_class": None,
        "image_pull_secrets": (),
        "image_pull_policy": None,
        "pod_template": None,
        "owner": None,
        "mesh": False,
        "evictable": False,
        "untrusted": False,
        "runtime_class": None,
        "queue": None,
        "affinity": {},
        "topology_spread": (),
        "init_containers": (),
        "sidecars": (),
        "host_aliases": {},
        "security_context": {},
        "backoff_limit": None,
        "job_template": None,
        "detach": False,
        "on_sigterm": "leave",
        "verbose": True,
        "logging": True,
        "progress": True,
        "express": True,
        "inline": True,
        "results_in_log": True,
        "fetch_grace": 60.0,
        "result_ttl": None,
        "ttl": 24 * 3600.0,
        "keep": "failed",
        "publish": None,
        "stream_ahead": 100,
    }


def test_the_default_image_is_the_callers_own_python() -> None:
    """Pickled code crosses no minor version, so the image follows the interpreter."""
    major, minor = sys.version_info[:2]
    assert Options().resolved_image == f"python:{major}.{minor}-slim"
    assert Options(image="example.org/mine:1").resolved_image == "example.org/mine:1"


# --- what may be written


@pytest.mark.parametrize(
    ("name", "written", "becomes"),
    [
        ("image", "python:3.12-slim", "python:3.12-slim"),
        (
            "image",
            "registry.example:5000/team/image@sha256:0123",
            "registry.example:5000/team/image@sha256:0123",
        ),
        ("cpu", 0.5, "500m"),
        ("cpu", 2, "2"),
        ("cpu", 2.0, "2"),
        ("cpu", 1 / 3, "334m"),
        ("cpu", 0.1 + 0.2, "300m"),
        ("cpu", Fraction(1, 4), "250m"),
        ("cpu", "500m", "500m"),
        ("cpu", "1.5", "1.5"),
        ("memory", "4Gi", "4Gi"),
        ("memory", "1.5Gi", "1.5Gi"),
        ("memory", "512M", "512M"),
        ("memory", "2e9", "2e9"),
        ("memory", 2**30, "1073741824"),
        ("memory", ("1Gi", "8Gi"), ("1Gi", "8Gi")),
        ("memory", [2**30, "8Gi"], ("1073741824", "8Gi")),
        ("memory", ("1Gi", "1024Mi"), ("1Gi", "1024Mi")),
        ("gpu", 1, {"nvidia.com/gpu": 1}),
        ("gpu", {"amd.com/gpu": 2}, {"amd.com/gpu": 2}),
        ("gpu", {"nvidia.com/mig-1g.5gb": 1}, {"nvidia.com/mig-1g.5gb": 1}),
        ("gpu", 0, None),
        ("timeout", 600, 600.0),
        ("timeout", timedelta(minutes=10), 600.0),
        ("timeout", 0.25, 0.25),
        ("retries", 3, 3),
        ("retry_exceptions", OSError, (OSError,)),
        ("retry_exceptions", [OSError, ValueError], (OSError, ValueError)),
        ("retry_exceptions", (), ()),
        ("env", {"A": "1", "B": SecretKey("db", "password")}, {"A": "1", "B": SecretKey("db", "password")}),
        ("env", {"C": ConfigMapKey("site", "url")}, {"C": ConfigMapKey("site", "url")}),
        ("env", {"KUBEFUNC_IMAGE": "a:1", "KUBEFUNC_BACKEND": "local"}, None),
        ("env", {"HOME": "/data", "_x.y-z": ""}, None),
        ("namespace", "team-a", "team-a"),
        ("context", "arn:aws:eks:eu-west-1:1:cluster/x", "arn:aws:eks:eu-west-1:1:cluster/x"),
        ("labels", {"team": "a", "example.org/cost-center": "", "kueue.x-k8s.io/queue-name": "q"}, None),
        ("annotations", {"example.org/note": "any text: ü\n"}, None),
        ("node_selector", {"kubernetes.io/arch": "arm64"}, None),
        ("tolerations", [{"key": "spot", "operator": "Exists"}], ({"key": "spot", "operator": "Exists"},)),
        ("tolerations", ["gone:NoExecute"], ({"key": "gone", "operator": "Exists", "effect": "NoExecute"},)),
        ("service_account", "builder", "builder"),
        ("image_pull_secrets", ["registry-key"], ("registry-key",)),
        ("image_pull_policy", "Always", "Always"),
        ("run_as_user", 1000, 1000),
        ("priority_class", "high", "high"),
        ("pod_template", {"hostUsers": False}, {"spec": {"hostUsers": False}}),
        ("pod_template", {"spec": {"inventedNextYear": 1}}, {"spec": {"inventedNextYear": 1}}),
        ("pod_template", {"metadata": {"labels": {"a": "b"}}}, {"metadata": {"labels": {"a": "b"}}}),
        ("detach", True, True),
        ("fetch_grace", 0, 0.0),
        ("ttl", timedelta(hours=1), 3600.0),
        ("schedule_timeout", 30, 30.0),
        ("max_disruptions", 0, 0),
    ],
)
def test_values_are_understood(name: str, written: object, becomes: object) -> None:
    """Values are understood as Kubernetes and Python users write them (None here: kept as written)."""
    expected = written if becomes is None and name != "gpu" else becomes
    assert parsed(name, written) == expected
    assert getattr(Options.from_layers(parse_changes("@remote", **{name: written})), name) == expected


def test_normalised_options_are_accepted_again() -> None:
    """dataclasses.replace works on Options, and validates what it is given."""
    options = Options.of(memory=("1Gi", "8Gi"), timeout=timedelta(seconds=5), gpu=1, tolerations=["a:NoSchedule"])
    assert dataclasses.replace(options) == options
    assert dataclasses.replace(options, memory="2Gi").memory == "2Gi"
    with pytest.raises(ConfigurationError, match=r"Options: memory='2GB' is not accepted"):
        dataclasses.replace(options, memory="2GB")


def test_memory_has_a_start_and_perhaps_a_ceiling() -> None:
    """A single value never grows; a pair grows from its first to its second."""
    assert (Options(memory="1Gi").memory_start, Options(memory="1Gi").memory_ceiling) == ("1Gi", None)
    pair = Options(memory=("1Gi", "8Gi"))
    assert (pair.memory_start, pair.memory_ceiling) == ("1Gi", "8Gi")
    assert (Options().memory_start, Options().memory_ceiling) == (None, None)


def test_what_was_passed_can_change_without_changing_the_options() -> None:
    """Options keep copies of the dicts that they were made of."""
    env, template = {"A": "1"}, {"spec": {"volumes": [{"name": "v"}]}}
    options = Options(env=env, pod_template=template)
    env["B"] = "2"
    template["spec"]["volumes"].append({"name": "w"})
    assert options.env == {"A": "1"}
    assert options.pod_template == {"spec": {"volumes": [{"name": "v"}]}}


def test_a_pod_template_may_be_a_function() -> None:
    """A function is kept as it is; it is called with the finished template, not before."""

    def template(pod: dict[str, object]) -> dict[str, object]:
        return pod

    assert parsed("pod_template", template) is template


# --- what is refused


@pytest.mark.parametrize(
    ("name", "written", "says"),
    [
        ("image", "", "not empty"),
        ("image", "https://registry/image", "without a scheme"),
        ("image", "python: 3.11", "no spaces"),
        ("image", 3.11, "write a text"),
        ("cpu", "2GHz", "'500m'"),
        ("cpu", 0, "at least 0.001"),
        ("cpu", -1, "at least 0.001"),
        ("cpu", "0", "at least '1m'"),
        ("cpu", "0.5m", "whole thousandths"),
        ("cpu", float("nan"), "finite"),
        ("cpu", float("inf"), "finite"),
        ("cpu", True, "number of CPUs"),
        ("memory", "4gb", "Kubernetes writes '4Gi' (powers of 1024) or '4G' (powers of 1000)"),
        ("memory", "4GB", "'4Gi'"),
        ("memory", "4gi", "'4Gi'"),
        ("memory", "4 Gi", "'4Gi'"),
        ("memory", "4g", "'4Gi'"),
        ("memory", "640K", "'640Ki' (powers of 1024) or '640k'"),
        ("memory", "4GiB", "'4Gi'"),
        ("memory", "512m", "thousandths of a byte here: write '512Mi'"),
        ("memory", "4096 bytes", "without a unit: '4096'"),
        ("memory", "4", "4 bytes"),
        ("memory", 4, "forget a unit"),
        ("memory", 4.5, "int of bytes"),
        ("memory", 0, "0 bytes"),
        ("memory", -(2**30), "not a Kubernetes quantity"),
        ("memory", "-4Gi", "not a Kubernetes quantity"),
        ("memory", "lots", "not a Kubernetes quantity"),
        ("memory", "", "quantity"),
        ("memory", True, "int of bytes"),
        ("memory", "9e30", "more than Kubernetes can count"),
        ("memory", ("8Gi", "1Gi"), "above the ceiling"),
        ("memory", ("1Gi",), "a pair has two values"),
        ("memory", ("1Gi", "8GB"), "memory[1]='8GB'"),
        ("gpu", 1.5, "whole numbers"),
        ("gpu", -1, "at least 1"),
        ("gpu", True, "whole numbers"),
        ("gpu", {"nvidia": 1}, "'nvidia.com/gpu'"),
        ("gpu", {"amd.com/gpu": 0}, "gpu['amd.com/gpu']=0"),
        ("gpu", "nvidia.com/gpu", "whole numbers"),
        ("timeout", 0, "more than 0"),
        ("timeout", -5, "negative"),
        ("timeout", timedelta(seconds=-5), "negative"),
        ("timeout", "10m", "not text"),
        ("timeout", float("nan"), "negative"),
        ("timeout", float("inf"), "at most 2147483647 seconds"),
        ("timeout", True, "number of seconds"),
        ("retries", -1, "between 0 and 100"),
        ("retries", 101, "between 0 and 100"),
        ("retries", 2.0, "whole number"),
        ("retries", True, "whole number"),
        ("retry_exceptions", "OSError", "(OSError, ValueError)"),
        ("retry_exceptions", OSError(), "(OSError, ValueError)"),
        ("retry_exceptions", [OSError()], "the class OSError, not an instance"),
        ("retry_exceptions", [OSError, int], "retry_exceptions[1]"),
        ("env", ["A=1"], "a dict"),
        ("env", {"PORT": 8080}, "env['PORT']=8080 is not accepted: it must be text: write '8080'"),
        ("env", {"DEBUG": True}, "write 'True'"),
        ("env", {"A": None}, "it must be text, not NoneType"),
        ("env", {1: "x"}, "write '1'"),
        ("env", {"1A": "x"}, "does not begin with a digit"),
        ("env", {"A B": "x"}, "env['A B']"),
        ("env", {"": "x"}, "env['']"),
        ("env", {"KUBEFUNC_CALL": "x"}, "reserved for kubefunc"),
        ("env", {"A": "x\0y"}, "zero byte"),
        ("env", {"A": "x" * 131072}, "128 KiB"),
        ("namespace", "Team_A", "lower-case"),
        ("namespace", "a" * 64, "at most 63"),
        ("labels", {"team": 7}, "labels['team']=7 is not accepted: it must be text: write '7'"),
        ("labels", {"team": "a b"}, "at most 63"),
        ("labels", {"a b": "c"}, "labels['a b']"),
        ("labels", {"kubefunc/call": "x"}, "kubefunc or Kubernetes sets this label"),
        ("labels", {"batch.kubernetes.io/job-name": "x"}, "kubefunc or Kubernetes sets this label"),
        ("annotations", {"kubefunc/function": "x"}, "kubefunc sets this annotation"),
        ("annotations", {"note": "x" * 300_000}, "256 KiB"),
        ("annotations", {"Example.org/note": "x"}, "annotations['Example.org/note']"),
        ("node_selector", "gpu=true", "write a dict"),
        ("tolerations", "a:NoSchedule", "into a list: ['a:NoSchedule']"),
        ("tolerations", {"key": "a"}, "into a list"),
        ("tolerations", ["a=b"], "'key=value:NoSchedule'"),
        ("tolerations", [3], "tolerations[0]=3"),
        ("tolerations", [{"key": "a", "efect": "NoSchedule"}], "tolerations[0]['efect']"),
        ("tolerations", [{"key": "a", "operator": "In"}], "'Equal' or 'Exists'"),
        ("tolerations", [{"key": "a", "operator": "Exists", "value": "b"}], "has no value"),
        ("tolerations", [{"value": "a"}], "needs the operator 'Exists'"),
        ("tolerations", [{"key": "a", "effect": "Never"}], "NoExecute"),
        ("tolerations", [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 3}], "'NoExecute'"),
        ("tolerations", [{"key": "a", "effect": "NoExecute", "tolerationSeconds": "3"}], "whole number"),
        ("service_account", "Builder", "lower-case"),
        ("image_pull_secrets", "key", "into a list: ['key']"),
        ("image_pull_secrets", ["a", "B"], "image_pull_secrets[1]='B'"),
        ("image_pull_policy", "ifnotpresent", "did you mean 'IfNotPresent'?"),
        ("image_pull_policy", "Sometimes", "'Always', 'IfNotPresent', 'Never'"),
        ("run_as_user", -1, "between 0"),
        ("run_as_user", "nobody", "whole number"),
        ("pod_template", {"runtimeclassname": "gvisor"}, "pod_template['runtimeclassname']"),
        ("pod_template", {"spec": {}, "kind": "Pod"}, "pod_template['kind']"),
        ("pod_template", {"spec": []}, "must be a dict"),
        ("pod_template", {"volumes": [{"name": {1, 2}}]}, "pod_template['volumes'][0]['name']={1, 2}"),
        ("pod_template", {"volumes": {1: 2}}, "a name must be text"),
        ("pod_template", "pod.yaml", "a dict or a function"),
        ("verbose", 1, "True or False"),
        ("detach", "yes", "True or False"),
        ("ttl", -1, "negative"),
        ("deadline", 0, "more than 0"),
        ("deadline", None, "None means nothing here"),
        ("max_disruptions", 1001, "between 0 and 1000"),
    ],
)
def test_a_bad_value_is_refused_at_once(name: str, written: object, says: str) -> None:
    """A bad value is refused where it is written; the message names option, reason and what is accepted."""
    message = refusal(name, written)
    assert message.startswith(f"@remote: {name}")
    assert says in message
    assert " Accepted: " in message


def test_a_refusal_shows_value_and_fix() -> None:
    """The whole of one message, as a person reads it."""
    assert refusal("memory", "4gb") == (
        "@remote: memory='4gb' is not accepted: "
        "Kubernetes writes '4Gi' (powers of 1024) or '4G' (powers of 1000). "
        "Accepted: a Kubernetes quantity such as '4Gi' or '512Mi', an int of bytes, "
        "a pair (start, ceiling) of these, or None for no limit."
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("memmory", "memory"),
        ("cpus", "cpu"),
        ("mem", "memory"),
        ("max_retries", "retries"),
        ("Image", "image"),
    ],
)
def test_a_misspelt_option_is_told_the_closest_one(written: str, meant: str) -> None:
    """The message names what was written and the option that was probably meant."""
    with pytest.raises(ConfigurationError) as caught:
        parse_changes(".options()", **{written: 1})
    assert str(caught.value).startswith(f".options(): there is no option {written!r} (=1).")
    assert f"Did you mean {meant!r}?" in str(caught.value)


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("num_cpus", "Did you mean 'cpu'?"),
        ("gpus", "Did you mean 'gpu'?"),
        ("container_image", "Did you mean 'image'?"),
        ("imagePullSecrets", "Did you mean 'image_pull_secrets'?"),
        ("nodeSelector", "Did you mean 'node_selector'?"),
        ("env_vars", "Did you mean 'env'?"),
        ("evn", "Did you mean 'env'?"),
        ("service_account_name", "Did you mean 'service_account'?"),
        ("time_limit", "Did you mean 'timeout'?"),
        ("max_preemptions", "Did you mean 'max_disruptions'?"),
        ("mounts", "Did you mean 'volumes'?"),
        ("requirements", "Did you mean 'packages'?"),
        ("sidecar", "Did you mean 'sidecars'?"),
        ("queue_name", "Did you mean 'queue'?"),
        ("sandboxed", "Did you mean 'untrusted'?"),
        ("secrets", "env={'NAME': SecretKey("),
        ("volume_mounts", "Did you mean 'volumes'?"),
        ("shm_size", "volumes={'/dev/shm': EmptyDir("),
        ("name", "labels="),
        ("pip", "Did you mean 'packages'?"),
        ("conda", "image="),
        ("n_jobs", "max_parallelism=10"),
        ("max_workers", "kubefunc.Executor(max_workers=10)"),
        ("init_container", "Did you mean 'init_containers'?"),
        ("dns_policy", "pod_template"),
        ("suspend", "job_template"),
        ("backend", "kubefunc.configure(backend='local')"),
        ("printing", "The options are: image, cpu"),
        ("expressions", "The options are: image, cpu"),
        ("meshes_of_all_kinds", "The options are: image, cpu"),
    ],
)
def test_other_tools_names_are_understood(written: str, advice: str) -> None:
    """Each leads to what does it here; a name that is like none leads to the list, never to nonsense."""
    with pytest.raises(ConfigurationError) as caught:
        parse_changes("@remote", **{written: 1})
    assert advice in str(caught.value)


def test_every_suggestion_is_an_option() -> None:
    """No table of words outlives the option that it leads to."""
    from kubefunc.options.suggestions import _ELSEWHERE, _SYNONYMS

    known = {entry.name for entry in dataclasses.fields(Options)}
    assert _SYNONYMS.keys() <= known
    words = [word for names in (*_SYNONYMS.values(), *_ELSEWHERE) for word in names.split()]
    assert len(words) == len(set(words))
    assert not known & set(words)


def test_a_secret_under_a_wrong_name_is_not_shown() -> None:
    """An error often ends in a log."""
    for changes in ({"env_vars": {"TOKEN": "hunter2"}}, {"password": "hunter2"}, {"env": "TOKEN=hunter2"}):
        with pytest.raises(ConfigurationError) as caught:
            parse_changes("@remote", **changes)
        assert "hunter2" not in str(caught.value)


def test_an_option_like_no_other_is_told_all() -> None:
    """Where no option is close, the message lists them all."""
    with pytest.raises(ConfigurationError, match=r"The options are: image, cpu, memory"):
        parse_changes("@remote", xyz=1)


def test_a_misspelt_option_is_refused_even_when_unset() -> None:
    """UNSET hides no slip in a name."""
    with pytest.raises(ConfigurationError, match="no option 'memmory'"):
        parse_changes("@remote", memmory=UNSET)


def test_values_of_env_are_not_shown() -> None:
    """What stands in env may be a secret: neither a refusal nor a Layer's repr shows it."""
    secret = "hunter2"
    assert secret not in refusal("env", {"TOKEN": secret.encode()})
    assert secret not in refusal("env", {"TOKEN": secret, "PORT": 1})
    assert secret not in refusal("env", {"TOKEN": f"{secret}\0"})
    assert secret not in repr(parse_changes("@remote", env={"TOKEN": secret}))


def test_a_reference_is_checked_where_it_is_made() -> None:
    """SecretKey and ConfigMapKey refuse names that no object can have."""
    with pytest.raises(ConfigurationError, match=r"SecretKey: name='Data Base' is not accepted"):
        SecretKey("Data Base", "password")
    with pytest.raises(ConfigurationError, match=r"ConfigMapKey: key='a/b' is not accepted"):
        ConfigMapKey("site", "a/b")


def test_a_timeout_beyond_the_deadline_is_refused() -> None:
    """The Job's deadline would end the attempt first, so one of them must be wrong."""
    with pytest.raises(ConfigurationError, match=r"timeout=864000 s is longer than deadline=604800 s.*raise deadline"):
        Options.of(timeout=timedelta(days=10))
    assert Options.of(timeout=timedelta(days=10), deadline=timedelta(days=11)).timeout == 864000.0


@given(st.integers(1, 10**15), st.sampled_from(["", "k", "M", "G", "Ki", "Mi", "Gi"]))
def test_quantities_are_exact(number: int, unit: str) -> None:
    """A quantity is its number times its unit, without rounding."""
    scale = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]
    assert quantity(f"{number}{unit}") == number * scale * 10**9


@pytest.mark.parametrize("name", ["cpu", "memory", "image", "namespace"])
@given(text=st.text(max_size=12))
def test_no_text_at_all_breaks_the_parsers(name: str, text: str) -> None:
    """Whatever text is written is either kept as it is or refused in words."""
    try:
        kept = parsed(name, text)
    except ConfigurationError as error:
        kept = text if "Accepted: " in str(error) else str(error)
    assert kept == text


@pytest.mark.parametrize(
    ("one", "same"),
    [("1", "1000m"), ("0.5", "500m"), (".5", "500m"), ("1Gi", "1024Mi"), ("1e3", "1k"), ("+2", "2")],
)
def test_quantities_compare_by_what_they_mean(one: str, same: str) -> None:
    """Two ways to write the same amount are equal."""
    assert quantity(one) == quantity(same)


# --- layers


def test_the_stronger_layer_replaces() -> None:
    """Layers are given weakest first; the last to set an option has it."""
    weak = parse_changes("configure()", cpu=1, retries=1)
    strong = parse_changes("@remote", cpu=2)
    options = Options.from_layers(weak, strong)
    assert (options.cpu, options.retries) == ("2", 1)


@pytest.mark.parametrize("name", ["env", "labels", "annotations", "node_selector"])
def test_mappings_merge_by_key(name: str) -> None:
    """env, labels, annotations and node_selector merge key by key, the stronger layer's value first."""
    weak = parse_changes("configure()", **{name: {"a": "1", "b": "1"}})
    strong = parse_changes("@remote", **{name: {"b": "2", "c": "2"}})
    assert getattr(Options.from_layers(weak, strong), name) == {"a": "1", "b": "2", "c": "2"}


def test_other_values_replace_even_where_they_are_collections() -> None:
    """tolerations, image_pull_secrets and gpu replace: four options merge, and they are named."""
    weak = parse_changes("configure()", gpu=1, tolerations=["a:NoSchedule"], image_pull_secrets=["a"])
    strong = parse_changes("@remote", gpu={"amd.com/gpu": 1}, tolerations=["b:NoSchedule"], image_pull_secrets=["b"])
    options = Options.from_layers(weak, strong)
    assert options.gpu == {"amd.com/gpu": 1}
    assert [item["key"] for item in options.tolerations] == ["b"]
    assert options.image_pull_secrets == ("b",)


def test_none_wipes_and_unset_inherits() -> None:
    """None is a value, "explicitly none"; UNSET is the absence of one."""
    weak = parse_changes("configure()", cpu=1, memory="1Gi", env={"A": "1"}, tolerations=["a:NoSchedule"])
    strong = parse_changes("@remote", cpu=None, memory=UNSET, env=None, tolerations=None)
    options = Options.from_layers(weak, strong)
    assert (options.cpu, options.memory, options.env, options.tolerations) == (None, "1Gi", {}, ())
    stronger = parse_changes(".options()", env={"B": "2"})
    assert Options.from_layers(weak, strong, stronger).env == {"B": "2"}


def test_a_layer_is_a_mapping_that_pickles() -> None:
    """A function defined in __main__ travels with the layers that it was decorated with."""
    layer = parse_changes("@remote", cpu=1, env={"A": SecretKey("db", "password")}, image=UNSET)
    assert isinstance(layer, Mapping)
    copy = pickle.loads(pickle.dumps(layer))
    assert dict(copy) == {"cpu": "1", "env": {"A": SecretKey("db", "password")}}
    assert copy.source("cpu") == "@remote"
    options = Options.from_layers(layer)
    assert pickle.loads(pickle.dumps(options)) == options
    assert pickle.loads(pickle.dumps(UNSET)) is UNSET


# --- the environment


@pytest.mark.parametrize(
    ("variable", "text", "name", "becomes"),
    [
        ("KUBEFUNC_IMAGE", "python:3.12-slim", "image", "python:3.12-slim"),
        ("KUBEFUNC_CPU", "0.5", "cpu", "0.5"),
        ("KUBEFUNC_CPU", "none", "cpu", None),
        ("KUBEFUNC_MEMORY", "4Gi", "memory", "4Gi"),
        ("KUBEFUNC_MEMORY", "1Gi, 8Gi", "memory", ("1Gi", "8Gi")),
        ("KUBEFUNC_GPU", "2", "gpu", {"nvidia.com/gpu": 2}),
        ("KUBEFUNC_GPU", "amd.com/gpu=1", "gpu", {"amd.com/gpu": 1}),
        ("KUBEFUNC_TIMEOUT", "600", "timeout", 600.0),
        ("KUBEFUNC_RETRIES", "3", "retries", 3),
        ("KUBEFUNC_VERBOSE", "0", "verbose", False),
        ("KUBEFUNC_PROGRESS", "0", "progress", False),
        ("KUBEFUNC_VERBOSE", "Yes", "verbose", True),
        ("KUBEFUNC_DETACH", "on", "detach", True),
        ("KUBEFUNC_ENV", "A=1,B=x=y", "env", {"A": "1", "B": "x=y"}),
        ("KUBEFUNC_ENV", '{"A": "1,2"}', "env", {"A": "1,2"}),
        ("KUBEFUNC_LABELS", "team=a, cost=b", "labels", {"team": "a", "cost": "b"}),
        ("KUBEFUNC_LABELS", "none", "labels", None),
        ("KUBEFUNC_NAMESPACE", "team-a", "namespace", "team-a"),
        ("KUBEFUNC_IMAGE_PULL_SECRETS", "a,b", "image_pull_secrets", ("a", "b")),
        ("KUBEFUNC_RUN_AS_USER", "1000", "run_as_user", 1000),
        (
            "KUBEFUNC_TOLERATIONS",
            "a=b:NoSchedule,c:NoExecute",
            "tolerations",
            (
                {"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"},
                {"key": "c", "operator": "Exists", "effect": "NoExecute"},
            ),
        ),
        ("KUBEFUNC_TOLERATIONS", '[{"operator": "Exists"}]', "tolerations", ({"operator": "Exists"},)),
        (
            "KUBEFUNC_POD_TEMPLATE",
            '{"runtimeClassName": "x"}',
            "pod_template",
            {"spec": {"runtimeClassName": "x"}},
        ),
    ],
)
def test_variables_set_options(variable: str, text: str, name: str, becomes: object) -> None:
    """Each option has a variable; its text is read by the option's own kind."""
    layer = environment_layer({variable: text, "PATH": "/bin"})
    assert dict(layer) == {name: becomes}
    assert layer.source(name) == variable


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("KUBEFUNC_CPU", "much", "KUBEFUNC_CPU='much' is not accepted"),
        ("KUBEFUNC_MEMORY", "4GB", "KUBEFUNC_MEMORY='4GB' is not accepted: Kubernetes writes '4Gi'"),
        ("KUBEFUNC_RETRIES", "x", "write a whole number"),
        ("KUBEFUNC_RETRIES", "none", "write a whole number"),
        ("KUBEFUNC_TIMEOUT", "10m", "write a number of seconds"),
        ("KUBEFUNC_VERBOSE", "maybe", "write 1 or 0"),
        ("KUBEFUNC_ENV", "A", "name=value,name=value"),
        ("KUBEFUNC_ENV", "[]", "name=value,name=value"),
        ("KUBEFUNC_ENV", '{"A": 1}', "KUBEFUNC_ENV['A']=1"),
        ("KUBEFUNC_POD_TEMPLATE", "{", "it is not valid JSON"),
        ("KUBEFUNC_RETRY_EXCEPTIONS", "OSError", "in Python only"),
        ("KUBEFUNC_IMGAE", "x", "Did you mean KUBEFUNC_IMAGE?"),
        ("KUBEFUNC_MAX_DISRUPTION", "1", "Did you mean KUBEFUNC_MAX_DISRUPTIONS?"),
    ],
)
def test_a_bad_variable_is_named(variable: str, text: str, says: str) -> None:
    """A bad value, or a name that is nearly an option's, is refused by the variable's name."""
    with pytest.raises(ConfigurationError) as caught:
        environment_layer({variable: text})
    assert variable in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "variable",
    [
        "KUBEFUNC_BACKEND",
        "KUBEFUNC_CALL",
        "KUBEFUNC_ATTEMPT",
        "KUBEFUNC_NESTED",
        "KUBEFUNC_TEST_KUBECONFIG",
        "KUBEFUNC_SERVICE_HOST",
        "KUBEFUNC_PORT_80_TCP_ADDR",
        "MY_CPU",
    ],
)
def test_variables_that_mean_something_else_are_left_alone(variable: str) -> None:
    """The session's, the runner's, the tests' and other programs' variables set no option."""
    assert len(environment_layer({variable: "x"})) == 0


def test_an_empty_variable_sets_nothing() -> None:
    """``KUBEFUNC_CPU= python script.py`` is how a shell takes a variable away."""
    assert len(environment_layer({"KUBEFUNC_CPU": "", "KUBEFUNC_VERBOSE": " "})) == 0


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("text", ["?", "{", "[", "1", "none", "=", ",", "a=b", "{}", "[]", "null", "1e999"])
def test_no_variable_breaks_a_program_but_by_its_name(name: str, text: str) -> None:
    """Whatever a variable holds, it sets a valid option or is refused by its name; nothing else happens."""
    variable = f"KUBEFUNC_{name.upper()}"
    try:
        told = repr(Options.from_layers(environment_layer({variable: text})))
    except ConfigurationError as error:
        told = f"Options: {error}" if variable in str(error) else ""
    assert told.startswith("Options")


# --- where a value comes from


def test_origins_name_the_layer_of_each_option() -> None:
    """``kubefunc config`` shows for each option where it was set; both places where two were merged."""
    layers = (
        parse_changes("configure()", cpu=1, env={"A": "1"}, labels={"a": "1"}),
        environment_layer({"KUBEFUNC_CPU": "2", "KUBEFUNC_IMAGE": "a:1"}),
        parse_changes("@remote", memory="1Gi", env={"B": "2"}, labels=None),
    )
    found = origins(*layers)
    assert sorted(found) == sorted(FIELDS)
    assert found["cpu"] == "KUBEFUNC_CPU"
    assert found["image"] == "KUBEFUNC_IMAGE"
    assert found["memory"] == "@remote"
    assert found["env"] == "configure() + @remote"
    assert found["labels"] == "@remote"
    assert found["gpu"] == "built-in"


def test_layers_do_not_share_what_they_merge() -> None:
    """Resolving options leaves the layers as they were: they serve the next call too."""
    weak, strong = parse_changes("configure()", env={"A": "1"}), parse_changes("@remote", env={"B": "2"})
    Options.from_layers(weak, strong)
    assert (weak["env"], strong["env"]) == ({"A": "1"}, {"B": "2"})


def test_typing_extensions_is_not_needed_to_run() -> None:
    """Unpack is for type checkers: nothing but the standard library is imported for options."""
    assert "typing_extensions" not in vars(options_module)
    assert isinstance(parse_changes("@remote"), Layer)


def test_how_long_a_large_result_keeps_its_pod() -> None:
    """Ten minutes; a detached one as long as its Job would stay; or as long as is said."""
    assert Options.of().result_wait == 600
    assert Options.of(detach=True, ttl=7200).result_wait == 7200
    assert Options.of(detach=True, result_ttl=5).result_wait == 5
