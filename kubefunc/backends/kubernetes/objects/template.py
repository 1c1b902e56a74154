"""A user's ``pod_template`` over our Pod template: Kubernetes' strategic merge, as far as it matters here.

Pure: nothing that goes in is changed. ``None`` in a dict takes a field away.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias, cast

from kubefunc.errors import ConfigurationError
from kubefunc.options import PodTemplate
from kubefunc.options.kind import Refused
from kubefunc.options.pod_templates import checked_fields, in_order

Json: TypeAlias = dict[str, object]

# The lists that merge item by item, and the field that tells items apart, as in Kubernetes' strategic merge.
_MERGED_BY: Final = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
}


def customised(template: Json, custom: PodTemplate | tuple[PodTemplate, ...]) -> Json:
    """The template with a dict merged into it, or what a function makes of a copy of it; several in their order.

    Raises:
        ConfigurationError: a dict does not fit, or a function returned something else than a template.
    """
    for each in in_order(custom):
        template = _customised_once(template, each)
    return template


def _customised_once(template: Json, custom: PodTemplate) -> Json:
    if isinstance(custom, Mapping):
        return _merge_maps(template, custom, at="pod_template")
    return made_by(custom, template, option="pod_template", what="the Pod template")


def made_by(custom: Callable[[Json], object], base: Json, *, option: str, what: str) -> Json:
    """What a template that is a function makes of an object.

    Raises:
        ConfigurationError: it is no object; the message names the option, and what was to be returned.
    """
    changed = custom(deep_copy(base))
    try:
        fields = checked_fields(changed, at="")
    except Refused as refused:
        raise ConfigurationError(f"{option}: the function's result{refused.at}: {refused.why}") from None
    if not isinstance(fields, dict):
        raise ConfigurationError(f"{option}: the function returned {type(changed).__name__}; it must return {what}")
    return cast(Json, fields)


def merged(base: Mapping[str, object], patch: Mapping[str, object], *, at: str) -> Json:
    """A dict merged into another, as ``kubectl patch`` does it; ``at`` begins the message of a refusal.

    Raises:
        ConfigurationError: a part of it does not fit.
    """
    return _merge_maps(base, patch, at=at)


def _merge_maps(base: Mapping[str, object], patch: Mapping[str, object], *, at: str) -> Json:
    """Maps key by key, known lists item by item, all else replaced; None takes a field away."""
    merged = deep_copy(base)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge_field(name, merged.get(name), value, at=f"{at}.{name}")
    return merged


def _merge_field(name: str, base: object, value: object, *, at: str) -> object:
    if name in _MERGED_BY or name == "tolerations":
        return _merge_lists(name, items(base or [], at), items(value, at), at)
    if isinstance(base, Mapping) and isinstance(value, Mapping):
        return _merge_maps(cast(Json, base), cast(Json, value), at=at)
    return copy.deepcopy(value)


def items(value: object, at: str) -> list[Json]:
    """A list of dicts.

    Raises:
        ConfigurationError: it is something else; the message begins with ``at``.
    """
    if isinstance(value, list) and all(isinstance(item, dict) for item in cast("list[object]", value)):
        return cast("list[Json]", value)
    raise ConfigurationError(f"{at}: a list of dicts is needed here, not {value!r:.100}")


def _merge_lists(name: str, ours: list[Json], theirs: list[Json], at: str) -> list[Json]:
    if name == "tolerations":
        return join_tolerations(ours, theirs)
    key = _MERGED_BY[name]
    merged = {str(item[key]): item for item in ours}
    for index, item in enumerate(theirs):
        if not item.get(key):
            raise ConfigurationError(f"{at}[{index}] has no {key!r}, which tells which item is meant")
        known = str(item[key])
        merged[known] = _merge_item(name, merged.get(known), item, f"{at}[{known}]")
    return list(merged.values())


def _merge_item(name: str, ours: Json | None, theirs: Json, at: str) -> Json:
    """Replace where a merge would leave two sources of one thing: env's value and valueFrom, a volume's."""
    alternatives = name == "env" or (name == "volumes" and ours is not None and theirs.keys() - ours.keys())
    if ours is None or alternatives:
        return deep_copy(theirs)
    return _merge_maps(ours, theirs, at=at)


def join_tolerations(ours: Sequence[Mapping[str, object]], theirs: Sequence[Mapping[str, object]]) -> list[Json]:
    """Theirs beside ours, and instead of ours for the same taint: of two, the shorter seconds would hold."""
    if any(not item.get("key") and item.get("effect") in (None, "", "NoExecute") for item in theirs):
        ours = [item for item in ours if item.get("effect") != "NoExecute"]
    taints = [_taint(item) for item in theirs]
    return [dict(item) for item in (*(item for item in ours if _taint(item) not in taints), *theirs)]


def _taint(toleration: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(toleration.get(name) or "" for name in ("key", "value", "effect"))


def without_none(fields: Json) -> Json:
    """The fields that are set."""
    return {name: value for name, value in fields.items() if value is not None}


def deep_copy(value: Mapping[str, object]) -> Json:
    """A dict that shares nothing with the original."""
    return copy.deepcopy(dict(value))
