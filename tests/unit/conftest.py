"""Property tests judge what comes out; how long it takes on a loaded machine is no part of that."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("kubefunc", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kubefunc")
