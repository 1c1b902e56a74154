"""Files into a Pod and out of it: the runner's programs as processes, and the client's side over real sockets."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubefunc import File
from kubefunc.backends.kubernetes.api.exec_errors import StreamCut, TransportError
from kubefunc.backends.kubernetes.api.file_transfer import FileRefused, send_file
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.api.transfer import ResultStream
from kubefunc.backends.kubernetes.attempts.file_receipt import FileReceipts, NotStoredHere
from kubefunc.errors import FileError
from kubefunc.packing.payload import Packer
from kubefunc.reading.unpickling import loads
from kubefunc.runner import CODE_UPLOAD, TERMINATION_FILES
from kubefunc.runner.protocol import pipes
from tests.local.api_server import Gone, Handler, Peer, Request, Server
from tests.local.pod import Pod, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Pods are Linux")

NOISE = os.urandom(3_000_000)


def returns_a_file() -> dict[str, File]:
    """A file that the function has written."""
    path = Path(os.environ["TMPDIR"], "model.bin")
    path.write_bytes(b"weights")
    return {"model": File(path)}


def seven() -> int:
    """A small value."""
    return 7


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    """A Pod of a function that returns a file."""
    return Pod(tmp_path, returns_a_file, seals_files=True, result_ttl=60)


def brought(content: bytes, have: int = 0) -> bytes:
    """What a client says to a receiver that has so much."""
    return pipes.UPLOAD_HEAD.pack(len(content)) + content[have:] + hashlib.sha256(content).digest()


# --- the programs of the Pod


@pytest.mark.parametrize("content", [b"", b"x", NOISE])
def test_a_file_is_received(pod: Pod, content: bytes) -> None:
    """Whole, and under its name only when it is."""
    code, said = pod.run("receiver", "file.0", given=brought(content))
    assert (code, said) == (0, pipes.UPLOAD_HEAD.pack(0) + b".K")
    assert (pod.out_dir / "file.0").read_bytes() == content
    assert not pod.has("file.0.part")
    code, said = pod.run("receiver", "file.0", given=brought(content, len(content)))
    assert said == pipes.UPLOAD_HEAD.pack(len(content)) + b".K", "a second time, nothing of it travels"


def test_a_file_that_was_cut_is_received_from_there_on(pod: Pod) -> None:
    """The next stream brings the rest alone."""
    code, said = pod.run("receiver", "file.0", given=brought(NOISE)[: 8 + 1_000_000])
    assert (code, said) == (1, pipes.UPLOAD_HEAD.pack(0) + b".")
    assert not pod.has("file.0")
    code, said = pod.run("receiver", "file.0", given=brought(NOISE, 1_000_000))
    assert (code, said) == (0, pipes.UPLOAD_HEAD.pack(1_000_000) + b".K")
    assert (pod.out_dir / "file.0").read_bytes() == NOISE


def test_a_receiver_waits_for_the_one_before(pod: Pod) -> None:
    """Two clients' streams, or a stream that does not know yet that it was cut: one writes at a time."""
    first = pod.start("receiver", "file.0")
    assert first.stdin
    assert first.stdout
    first.stdout.read(8)
    first.stdin.write(brought(NOISE)[:1_000_008])
    until(lambda: (pod.out_dir / "file.0.part").stat().st_size == 1_000_000, "the first part")
    with pod.start("receiver", "file.0") as second:
        assert second.stdin
        assert second.stdout
        time.sleep(0.2)
        first.stdin.close()
        assert first.wait(30) == 1
        assert second.stdout.read(8) == pipes.UPLOAD_HEAD.pack(1_000_000)
        second.stdin.write(brought(NOISE, 1_000_000))
        assert second.stdout.read(1) == b"."
        assert second.stdout.read(1) == b"K"
    first.stdout.close()


def test_other_bytes_than_were_sent_do_not_count(pod: Pod) -> None:
    """The digest of what came is compared with the client's; the next stream begins anew."""
    code, said = pod.run("receiver", "file.0", given=brought(NOISE)[:-1] + b"!")
    assert (code, said) == (0, pipes.UPLOAD_HEAD.pack(0) + b".N")
    assert not pod.has("file.0")
    assert (pod.out_dir / "file.0.part").stat().st_size == 0


