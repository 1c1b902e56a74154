"""What is brought into a Pod, and files of results out of it: programs that exec starts beside what runs there."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os

from kubefunc.runner import FILE_CHANGED, FILE_REFUSED, FILE_WANTED, READER_RESULT, UPLOAD_DONE
from kubefunc.runner.pod import courier
from kubefunc.runner.protocol import pipes

_DIGEST = 32  # bytes of a sha256


def receive(out: courier.Out, name: str) -> int:
    """Take a file in from stdin, from where a stream before this one was cut."""
    with open(_open_part(out, name), "r+b", buffering=0) as part:
        digest = hashlib.sha256()
        while piece := part.read(courier.CHUNK):
            digest.update(piece)
        pipes.write_all(1, pipes.UPLOAD_HEAD.pack(part.tell()))
        (size,) = pipes.UPLOAD_HEAD.unpack(courier.read_exactly(pipes.UPLOAD_HEAD.size))
        try:
            _check_room(out.directory, size - part.tell())
            pipes.write_all(1, FILE_WANTED)
            if not _take(part.fileno(), size - part.tell(), digest):
                return 1  # it was cut: the next stream goes on from here
        except OSError as error:
            os.ftruncate(part.fileno(), 0)  # the room that it took may be needed to say so
            why = (error.strerror or str(error)).encode()
            pipes.write_all(1, FILE_REFUSED + pipes.LENGTH.pack(len(why)) + why)
            _drain()
            return 0
        is_right, is_new = courier.read_exactly(_DIGEST) == digest.digest(), not out.has(name)
        if not is_right:
            if is_new:
                os.ftruncate(part.fileno(), 0)
            pipes.write_all(1, FILE_CHANGED)
            return 0
        if is_new:
            os.chmod(part.fileno(), 0o644)
            os.replace(out.path(f"{name}.part"), out.path(name))
    pipes.write_all(1, UPLOAD_DONE)
    return 0


def upload(out: courier.Out, name: str) -> int:
    """Take a file in from stdin and give it its name once it is whole."""
    (size,) = pipes.UPLOAD_HEAD.unpack(courier.read_exactly(pipes.UPLOAD_HEAD.size))
    part = out.path(f"{name}.{os.getpid()}")  # two clients may bring the same
    with open(part, "wb") as file:
        while size:
            data = os.read(0, min(size, courier.CHUNK))
            if not data:
                os.unlink(part)
                return 1
            file.write(data)
            size -= len(data)
    os.chmod(part, 0o644)
    os.replace(part, out.path(name))
    pipes.write_all(1, UPLOAD_DONE)
    return 0


def _open_part(out: courier.Out, name: str) -> int:
    """What has come of the file, for this program alone: the one before may not know yet that its stream was cut."""
    while True:
        path = out.path(name if out.has(name) else f"{name}.part")
        part = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with courier.client_takes():
            fcntl.flock(part, fcntl.LOCK_EX)
        if os.fstat(part).st_nlink:
            return part
        os.close(part)


def _check_room(directory: str, missing: int) -> None:
    """Before the client sends it all: a function may leave less room later, and then a write says so."""
    status = os.statvfs(directory)
    if missing > status.f_bavail * status.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _drain() -> None:
    """Take the rest that the client sends: it hears our answer only then."""
    while True:
        with courier.client_takes():
            if not os.read(0, courier.CHUNK):
                return


def _take(part: int, missing: int, digest: hashlib._Hash) -> bool:
    """So many bytes more; False where stdin ends before, or nobody wants the file any more and it was removed."""
    while missing > 0 and os.fstat(part).st_nlink:
        with courier.client_takes():
            piece = os.read(0, min(missing, courier.CHUNK))
        if not piece:
            return False
        pipes.write_all(part, piece)
        digest.update(piece)
        missing -= len(piece)
    return missing <= 0


def send(out: courier.Out, name: str, offset: int) -> int:
    """Send a file of a result, from this byte on."""
    readers = out.open("readers")
    fcntl.flock(readers, fcntl.LOCK_SH)
    file = out.read(name)
    size = os.fstat(file).st_size
    with courier.client_takes():
        pipes.write_all(1, READER_RESULT + pipes.READER_HEAD.pack(size, offset))
    while offset < size:
        with courier.client_takes():
            sent = os.sendfile(1, file, offset, courier.CHUNK)
        if sent == 0:
            return 1
        offset += sent
    return 0
