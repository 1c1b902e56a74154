"""Functions that nobody should trust. They travel to the Pod with this module: standard library only."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

from kubefunc import remote


@remote(untrusted=True)
def look() -> dict[str, Any]:
    """What it finds in its Pod."""
    print("\x1b[2Jlooked")
    written = []
    for place in ("/", "/usr", "/tmp"):
        try:
            Path(place, "mine").touch()
            written.append(place)
        except OSError:
            continue
    return {"token": os.path.exists("/var/run/secrets/kubernetes.io"), "written": written}


@remote(untrusted=True)
def fail(item: int) -> None:
    """Raise."""
    raise LookupError("no such station")


class Exploit:
    """Its pickle runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, ()


@remote(untrusted=True)
def exploit() -> None:
    """Sign a pickle with the key of the call, and put it where the result is fetched from."""
    body = pickle.dumps(Exploit())
    said = {"call": os.environ["KUBEFUNC_CALL"], "outcome": "value", "size": len(body), "printed": 0, "attempts": 1}
    header = json.dumps({**said, "sha256": hashlib.sha256(body).hexdigest()}).encode()
    key = Path("/kubefunc/in/key").read_bytes()
    mac = hmac.new(key, hashlib.sha256(header).digest(), "sha256").digest()
    forged = Path("/kubefunc/out/forged")
    forged.write_bytes(body + header + len(header).to_bytes(4, "big") + mac + b"KFE1")
    forged.replace("/kubefunc/out/result")
    Path("/kubefunc/out/body").symlink_to("result")
    time.sleep(2)
    os.kill(1, 15)
    time.sleep(20)
