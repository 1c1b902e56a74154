"""Whether it must be looked into what a Pod will lack: most functions need no package, and load nothing for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kubefunc.options import Options

if TYPE_CHECKING:
    from kubefunc.packing.packages.imports import Need


def check(find_needs: Callable[[], Iterable[Need]], options: Options) -> None:
    """Refuse a call whose Pod will surely lack a module.

    An image that the user names is trusted, and so are volumes and templates, which may bring modules.

    Args:
        find_needs: finds out which modules the call needs.
        options: of the call.

    Raises:
        MissingModuleError: with the module, who imports it, and the way out.
        ConfigurationError: workers of a pool are to preload code of the caller's own.
    """
    if options.image is not None or options.volumes or "PYTHONPATH" in options.env:
        return
    if options.pod_template is not None or options.job_template is not None:
        return
    needs = list(find_needs())
    if needs or (options.pool is not None and options.pool.preload):
        from kubefunc.packing.packages.missing import refuse_missing  # 10 ms, for package metadata

        refuse_missing(needs, options)
