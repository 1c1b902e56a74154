"""The program that runs inside the container. Standard library only, and the bundled cloudpickle.

This docstring is the protocol; every constant of it stands below, once, and the client imports it from here.

What it is given
    ``/kubefunc/in`` (a Secret, read-only): ``spec.json`` (how to run: ``RunnerSpec`` in
    :mod:`kubefunc.runner.protocol.spec`), ``key`` (32 random bytes of this call), ``payload`` (or ``payload.0``,
    ``payload.1`` ... joined), ``kubefunc.pyz`` (this program), of a map also ``items``
    (:mod:`kubefunc.runner.protocol.records`). ``/kubefunc/out`` (an emptyDir) is shared by both containers. A payload
    too large for Secrets arrives as ``/kubefunc/out/payload`` instead (``"upload": true`` in the spec), and so do the
    items of a chunk (``"upload_items": true``).

Programs: ``python3 kubefunc.pyz PROGRAM``; those that exec starts, by ``python3 -c``, for a quicker start
    ``main``       the supervisor, in the container *main*: forks one child per attempt, writes the result
                   (of a chunk of a map: for its items, one after another in one child)
    ``courier``    in the container *courier*: keeps the Pod's data port open until the result was fetched
    ``reader N``   started in *courier* by exec: waits for the result, sends it from byte N on; a large one while it is
                   still written
    ``follower N`` the same for a chunk, from its first record on, while it still runs
    ``uploader F`` started in *courier* by exec: takes in the file F: ``payload``, ``items``, ``packages`` or ``skip``
    ``streamer N`` started in *courier* by exec: sends the values of a generator from the Nth on, then the result
    ``receiver F`` started in *courier* by exec: takes in a file of the arguments
    ``sender F N`` started in *courier* by exec: sends a file of a result from byte N on
    ``sharer S``   started in *courier* by exec: has a chunk give back the items that it will not begin within S seconds

Files in ``/kubefunc/out``
    ``lock``       exists: main has started. flock'ed exclusively by main alone; free: main has ended
    ``alive``      touched by main every 2 s: where flock lies (gVisor, Kata), its age tells
    ``body``       what will be ``result``; that of a chunk grows by whole blocks. Another attempt's is another file
    ``result``     the envelope, put there whole by one rename
    ``inline``     exists: the termination message holds the whole envelope
    ``readers``    flock'ed shared by each reader; the courier ends only while it holds it exclusively,
                   or by SIGTERM after an ``ack``
    ``ack``        exists: the client has the result
    ``terminate``  exists: the courier got SIGTERM; main, which may have missed its own, takes it as one
    ``stream/``    of a generator function: its values, each an envelope under its number, from 0 on; ``part``, one that
                   is being written; ``taken``, how many values the consumer has taken (they are removed); ``seen``,
                   touched while a streamer has a client. The generator waits while it is too far ahead of ``taken``,
                   and ends with an exception where it waits and no client has come for ``left_after`` seconds
    ``skip``       of a chunk: the items that need not run, brought by the client to a Pod that replaces another
    ``file.N``     the file N of the arguments, ``file.N.part`` while it comes; the function sees it under its own name,
                   in ``files/N``
    ``body.file.N`` and of a chunk ``item.INDEX.file.N``: the file N of what the function returned
    ``share``      of a chunk: a request to give items back (its name, seconds of work to keep)
    ``shared``     the answer (JSON: ``request``; ``given``, all indexes given back so far; items ``begun``,
                   and the ``mean`` seconds of each)

Packages
    ``packages`` in the spec is what :mod:`kubefunc.runner.pod.installer` installs before the function is loaded:
    ``requirements`` and ``constraints`` (lines of files), ``hashes`` (each requirement must have one), ``index`` (a URL
    or nothing), ``title`` and ``why`` (for people), ``seconds`` (the most that it may take), ``cache`` (the volume
    stays) and ``sent``: an archive (gzip of tar) that arrives as ``/kubefunc/out/packages``, the ``machine`` and
    ``glibc`` that it fits, and what is ``pinned``, to be installed where it does not.
    They go to ``/kubefunc/packages``, a volume of *main* alone: an emptyDir, or a claim of the user's.

Payload
    ``KFP1``, header length (4 bytes, big endian), header (JSON: size, sha256 and compression of each section), then the
    sections ``code`` (the caller's modules, zlib: a length of 4 bytes, a JSON list of path, executable
    and size of each, the contents) and ``call`` (a cloudpickle of ``(reference, args, kwargs, retry_exceptions)``).

Envelope (a result)
    body, header (JSON), header length (4 bytes, big endian), HMAC-SHA256 of the header's sha256 (32 bytes), ``KFE1``.
    The header stands last, so that a large body is written in one pass; it holds the body's size and sha256. Nothing
    of the body is unpickled before HMAC, size and sha256 are right. ``outcome`` is ``value`` (body: one pickle),
    ``raised`` (body: pickles of the exceptions of the chain, see :mod:`kubefunc.runner.execution.exceptions`) or
    ``error`` (one of the codes below and its ``detail``). Of a function that its caller does not trust (``"untrusted":
    true`` in the spec) a value is JSON and an exception text alone
    (:mod:`kubefunc.runner.execution.plain`). ``missing`` of one that was ``raised`` names a module or a
    variable that the place lacks (:mod:`kubefunc.runner.execution.causes`). ``python`` names the minor version that
    pickled it, ``printed`` counts the bytes that the function printed, ``output`` is the last of them (base64, at most
    16 KiB): most calls need no request for their log.

    A value of a generator is an envelope, too, with its ``number`` and the ``run`` (random) of its attempt. The
    envelope of the result counts them: ``streamed``.

    ``outcome`` of a chunk is ``chunk``, its body is blocks of records (:mod:`kubefunc.runner.protocol.records`); the
    header says how many, how many ``items`` and ``failed`` ones are in them, and whether all are there
    (``complete``). A chunk of which nothing could run leaves an ordinary envelope of an error, which holds for each
    of its items.

Files (:mod:`kubefunc.runner.protocol.file`)
    stand in the pickles of arguments and results as a number and a name, and travel beside them. ``files`` in the
    header of a value holds size and sha256 of each. A value with files stands neither in the termination message nor in
    a log.

Termination message of main
    ``kubefunc:envelope:`` and the zlib-compressed envelope in base64, if that text has at most 2,000 bytes (the
    kubelet cuts at 12,288 bytes divided by the number of containers); else ``kubefunc:size:N:sha256:HEX``, for a chunk
    ``kubefunc:size:N``, and ``:files`` behind it where files belong to the result. While a chunk runs:
    ``kubefunc:at:INDEX``, the item that was started last.

Reader, on its stdout
    ``.`` every 10 s while it waits, then ``N`` (main has ended without a result), or ``R``, the envelope's size and the
    offset (8 bytes each, big endian) and the envelope from there on. Or, of one that is still written, what a follower
    says; ``N`` means then that what came before is void. On its stdin: ``A`` acknowledges.
    Follower: ``.`` too; ``D``, a length (4 bytes) and as many bytes; then ``N``, or ``E`` and
    the size of the whole (8 bytes), and it waits for ``A``.
    Streamer, in frames (:func:`kubefunc.runner.protocol.wire.frame`): ``.``; ``D``, a value's envelope; then ``R``, the
    result's envelope, and it waits for ``A``; or ``N``. On its stdin: ``T`` and how many values were taken (8 bytes).
    Sharer: the file ``shared``, or nothing where *main* has ended.
    Receiver: says how much of the file it has (8 bytes, big endian); takes the size of the whole (8 bytes); says ``.``;
    takes the rest of the file and the sha256 of the whole (32 bytes); answers ``K``, or ``N`` (the digest is another
    one: it has nothing now). In place of ``.`` and of the answer: ``X``, a length (4 bytes), and why the file
    cannot be stored.
    Sender: as a reader's ``R``.
    Uploader: on its stdin the size (8 bytes, big endian) and the payload; it answers ``K``.

Termination message of courier
    ``kubefunc:unfetched``, where a result too large for the log was kept for ``result_ttl``, and nobody came.

Courier's log, when nobody came for the result, and of a chunk also when it was fetched: ``kubefunc:log:N``, the
    envelope in base64 lines, ``kubefunc:end``.

Exit codes of main: 0 value; 64 the function raised or died (envelope written); 143 SIGTERM came, and no result. Of a
    chunk: 0, or 64 where an item failed: that counts against its index alone.
Exit codes of courier: 0; 65 SIGTERM came while a result still waited (it stands in the log).
"""

