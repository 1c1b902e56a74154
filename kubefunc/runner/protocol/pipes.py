"""What the Pod's data port needs of the byte formats, without the imports of the others.

A reader starts while its client waits for it: each import counts there.
"""

from __future__ import annotations

import os
import struct

LENGTH = struct.Struct(">I")
READER_HEAD = struct.Struct(">QQ")
UPLOAD_HEAD = struct.Struct(">Q")


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write to a blocking descriptor until all is written."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]
