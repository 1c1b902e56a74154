"""Where payloads run."""

from __future__ import annotations

import pkgutil

# In a Pod this package is the one of kubefunc.pyz, which holds no backend. A function that may call on finds the
# backend in the image's own kubefunc, once the runner has opened the parent package to it.
__path__ = pkgutil.extend_path(__path__, __name__)