PROTOCOL = 1
IN_DIR = "/kubefunc/in"
OUT_DIR = "/kubefunc/out"
PACKAGES_DIR = "/kubefunc/packages"
SENT_PACKAGES = "packages"
TERMINATION_LOG = "/dev/termination-log"
ARCHIVE = "kubefunc.pyz"
SPEC_FILE = "spec.json"
KEY_FILE = "key"
PAYLOAD = "payload"
ITEMS = "items"
STREAM = "stream"
STREAM_TAKEN = "taken"
STREAM_SEEN = "seen"
STREAM_BYTES = 64 * 1024 * 1024  # of values that nobody has taken: with so many waiting, the generator waits too

MAIN = "main"
COURIER = "courier"

PAYLOAD_MAGIC = b"KFP1"
ENVELOPE_MAGIC = b"KFE1"

# What applies where no option says otherwise; all in seconds.
BACKOFF = (1.0, 2.0, 60.0)  # before the first new attempt; the factor for each further one; the most
FETCH_GRACE = 60.0
RESULT_TTL = 600.0  # for a client that was there a moment ago
PULL_ALLOWANCE = 900.0

STOP_GRACE = 30  # seconds that the kubelet gives a Pod between SIGTERM and SIGKILL

EXIT_VALUE = 0
EXIT_RAISED = 64
EXIT_BROKEN = 70  # of the function's process: this program's own code failed there (EX_SOFTWARE)
EXIT_TERMINATED = 143
EXIT_COURIER_TERMINATED = 65
EXIT_KILLED = 137  # by SIGKILL, from outside
COURIER_ENDS = (0, EXIT_COURIER_TERMINATED, EXIT_KILLED, EXIT_TERMINATED)  # any other: it cannot do its work