def test_a_volume_without_room_is_told_in_words(pod: Pod) -> None:
    """And what was written is given back."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 20}, {1 << 20})); "
    program = limited + "import sys; from kubefunc.runner.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "receiver", "file.0"],
        env=pod.environ,
        input=brought(NOISE),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stdout[8:] == b".X" + pipes.LENGTH.pack(14) + b"File too large"
    assert (pod.out_dir / "file.0.part").stat().st_size == 0


def test_a_returned_file_is_kept_until_the_client_has_it(pod: Pod) -> None:
    """It stands beside the result, whose header has its digest; neither status nor log take such a result."""
    with pod.start("courier") as courier:
        assert pod.run("main")[0] == 0
        assert pod.result().header["files"] == [[7, hashlib.sha256(b"weights").hexdigest()]]
        assert pod.message.read_text().endswith(TERMINATION_FILES)
        _, said = pod.run("sender", "body.file.0", "0")
        assert said == b"R" + pipes.READER_HEAD.pack(7, 0) + b"weights"
        _, said = pod.run("sender", "body.file.0", "5")
        assert said == b"R" + pipes.READER_HEAD.pack(7, 5) + b"ts"
        with pod.start("reader", "0") as reader:
            assert reader.stdin
            assert reader.stdout
            left = pipes.READER_HEAD.size + 1 + (pod.out_dir / "result").stat().st_size
            while left:
                left -= len(reader.stdout.read(left) or b"")
            reader.stdin.write(b"A")
        assert courier.wait(30) == 0, "acknowledged, its Pod ends"
        assert courier.stdout
        assert courier.stdout.read() == b""


def test_a_function_waits_for_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees each under the name that it has at home. The wait is not part of its timeout."""
    (tmp_path / "data.csv").write_bytes(b"1,2\n")

    def read(file: File) -> tuple[str, bytes]:
        return file.name, file.path.read_bytes()

    pod = Pod(tmp_path, seven, timeout=5, pull_allowance=30)
    pod.write("payload", Packer.for_cluster().pack(read, (File(tmp_path / "data.csv"),)).data)
    with pod.start("main") as main:
        time.sleep(0.3)
        assert not pod.has("result")
        pod.run("receiver", "file.0", given=brought(b"1,2\n"))
        assert main.wait(30) == 0
    assert loads(pod.result().body) == ("data.csv", b"1,2\n")


def test_a_file_that_never_comes(tmp_path: Path) -> None:
    """The caller's program may have ended: the call does not wait for it without end."""
    (tmp_path / "data.csv").write_bytes(b"1,2\n")
    pod = Pod(tmp_path, seven, pull_allowance=0.2)
    pod.write("payload", Packer.for_cluster().pack(str, (File(tmp_path / "data.csv"),)).data)
    pod.run("main")
    header = pod.result().header
    assert (header["code"], header["detail"]) == (CODE_UPLOAD, {"waited": 0.2, "file": "data.csv"})


# --- the client's side


def run_in(pod: Pod, cuts: list[int]) -> Handler:
    """Runs the command of an exec as a process of this Pod. Each of ``cuts`` ends a stream after so many bytes, of
    those that the client sends to a receiver or a sender says."""

    def handle(request: Request, peer: Peer) -> None:
        command = [value for name, value in request.query if name == "command"]
        peer.upgrade(request)
        left = [cuts.pop(0) if cuts else 1 << 40]
        with pod.start(*command) as process:
            assert process.stdin
            assert process.stdout
            writer = threading.Thread(target=_copy_stdin, args=(peer, process, left, command[0] == "receiver"))
            writer.start()
            while data := os.read(process.stdout.fileno(), 1 << 16):
                if command[0] == "sender":
                    data, left[0] = data[: left[0]], left[0] - len(data)
                peer.data(1, data)
                if left[0] <= 0:
                    process.kill()
                    break
            code = process.wait()
            if left[0] > 0 and code == 0:
                peer.status(status="Success")
            peer.cut()
            writer.join()

    return handle


def _copy_stdin(peer: Peer, process: subprocess.Popen[bytes], left: list[int], counts: bool) -> None:
    assert process.stdin
    try:
        while True:
            opcode, payload = peer.receive()
            if opcode == 2 and payload[:1] == b"\0":
                data = payload[1:]
                if counts:
                    data, left[0] = data[: max(0, left[0])], left[0] - len(data)
                process.stdin.write(data)
                if left[0] <= 0:
                    break
    except (Gone, OSError, ValueError):  # the other side has gone
        pass
    process.stdin.close()


def sent_until_done(api: Api, path: Path, check: Callable[[os.stat_result], None] = lambda _: None) -> int:
    """Send as uploads do; how many streams it took."""
    for number in range(1, 10):
        try:
            send_file(api, "team", "pod-1", ["receiver", "file.0"], str(path), check)
        except FileRefused:
            raise
        except TransportError:
            continue
        return number
    pytest.fail("not in nine streams")


