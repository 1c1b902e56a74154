"""``publish=``: what becomes of a result that is to be written into a ConfigMap or Secret."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from kubefunc import ConfigMapKey, Executor, SecretKey, errors, remote, testing
from kubefunc.backends.inline import EndedWork
from kubefunc.backends.kubernetes.objects import published
from kubefunc.handles.publishing import content_of
from kubefunc.options import Options, environment_layer

HERE = "publish=..."
TO_MAP = ConfigMapKey("scores", "result")
TO_SECRET = SecretKey("scores", "result")


@remote
def give(value: Any) -> Any:
    """The value."""
    return value


# --- what is written


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", "text"),
        (b"\x00\xff", b"\x00\xff"),
        (0.5, "0.5"),
        (None, "null"),
        ({"loss": [1, 2.5, "ü"]}, '{"loss": [1, 2.5, "ü"]}'),
        ((1, 2), "[1, 2]"),
    ],
)
def test_texts_and_bytes_are_written_as_they_are_and_all_else_as_json(value: object, content: object) -> None:
    """A text has no quotes around it: another program reads the file as it is."""
    assert content_of(value, HERE) == content


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "the function returned object, which is not a text, bytes, or what JSON can hold"),
        ({"when": {1, 2}}, "returned dict"),
        (float("nan"), "Out of range float values are not JSON compliant"),
        ("x" * (2**20 + 1), "has 1,048,577 bytes, and Kubernetes keeps at most 1 MiB"),
        ("ü" * 2**19 + "x", "has 1,048,577 bytes"),
        ("\ud800", "cannot be written as UTF-8"),
    ],
)
def test_what_cannot_be_written_is_told_before_it_is_sent(value: object, words: str) -> None:
    """The error says why and what to do, and has the value."""
    with pytest.raises(errors.PublishError) as caught:
        content_of(value, HERE)
    assert words in str(caught.value)
    assert caught.value.value is value


def test_a_result_of_just_the_limit_is_written() -> None:
    """1 MiB is what the API server takes for all keys of an object."""
    assert len(content_of(b"x" * 2**20, HERE)) == 2**20


# --- into which object


def test_a_text_goes_into_data_and_bytes_into_binary_data() -> None:
    """A key is in one of the two: the patch takes it out of the other. Other keys are not mentioned."""
    text, data = (published.patch(TO_MAP, content, "f-x") for content in ("text", b"\xff"))
    assert (text["data"], text["binaryData"]) == ({"result": "text"}, {"result": None})
    assert (data["binaryData"], data["data"]) == ({"result": "/w=="}, {"result": None})


def test_a_secret_has_base64_in_any_case() -> None:
    """The API knows no other field that can be patched."""
    made = published.new(TO_SECRET, "text", "f-x", None)
    assert made["data"] == {"result": base64.b64encode(b"text").decode()}
    assert made["type"] == "Opaque"


def test_a_published_object_has_no_label_of_kubefunc() -> None:
    """What has one is deleted with its call; this one stays, unless it is owned by the Job."""
    owner = {"kind": "Job", "name": "f-x", "uid": "1"}
    kept, owned = (published.new(TO_MAP, "text", "f-x", each)["metadata"] for each in (None, owner))
    assert kept == {"name": "scores", "annotations": {"kubefunc/call": "f-x"}}
    assert owned == {**kept, "ownerReferences": [owner]}


@pytest.mark.parametrize(
    "annotation", ["", "{", "[]", '{"kind": "Pod"}', '{"kind": "Secret", "name": "../x", "key": "k"}']
)
def test_a_job_that_names_no_object_publishes_nothing(annotation: str) -> None:
    """Whoever attaches reads it from the Job, which others may have changed."""
    job = {"metadata": {"annotations": {published.PUBLISH_ANNOTATION: annotation}}}
    assert published.read_from(job) is None
    assert published.read_from({"metadata": {}}) is None


def test_the_destination_is_read_back_from_the_job() -> None:
    """With its ownership."""
    to = SecretKey("scores", "result", owned=True)
    assert published.read(published.written(to)) == to


# --- the option


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("scores", "ConfigMapKey('scores', 'result')"),
        (("scores", "result"), "ConfigMapKey(name, key) or SecretKey(name, key)"),
        (ConfigMapKey, "ConfigMapKey(name, key)"),
    ],
)
def test_the_destination_is_a_key_of_an_object(value: Any, words: str) -> None:
    """The error shows how to write it."""
    with pytest.raises(errors.ConfigurationError) as caught:
        give.options(publish=value)
    assert words in str(caught.value)


@pytest.mark.parametrize(("name", "key"), [("My_Scores", "result"), ("scores", "a/b"), ("scores", "")])
def test_names_that_kubernetes_would_refuse_are_refused_at_once(name: str, key: str) -> None:
    """Before the function has run for hours."""
    with pytest.raises(errors.ConfigurationError, match=r"ConfigMapKey: (name|key)="):
        ConfigMapKey(name, key)


def test_what_belongs_to_a_job_that_is_deleted_at_once_is_refused() -> None:
    """By default, the Job of a call that succeeded is deleted, and what it owns with it."""
    owned = ConfigMapKey("scores", "result", owned=True)
    with pytest.raises(errors.ConfigurationError, match="keep='always'"):
        Options(publish=owned)
    assert Options(publish=owned, keep="always").publish == owned
    assert Options(publish=owned, detach=True).publish == owned


def test_the_environment_cannot_say_where_to_publish() -> None:
    """It would hold for every call, and they would overwrite each other."""
    with pytest.raises(errors.ConfigurationError, match="in Python only"):
        environment_layer({"KUBEFUNC_PUBLISH": "scores"})


# --- the call


@pytest.fixture
def inline() -> Iterator[None]:
    """Calls run in this process."""
    with testing.inline():
        yield


@pytest.mark.usefixtures("inline")
def test_without_a_cluster_nothing_is_written_and_a_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Said once; the result is what it would be on a cluster."""
    function = give.options(publish=TO_MAP)
    assert [function.remote(number).result() for number in range(3)] == [0, 1, 2]
    told = "publish=ConfigMapKey(name='scores', key='result'): nothing is written"
    assert capsys.readouterr().err.count(told) == 1


