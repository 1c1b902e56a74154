"""``python3 kubefunc.pyz PROGRAM``: which program to be. Each imports only what it needs."""

from __future__ import annotations

import os
import sys

from kubefunc.runner import IN_DIR, OUT_DIR, TERMINATION_LOG


def main() -> int:
    program, arguments = sys.argv[1], sys.argv[2:]
    in_dir = os.environ.get("KUBEFUNC_IN", IN_DIR)
    out_dir = os.environ.get("KUBEFUNC_OUT", OUT_DIR)
    if program == "main":
        from kubefunc.runner.supervisor import Place, supervise

        lifeline = os.environ.pop("KUBEFUNC_LIFELINE", None)
        place = Place(in_dir, out_dir, os.environ.get("KUBEFUNC_TERMINATION_LOG", TERMINATION_LOG))
        return supervise(place, None if lifeline is None else int(lifeline))
    from kubefunc.runner import courier

    if program == "courier":
        return courier.courier(in_dir, out_dir)
    if program == "reader":
        return courier.reader(out_dir, int(arguments[0]) if arguments else 0)
    if program == "uploader":
        return courier.uploader(out_dir)
    print(f"kubefunc: no program {program!r}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
