"""``python3 kubefunc.pyz PROGRAM``: which program to be. Each imports only what it needs."""

from __future__ import annotations

import os
import sys

from kubefunc.runner import IN_DIR, OUT_DIR, TERMINATION_LOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # what ``signal`` adds to it are names for numbers, for which it loads 4 ms of ``enum``


def main() -> int:
    program, arguments = sys.argv[1], sys.argv[2:]
    if program in ("main", "courier"):
        _hold_sigterm()
    in_dir = os.environ.get("KUBEFUNC_IN", IN_DIR)
    out_dir = os.environ.get("KUBEFUNC_OUT", OUT_DIR)
    if program == "main":
        from kubefunc.runner.pod.supervisor import supervise

        return supervise(in_dir, out_dir, os.environ.get("KUBEFUNC_TERMINATION_LOG", TERMINATION_LOG))
    if program == "server":
        from kubefunc.runner.local.server import serve

        serve(arguments)
    if program == "oneshot":
        from kubefunc.runner.local.oneshot import run_one

        return run_one(arguments)
    return _data_port(program, arguments, in_dir, out_dir)


def _hold_sigterm() -> None:
    """Let SIGTERM wait until there is a handler for it, while this program is still being loaded.

    The kernel drops a signal that a container's first process neither handles nor blocks, and the Pod would live on
    until its grace period is over. Taken back where the handlers are set.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))


def _data_port(program: str, arguments: list[str], in_dir: str, out_dir: str) -> int:
    if program == "sharer":
        from kubefunc.runner.pod import sharing

        return sharing.ask(out_dir, arguments[0])
    if program == "streamer":
        from kubefunc.runner.pod import streamer

        return streamer.streamer(out_dir, int(arguments[0]))
    from kubefunc.runner.pod import courier

    if program in ("uploader", "receiver", "sender"):
        return _transfer(program, arguments, out_dir)
    if program == "courier":
        return courier.courier(in_dir, out_dir, os.environ.get("KUBEFUNC_TERMINATION_LOG", TERMINATION_LOG))
    if program == "reader":
        return courier.reader(out_dir, int(arguments[0]) if arguments else 0)
    if program == "follower":
        return courier.follower(out_dir, int(arguments[0]))
    print(f"kubefunc: no program {program!r}", file=sys.stderr)
    return 2


def _transfer(program: str, arguments: list[str], out_dir: str) -> int:
    from kubefunc.runner.pod import transfers
    from kubefunc.runner.pod.courier import Out

    if program == "uploader":
        return transfers.upload(Out(out_dir), arguments[0] if arguments else "payload")
    if program == "receiver":
        return transfers.receive(Out(out_dir), arguments[0])
    return transfers.send(Out(out_dir), arguments[0], int(arguments[1]))


if __name__ == "__main__":
    sys.exit(main())
