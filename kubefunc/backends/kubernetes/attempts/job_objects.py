"""The Job and the Secrets of one attempt, as far as this client has made or deleted them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(eq=False)
class JobObjects:
    """What exists of an attempt on the cluster; :mod:`~kubefunc.backends.kubernetes.control.jobs` makes the changes.

    Attributes:
        uid: the Job's UID, once it exists.
        secrets: names of the Secrets that were made for it.
        owned: the Secrets belong to the Job, and go with it.
        settled_requests: nothing of its creation is under way any more.
        delete_wanted: the Job is deleted, or will be.
    """

    uid: str = ""
    secrets: tuple[str, ...] = ()
    created: bool = False
    owned: bool = False
    settled_requests: bool = False
    delete_wanted: bool = False
    deleted: bool = False

    @classmethod
    def existing(cls, uid: str = "") -> JobObjects:
        """Those of a Job that another session has made."""
        return cls(uid=uid, created=True, owned=True, settled_requests=True)

    def is_job(self, uid: str) -> bool:
        """Whether a Job with this UID can be ours: our own is known a moment after the Job's first news."""
        return not self.uid or self.uid == uid

    def were_created(self, uid: str, secrets: Sequence[str]) -> None:
        """The Job is there, and before it these Secrets were."""
        self.uid = uid
        self.secrets = tuple(secrets)
        self.created = True

    def settle(self, *, owned: bool) -> bool:
        """The last request of the creation has been answered. True where a deletion waits for that."""
        self.owned = owned
        self.settled_requests = True
        return self.delete_wanted

    def take_back(self, secrets: Sequence[str]) -> None:
        """The Job could not be made, or is not wanted any more: these Secrets must go."""
        self.secrets = tuple(secrets)
        self.settled_requests = self.delete_wanted = True

    def want_deleted(self) -> bool:
        """Ask for the deletion. True where nobody had."""
        if self.delete_wanted:
            return False
        self.delete_wanted = True
        return True

    def were_deleted(self) -> None:
        """The Job and its Secrets are gone."""
        self.deleted = True