@pytest.mark.parametrize("cuts", [[], [1], [700_000, 1_200_000], [3_000_008]])
def test_an_upload_goes_on_where_it_was_cut(
    pod: Pod, connect: Callable[[Server], Api], tmp_path: Path, cuts: list[int]
) -> None:
    """Real receiver, real sockets: cut anywhere, the file is there whole in the end."""
    (tmp_path / "data").write_bytes(NOISE)
    streams = len(cuts) + 1
    with Server(run_in(pod, list(cuts))) as server:
        assert sent_until_done(connect(server), tmp_path / "data") == streams
    assert (pod.out_dir / "file.0").read_bytes() == NOISE


def test_a_pod_without_room_is_told_at_once(pod: Pod, connect: Callable[[Server], Api], tmp_path: Path) -> None:
    """Before any of it is sent: this file has more bytes than any disk."""
    with (tmp_path / "data").open("wb") as file:
        file.truncate(1 << 43)
    with Server(run_in(pod, [])) as server, pytest.raises(FileRefused, match="No space left on device"):
        sent_until_done(connect(server), tmp_path / "data")


def test_a_file_that_changes_while_it_is_sent(pod: Pod, connect: Callable[[Server], Api], tmp_path: Path) -> None:
    """Noticed when all of it was read: what the Pod has by then does not count."""
    (tmp_path / "data").write_bytes(NOISE)
    (sent,) = Packer.for_cluster().pack(seven, (File(tmp_path / "data"),)).files
    calls: list[os.stat_result] = []

    def check(status: os.stat_result) -> None:
        if calls:
            os.utime(tmp_path / "data", ns=(1, 1))
            status = os.stat(tmp_path / "data")
        calls.append(status)
        sent.check(status)

    with Server(run_in(pod, [])) as server, pytest.raises(FileError, match="has changed"):
        sent_until_done(connect(server), tmp_path / "data", check)
    assert not pod.has("file.0")


def fetch(api: Api, receipts: FileReceipts, listed: Any) -> Any:
    """Fetch as receipts do."""

    def open_sender(name: str, offset: int) -> ResultStream:
        return ResultStream(api, "team", "pod-1", ["sender", name, str(offset)])

    return receipts.fetch({"files": listed}, "body", open_sender)


def test_a_download_goes_on_where_it_was_cut(pod: Pod, connect: Callable[[Server], Api]) -> None:
    """Two files, one of them empty; what has come is kept."""
    (pod.out_dir / "body.file.0").write_bytes(NOISE)
    (pod.out_dir / "body.file.1").write_bytes(b"")
    listed = [[len(each), hashlib.sha256(each).hexdigest()] for each in (NOISE, b"")]
    receipts = FileReceipts("f-abc")
    with Server(run_in(pod, [1_000_000, 9, 500_000])) as server:
        api = connect(server)
        for _ in range(3):
            with pytest.raises(StreamCut):
                fetch(api, receipts, listed)
        landing = fetch(api, receipts, listed)
        offsets = [int(dict(request.query)["command"]) for request in server.requests]
    assert offsets == [0, 1_000_000 - 17, 1_000_000 - 17, 1_500_000 - 34, 0]
    assert receipts.received == len(NOISE)
    assert Path(landing.locate(0, "noise")).read_bytes() == NOISE
    assert landing.locate(1, "nothing").size == 0


def test_a_download_of_other_bytes(pod: Pod, connect: Callable[[Server], Api]) -> None:
    """The function, or another process that may write there, has changed the file: a damaged result."""
    from kubefunc.errors import ResultCorruptedError

    (pod.out_dir / "body.file.0").write_bytes(b"abc")
    with Server(run_in(pod, [])) as server, pytest.raises(ResultCorruptedError, match="sha256"):
        fetch(connect(server), FileReceipts("f-abc"), [[3, "0" * 64]])


def test_a_disk_without_room_for_a_download(
    pod: Pod, connect: Callable[[Server], Api], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Told as that, not as a fault of the cluster."""
    (pod.out_dir / "body.file.0").write_bytes(NOISE)
    with Server(run_in(pod, [])) as server:
        api = connect(server)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            with pytest.raises(NotStoredHere, match="File too large"):
                fetch(api, FileReceipts("f-abc"), [[len(NOISE), hashlib.sha256(NOISE).hexdigest()]])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