TERMINATION_TEXT_LIMIT = 2000
TERMINATION_ENVELOPE = "kubefunc:envelope:"
TERMINATION_SIZE = "kubefunc:size:"
TERMINATION_FILES = ":files"
TERMINATION_UNFETCHED = "kubefunc:unfetched"
LOG_HEAD = "kubefunc:log:"
LOG_TAIL = "kubefunc:end"
OUTPUT_TAIL = 16 * 1024
LOG_LIMIT = 4 * 1024 * 1024

READER_HEARTBEAT = b"."
READER_NOTHING = b"N"
READER_RESULT = b"R"
READER_ACK = b"A"
STREAMER_TAKEN = b"T"
FOLLOW_DATA = b"D"
FOLLOW_END = b"E"
UPLOAD_DONE = b"K"
FILE_CHANGED = b"N"
FILE_REFUSED = b"X"
FILE_WANTED = b"."

# Outcomes and the codes under which errors travel: names of Python classes would tie the two ends together.
VALUE = "value"
RAISED = "raised"
ERROR = "error"

CODE_PYTHON = "python"  # another minor version of Python here; detail: here, there
CODE_LOAD = "load"  # the payload does not unpickle here; body: the exception
CODE_UNPICKLABLE = "unpicklable"  # the value does not pickle; detail: path, type; body: the exception
CODE_NOT_JSON = "not_json"  # of an untrusted function: JSON cannot hold the value; detail: path, type, message
CODE_EXIT = "exit"  # SystemExit, KeyboardInterrupt, GeneratorExit; detail: type, exit_code
CODE_TIMEOUT = "timeout"  # detail: timeout, stacks
CODE_DIED = "died"  # detail: exit_code or signal
CODE_OOM = "oom"  # detail: limit
CODE_UPLOAD = "upload"  # the payload never arrived
CODE_FAULT = "fault"  # this program itself failed in the function's process; detail: error, traceback
CODE_PACKAGES = "packages"  # not installed; detail: kind, seconds, output, installer, exit_code (see pod/installer.py)
CODE_STORAGE = "storage"  # the result cannot be written; detail: path, message, kind (full, removed, limited or "")

CHUNK = "chunk"  # the envelope of a chunk: its body is blocks of records
BLOCK_TIME = 0.05  # seconds after which a block is closed
BLOCK_SIZE = 256 * 1024  # bytes at which it is closed sooner
SKIP_WAIT = 10.0  # seconds that a replacement waits to hear what it may skip
TERMINATION_AT = "kubefunc:at:"

PLAIN_LIMIT = 8 * 1024 * 1024  # bytes of an untrusted function's value as JSON: parsed, it may take twenty times that
PLAIN_HEADER = 1024 * 1024  # bytes beside it in its envelope
PLAIN_TEXT = 64 * 1024  # characters of an exception's text or traceback
PLAIN_DEPTH = 100  # values inside each other
PLAIN_DIGITS = 4000  # of an int: Python refuses to read more than 4,300 by default

ENV_POD_INDEX = "JOB_COMPLETION_INDEX"  # set by Kubernetes
ENV_FAILURES = "KUBEFUNC_FAILURES"  # of earlier Pods of this index: annotations, by the downward API
ENV_IGNORED_FAILURES = "KUBEFUNC_IGNORED_FAILURES"
ENV_STOP_GRACE = "KUBEFUNC_STOP_GRACE"  # where a pod_template has changed the Pod's termination grace
ENV_INDEX = "KUBEFUNC_INDEX"
ENV_CALL = "KUBEFUNC_CALL"
ENV_ATTEMPT = "KUBEFUNC_ATTEMPT"
ENV_DISRUPTIONS = "KUBEFUNC_DISRUPTIONS"
ENV_NESTED = "KUBEFUNC_NESTED"
ENV_RANK = "KUBEFUNC_RANK"  # of a gang
ENV_PEERS = "KUBEFUNC_PEERS"
