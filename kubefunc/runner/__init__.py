"""The program that runs inside the container. Standard library only, and the bundled cloudpickle.

This docstring is the protocol; every constant of it stands below, once, and the client imports it from here.

What it is given
    ``/kubefunc/in`` (a Secret, read-only): ``spec.json`` (how to run: :func:`kubefunc.payload.runner_spec`), ``key``
    (32 random bytes of this call), ``payload`` (or ``payload.0``, ``payload.1`` ... joined), ``kubefunc.pyz`` (this
    program). ``/kubefunc/out`` (an emptyDir) is shared by both containers. A payload too large for Secrets arrives
    as ``/kubefunc/out/payload`` instead (``"upload": true`` in the spec).

Programs: ``python3 kubefunc.pyz PROGRAM``
    ``main``       the supervisor, in the container *main*: forks one child per attempt, writes the result
    ``courier``    in the container *courier*: keeps the Pod's data port open until the result was fetched
    ``reader N``   started in *courier* by exec: waits for the result, sends it from byte N on
    ``uploader``   started in *courier* by exec: takes a large payload in

Files in ``/kubefunc/out``
    ``lock``       exists: main has started. flock'ed exclusively by main alone; free: main has ended
    ``alive``      touched by main every 2 s: where flock lies (gVisor, Kata), its age tells
    ``result``     the envelope, put there whole by one rename
    ``inline``     exists: the termination message holds the whole envelope
    ``readers``    flock'ed shared by each reader; the courier ends only while it holds it exclusively
    ``ack``        exists: the client has the result

Payload
    ``KFP1``, header length (4 bytes, big endian), header (JSON: size and compression of each section), then the
    sections ``code`` (a zip of the caller's modules) and ``call`` (a cloudpickle of
    ``(reference, args, kwargs, retry_exceptions)``).

Envelope (a result)
    body, header (JSON), header length (4 bytes, big endian), HMAC-SHA256 of the header's sha256 (32 bytes), ``KFE1``.
    The header stands last, so that a large body is written in one pass; it holds the body's size and sha256. Nothing
    of the body is unpickled before HMAC, size and sha256 are right. ``outcome`` is ``value`` (body: one pickle),
    ``raised`` (body: pickles of the exceptions of the chain, see :mod:`kubefunc.runner.exceptions`) or ``error``
    (one of the codes below and its ``detail``). ``printed`` counts the bytes that the function printed, ``output`` is
    the last of them (base64, at most 16 KiB): most calls need no request for their log.

Termination message of main
    ``kubefunc:envelope:`` and the zlib-compressed envelope in base64, if that text has at most 2,000 bytes (the
    kubelet cuts at 12,288 bytes divided by the number of containers); else ``kubefunc:size:N:sha256:HEX``.

Reader, on its stdout
    ``.`` every 10 s while it waits, then ``N`` (main has ended without a result), or ``R``, the envelope's size and the
    offset (8 bytes each, big endian) and the envelope from there on. On its stdin: ``A`` acknowledges.
    Uploader: on its stdin the size (8 bytes, big endian) and the payload; it answers ``K``.

Courier's log, when nobody came for the result: ``kubefunc:log:N``, the envelope in base64 lines, ``kubefunc:end``.

Exit codes of main: 0 value; 64 the function raised or died (envelope written); 143 SIGTERM came, and no result.
Exit codes of courier: 0; 65 SIGTERM came while a result still waited (it stands in the log).
"""

PROTOCOL = 1
IN_DIR = "/kubefunc/in"
OUT_DIR = "/kubefunc/out"
TERMINATION_LOG = "/dev/termination-log"
ARCHIVE = "kubefunc.pyz"

MAIN = "main"
COURIER = "courier"

PAYLOAD_MAGIC = b"KFP1"
ENVELOPE_MAGIC = b"KFE1"

EXIT_VALUE = 0
EXIT_RAISED = 64
EXIT_TERMINATED = 143
EXIT_COURIER_TERMINATED = 65

TERMINATION_TEXT_LIMIT = 2000
TERMINATION_ENVELOPE = "kubefunc:envelope:"
TERMINATION_SIZE = "kubefunc:size:"
LOG_HEAD = "kubefunc:log:"
LOG_TAIL = "kubefunc:end"
OUTPUT_TAIL = 16 * 1024
LOG_LIMIT = 4 * 1024 * 1024

READER_HEARTBEAT = b"."
READER_NOTHING = b"N"
READER_RESULT = b"R"
READER_ACK = b"A"
UPLOAD_DONE = b"K"

# Outcomes and the codes under which errors travel: names of Python classes would tie the two ends together.
VALUE = "value"
RAISED = "raised"
ERROR = "error"

CODE_PYTHON = "python"  # another minor version of Python here; detail: here, there
CODE_LOAD = "load"  # the payload does not unpickle here; body: the exception
CODE_UNPICKLABLE = "unpicklable"  # the value does not pickle; detail: path, type; body: the exception
CODE_EXIT = "exit"  # SystemExit, KeyboardInterrupt, GeneratorExit; detail: type, exit_code
CODE_TIMEOUT = "timeout"  # detail: timeout, stacks
CODE_DIED = "died"  # detail: exit_code or signal
CODE_OOM = "oom"  # detail: limit
CODE_UPLOAD = "upload"  # the payload never arrived

ENV_CALL = "KUBEFUNC_CALL"
ENV_ATTEMPT = "KUBEFUNC_ATTEMPT"
ENV_NESTED = "KUBEFUNC_NESTED"
