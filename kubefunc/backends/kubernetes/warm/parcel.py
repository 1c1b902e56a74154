"""A submission as warm workers take it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from kubefunc.backends.base import Submission
from kubefunc.backends.kubernetes.warm.arguments import ArgumentFiles
from kubefunc.backends.runner_specs import runner_spec
from kubefunc.packing.code_archive import NO_CODE, CodeArchive
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.protocol.spec import RunnerSpec
from kubefunc.runner.warm.kept import FUNCTION, digest_of, name_of, name_of_code
from kubefunc.runner.warm.request import join_request


class Parcel:
    """A submission as workers take it: what all of its batches have in common.

    Attributes:
        submission: it.
        items: the pickled arguments of its items.
        keeps: what workers keep of it, by name; for project code only the name.
        codes: the project code among that, by name. It is packed for a worker that needs all of it.
        arguments: the files among them.
        stay: the name of the process that runs its items; None: each call has a new one.
    """

    def __init__(
        self, submission: Submission, *, fresh: bool, code: CodeArchive = NO_CODE, place: str | None = None
    ) -> None:
        """
        Args:
            submission: it.
            fresh: each call has a process of its own.
            code: further modules that its items import, beside those of the function.
            place: of one with a single item, a name for the folder of its files.
        """
        self.submission = submission
        self.items = dict(submission.items)
        self.arguments = ArgumentFiles(submission, place)
        payload = submission.payload
        is_map = submission.shape == "map"
        self.keeps: dict[str, bytes] = {}
        self.codes: dict[str, CodeArchive] = {}
        spec = runner_spec(submission).replace(
            disruptions=submission.disruptions,
            pull_allowance=submission.options.pull_allowance,
            seals_files=True,
        )
        self._content = b"" if is_map else payload.call
        self._header = {
            "spec": spec.changes(),
            "key": submission.key.hex(),
            "code": [self._keep_code(each) for each in (payload.code, code) if each.modules],
            "function": self._keep(name_of(FUNCTION, digest_of(payload.call)), payload.call) if is_map else None,
            "compression": payload.compression,
            "items": is_map,
        }
        self.stay = None if fresh and not is_map else self._process(spec, submission, fresh=fresh)
        self._header["stay"] = self.stay

    @property
    def may_wait(self) -> bool:
        """Whether it may be sent to a worker that runs something else.

        If that worker is lost, nobody knows whether it has begun this: nothing for what must never run twice. Files
        would be on their way beside those of what runs. A generator function's program waits for its first value.
        """
        return self.submission.options.max_disruptions > 0 and not self.arguments and not self.is_stream

    @property
    def is_stream(self) -> bool:
        """Whether it is a generator function: it runs for as long as its program takes values."""
        return self.submission.values is not None

    def add_item(self, index: int, arguments: bytes) -> None:
        """One more, of what stays open."""
        self.items[index] = arguments

    def drop_items(self, indexes: Iterable[int]) -> None:
        """These have ended."""
        for index in indexes:
            self.items.pop(index, None)

    def _keep(self, name: str, data: bytes) -> str:
        self.keeps[name] = data
        return name

    def _keep_code(self, archive: CodeArchive) -> str:
        name = name_of_code(archive.table)
        self.codes[name] = archive
        return self._keep(name, b"")

    def _process(self, spec: RunnerSpec, submission: Submission, *, fresh: bool) -> str:
        """Calls that name the same process share modules and state: those with the same code and surroundings."""
        if fresh:
            return submission.call
        same = [self._header["code"], spec.logging, spec.nested]
        return hashlib.sha256(json.dumps(same).encode()).hexdigest()

    def request(self, run: str, indexes: Sequence[int]) -> Sequence[bytes]:
        """The request for these items, in parts: a large argument is not copied."""
        items = [(index, self.items.get(index, b"")) for index in indexes] if self._header["items"] else []
        content = records.join_items(items) if items else self._content
        header = {"run": run, **self._header, **self.arguments.header(indexes)}
        if len(content) < wire.COPIED:
            return (join_request(header, content),)
        return join_request(header, b""), content
