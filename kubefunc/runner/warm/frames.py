"""The frames between a warm worker and its client. Each is a letter, a length and a content.

``N``  from the worker, first: its nonce, and what it does (text: two words; the second is one of ``STATES``).
``H``  from the client: who it is, and which calls it waits for (JSON: ``client``, ``nonce``, ``proof`` that it knows
       the token, see :mod:`kubefunc.runner.warm.lease`; ``runs``: the one that it believes to run, and the one that it
       has sent ahead; ``output``: how much of the first one's output it has).
``W``  the answer (JSON: the worker's own ``proof``; ``kept``: names and sizes of what it keeps; ``runs``: the calls
       that this worker has; ``lost``: those that the client waits for, and that the worker has begun and keeps nothing
       of any more). Output and outcomes of those that it has follow; what it neither has nor has lost
       never began here, and may be sent.
``Y``  the other answer: another client has this worker.
``D``  from the client: a piece of the next call's request.
``K``  from the client: what came in ``D`` is to be kept (text: its name, :mod:`kubefunc.runner.warm.kept`). Of a patch,
       the name of the code that it changes follows, behind a space (:mod:`kubefunc.runner.warm.code`). If nothing came,
       what is kept under this name must not make room for what is kept next: the next request needs both.
``C``  from the client: what came in ``D`` is a request (:class:`kubefunc.runner.warm.request.WarmRequest`), and this is
       its signature. Nothing of a request without a valid one is read. It may come while another one runs, and waits.
``U``  from the client: give back what has not begun. From the worker: these items of the call that runs have not, and
       never will.
``V``  from the worker, when it is asked for that: this call (text: ``run``) waited, and never begins here.
``T``  from the client: end this call (text: ``run``), which runs or waits.
``A``  from the client: it has this call's outcome (text: ``run``), which need not be kept any longer.
``O``  output: where it begins, the item that has printed it (8 bytes each, big endian), and the output.
``B``  a piece of a large outcome. ``R``: the rest of it. A call in a process of its own has a signed envelope; a batch
       of items, or a call in a process that stays, signed blocks of records.
``S``  from the worker: a value of a generator function. How many bytes of it follow in ``B`` (8 bytes, big endian), or,
       if none do, the value: a signed envelope. From the client: how many values its program has taken (8 bytes), of
       this call (text: ``run``). The worker keeps the others, and sends them again on another stream.
``E``  the call has ended (text: the supervisor's exit code). The outcome is kept until ``A``. What the worker says of
       the next call comes after this. Files in what the call returned are kept until ``A``, too, and no other call
       begins before that.
``G``  from the client: it goes, and its call is ended. The answer, once that is done: the worker is free.
``P``  from both: I am here.
``M``  from the worker, before ``E``: it takes no more calls. ``X`` follows, if the Pod does not end before it is sent.
``X``  the worker takes no more calls (text: why), and has begun none of those that have not ended.

Files of arguments and results are no frames: programs that exec starts beside the worker carry them
(:mod:`kubefunc.runner.pod.transfers`).

A stream may break at any byte: the client comes back with another one and both go on where they were. A client that
does not come back within ``reconnect`` seconds is gone: its call is ended, and another client may have the worker.
"""

from __future__ import annotations

import struct

STATES = ("busy", "idle", "free")  # it runs a call; a client has it, and no call runs; no client has it

NONCE = b"N"
HELLO = b"H"
WELCOME = b"W"
BUSY = b"Y"
GOODBYE = b"G"
DATA = b"D"
KEEP = b"K"
GIVEN_BACK = b"U"
NOT_BEGUN = b"V"
ACKNOWLEDGE = b"A"
PING = b"P"
NO_MORE = b"M"
LEAVING = b"X"
STREAMED = b"S"
STREAMED_HEAD = struct.Struct(">Q")  # of a streamed value, or of what the client says of them
PLACE = struct.Struct(">QQ")  # of a piece of output: where it begins, and the item that has printed it
