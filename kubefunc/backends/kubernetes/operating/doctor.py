"""Whether calls can run in a namespace, and what is in their way: one question after another to the API server.

A question that may not be asked is no problem of a call's: it is said, and the next one is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from kubefunc.backends.kubernetes.api.answers import is_list
from kubefunc.backends.kubernetes.api.errors import TROUBLE, ApiError, as_error
from kubefunc.backends.kubernetes.api.kubeconfig import ClusterConfig
from kubefunc.backends.kubernetes.api.permission import Action, is_allowed
from kubefunc.backends.kubernetes.api.requests import Api, JsonDict
from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.paths import SELF_REVIEWS, namespace_path
from kubefunc.backends.kubernetes.objects.views import items_of
from kubefunc.backends.kubernetes.operating import limits
from kubefunc.backends.operations import Check
from kubefunc.errors import KubefuncError
from kubefunc.options import Options
from kubefunc.role import RULES, Rule

OLDEST = (1, 30)
DEADLINE = 12.0  # seconds for one question: a person waits
ANONYMOUS = "system:anonymous"


class Doctor:
    """Asks about one namespace."""

    def __init__(self, api: Api, config: ClusterConfig, namespace: str) -> None:
        self._api = api
        self._config = config
        self._namespace = namespace

    def checks(self, options: Options) -> Iterator[Check]:
        """Each answer as it comes. Ends at a server that does not answer, or does not accept the credentials."""
        for question in (self._server, self._login):
            check = _asked(question)
            yield check
            if check.status == "problem":
                return
        missing = [lacking for rule in RULES if (lacking := self._lacking(rule)) is not None]
        yield from _permission_checks(self._namespace, missing)
        if any(rule.resource == "jobs" and "create" in rule.verbs for rule in missing):
            return  # what else may be wrong with a namespace in which one may not even begin does not help
        yield from self._namespace_checks(options)

    def _server(self) -> Check:
        answer = self._api.request("GET", "/version", deadline=DEADLINE).body
        told = f"{self._config.host} (context {self._config.context}) runs Kubernetes {answer.get('gitVersion', '')}."
        if version_of(answer) < OLDEST:
            return Check("server", "problem", f"{told} kubefunc needs 1.30.", "Use a newer cluster.")
        return Check("server", "ok", told)

    def _login(self) -> Check:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        body = self._api.request("POST", SELF_REVIEWS, body=review, deadline=DEADLINE).body
        user = fields.text(fields.mapping(fields.mapping(body, "status"), "userInfo"), "username")
        return Check("login", "ok", f"You are {user}.")

    # -- permissions

    def _lacking(self, rule: Rule) -> Rule | None:
        verbs = [verb for verb in rule.verbs if not self._may(Action(verb, rule.resource, rule.group))]
        comment = (f"Optional. Without it: {rule.without}",) if rule.without else ()
        return Rule(rule.group, rule.resource, tuple(verbs), comment, rule.without) if verbs else None

    def _may(self, action: Action) -> bool:
        return is_allowed(self._api, self._namespace, action)

    # -- the namespace

    def _namespace_checks(self, options: Options) -> Iterator[Check]:
        place = namespace_path(self._namespace)
        yield from self._read("security", place, lambda body: [limits.check_security(body, options.run_as_user)])
        yield from self._read("quota", f"{place}/resourcequotas", lambda body: limits.check_quotas(_items(body)))
        yield from self._read("limits", f"{place}/limitranges", lambda body: limits.check_ranges(_items(body)))

    def _read(self, name: str, path: str, judge: Callable[[JsonDict], Sequence[Check]]) -> Iterator[Check]:
        try:
            yield from judge(self._api.request("GET", path, deadline=DEADLINE).body)
        except ApiError as error:
            if error.not_found and name == "security":
                yield Check("namespace", "problem", f"The namespace {self._namespace!r} does not exist.", _CREATE)
                return
            yield Check(name, "unknown", f"You may not read {_WHAT[name]} of the namespace: a call will show.")
        except (*TROUBLE, fields.BadObject) as error:
            yield Check(name, "unknown", f"The cluster did not tell {_WHAT[name]} of the namespace ({error}).")


def _permission_checks(namespace: str, missing: Sequence[Rule]) -> Iterator[Check]:
    """One answer for all that every call needs, and one for each rule that calls can do without."""
    needed = [rule for rule in missing if not rule.without]
    if needed:
        told = "; ".join(f"{rule.resource}: {', '.join(rule.verbs)}" for rule in needed)
        message = f"You lack permissions in the namespace {namespace} that every call needs: {told}."
        advice = "Ask your cluster's administrator to add the rules below to your Role."
        yield Check("permissions", "problem", message, advice, missing=tuple(needed))
    if not missing:
        yield Check("permissions", "ok", f"You have all permissions in the namespace {namespace}.")
    for rule in missing:
        if rule.without:
            told = f"You lack {rule.resource}: {', '.join(rule.verbs)}. {rule.without}"
            yield Check("permissions", "warning", told, "Calls work without it.", missing=(rule,))


_WHAT = {"security": "the security level", "quota": "the quotas", "limits": "the LimitRanges"}
_CREATE = "Create it with `kubectl create namespace`, or choose another with -n or KUBEFUNC_NAMESPACE."


def version_of(answer: JsonDict) -> tuple[int, int]:
    """Major and minor version; some providers append a plus sign. What cannot be read counts as new enough.

    >>> version_of({"major": "1", "minor": "27+"}), version_of({})
    ((1, 27), (1, 30))
    """
    major, minor = (re.match(r"\d+", str(answer.get(name, ""))) for name in ("major", "minor"))
    return (int(major[0]), int(minor[0])) if major and minor else OLDEST


def _items(body: JsonDict) -> list[JsonDict]:
    return items_of(body) if is_list(body) else []


def _asked(question: Callable[[], Check]) -> Check:
    """The answer, or why there is none."""
    name = question.__name__.lstrip("_")
    try:
        return question()
    except KubefuncError as error:
        return _trouble(name, error)
    except TROUBLE as error:
        return _trouble(name, as_error(error))


def _trouble(name: str, error: KubefuncError) -> Check:
    told = error.diagnosis
    if told is None:
        return Check(name, "problem", str(error))
    return Check(name, "problem", told.message, told.advice, told.events)
