"""The options that say where and how a function runs, and the layers that set them.

A later layer wins: the built-in defaults, :func:`kubefunc.configure`, ``KUBEFUNC_*`` in the environment,
``@remote(...)``, ``.options(...)``. ``env``, ``labels``, ``annotations``, ``node_selector`` and ``volumes`` are
merged key by key. Each ``pod_template`` is merged into the one before it. All other options replace the earlier
value. ``None`` removes what earlier layers set. ``UNSET``, or leaving the option out, keeps it.

The fields of :class:`Options` are the only list of options; :mod:`kubefunc.options.option` says how to add one.
A test checks that :class:`OptionChanges`, which types the keywords of ``@remote``, ``.options`` and ``configure``,
has the same ones.
"""

from __future__ import annotations

from kubefunc.options.fields import OptionChanges, Options, parse_changes
from kubefunc.options.layers import environment_layer, origins, shows_options
from kubefunc.options.option import UNSET, Layer, PodTemplate, Unset
from kubefunc.options.placement import PullPolicy
from kubefunc.options.pod import EnvValue
from kubefunc.options.references import ConfigMapKey, SecretKey
from kubefunc.options.resolved import Resolved
from kubefunc.options.results import Keep, OnSigterm
from kubefunc.options.running import default_image

__all__ = [
    "UNSET",
    "ConfigMapKey",
    "EnvValue",
    "Keep",
    "Layer",
    "OnSigterm",
    "OptionChanges",
    "Options",
    "PodTemplate",
    "PullPolicy",
    "Resolved",
    "SecretKey",
    "Unset",
    "default_image",
    "environment_layer",
    "origins",
    "parse_changes",
    "shows_options",
]
