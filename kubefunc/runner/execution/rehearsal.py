"""A call that is nobody's: what a process that waits for its call does meanwhile."""

from __future__ import annotations

import functools
import json
import os

from kubefunc.runner.execution import child
from kubefunc.runner.execution.reports import FRAME_BODY, FRAME_FINISH, SealedBody
from kubefunc.runner.execution.request import Request, join_request
from kubefunc.runner.protocol import wire
from kubefunc.runner.protocol.spec import RunnerSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kubefunc.runner.execution.child import Outcome


@functools.cache
def rehearsal() -> bytes:
    """A request whose function is sent by value, as those of scripts are."""
    import cloudpickle

    function = eval("lambda value: value", {"__name__": "__main__"})
    call = cloudpickle.dumps((("value", function), (1,), {}, ()))
    spec = RunnerSpec(call="rehearsal", function="rehearsal").as_json()
    header = {"spec": spec, "key": "", "payload": None, "directory": os.devnull}
    return join_request(header, wire.join_payload(b"", call, ""))


def rehearse(request: bytes) -> None:
    """Read it, call its function, pickle the result, and do nothing with that.

    After a fork, memory is copied page by page when it is first written to, and Python writes a count into whatever it
    looks at. Of 340 such pages of a small call, 230 are copied here, where nobody waits for them.
    """
    job = Request(request).job(1)

    def work() -> Outcome:
        function, args, kwargs, retry_exceptions = child.load(job.payload, job.code)
        return child.invoke(
            function, args, kwargs, retry_exceptions, lambda: SealedBody(job.body), child.form_of(job.spec)
        )

    header, body = child.reported(work)
    wire.frame(FRAME_BODY, body.content())
    wire.frame(FRAME_FINISH, json.dumps(header).encode())
