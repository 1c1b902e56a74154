"""What the API server was asked, read from its audit log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """One request; ``resource`` holds the subresource too, such as ``pods/exec``."""

    verb: str
    resource: str
    name: str
    code: int


def requests_of(audit_log: Path, user: str) -> list[Request]:
    """All requests of a user in the order of their answers (a watch: of its start). Discovery is left out."""
    found: list[Request] = []
    started: set[str] = set()
    for line in audit_log.read_text().splitlines():
        if user not in line:  # parsing is the dear part, and most lines are of others
            continue
        entry = json.loads(line)
        if entry["user"]["username"] != user or "objectRef" not in entry or entry["auditID"] in started:
            continue
        started.add(entry["auditID"])  # long ones are written twice: when they start and when they end
        target = entry["objectRef"]
        resource = "/".join(target[key] for key in ("resource", "subresource") if key in target)
        found.append(Request(entry["verb"], resource, target.get("name", ""), entry["responseStatus"]["code"]))
    return found