@pytest.mark.usefixtures("inline")
def test_a_result_that_cannot_be_written_is_not_lost() -> None:
    """The call fails, also on this machine, and its error has what the function returned."""
    call = give.options(publish=TO_MAP).remote({1, 2})
    with pytest.raises(errors.PublishError, match="its result was not published") as caught:
        call.result()
    assert caught.value.value == {1, 2}
    assert isinstance(call.exception(), errors.PublishError)


@pytest.mark.usefixtures("inline")
def test_what_the_function_raises_is_not_published() -> None:
    """It arrives as ever."""
    with pytest.raises(TypeError):
        give.options(publish=TO_MAP).remote().result()


@pytest.mark.usefixtures("inline")
def test_what_has_many_results_is_refused_before_anything_is_sent() -> None:
    """They would overwrite each other."""
    with pytest.raises(errors.ConfigurationError, match=r"give.map\(\): publish=.* is for one call"):
        give.options(publish=TO_MAP).map([1, 2])
    with Executor(publish=TO_MAP) as executor, pytest.raises(errors.ConfigurationError, match="Executor: publish="):
        executor.submit(len, "x")


@pytest.mark.usefixtures("inline")
def test_a_call_whose_publication_is_refused_by_the_cluster_keeps_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is the cause, and its words are in the message."""
    refusal = errors.PermissionDeniedError("The user may not patch configmaps.")

    def refuse(*_: object) -> bool:
        raise refusal

    monkeypatch.setattr(EndedWork, "publish", refuse)
    error = give.options(publish=TO_MAP).remote("text").exception()
    assert isinstance(error, errors.PublishError)
    assert (error.value, error.__cause__) == ("text", refusal)
    assert "may not patch configmaps. The result is in this error's attribute value." in str(error)
