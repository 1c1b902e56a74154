"""Errors that travelled as codes: what each of them means, and what to do. Nothing is unpickled."""

from __future__ import annotations

import os
import re
import signal as signals
import sys
from collections.abc import Mapping
from typing import Any

from kubefunc import errors
from kubefunc.diagnosis import Diagnosis
from kubefunc.reading.exceptions import completed
from kubefunc.runner import (
    CODE_DIED,
    CODE_EXIT,
    CODE_FAULT,
    CODE_LOAD,
    CODE_NOT_JSON,
    CODE_OOM,
    CODE_PACKAGES,
    CODE_PYTHON,
    CODE_STORAGE,
    CODE_TIMEOUT,
    CODE_UNPICKLABLE,
    CODE_UPLOAD,
    EXIT_BROKEN,
    OUT_DIR,
)
from kubefunc.runner.execution import causes


def error_of(header: Mapping[str, Any], diagnosis: Diagnosis) -> errors.KubefuncError:
    """The error that travelled as this code and detail. Nothing is unpickled."""
    return _ERRORS[header["code"]](header["detail"], diagnosis)


def _python(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    told = completed(
        known,
        "PythonMismatch",
        f"The function was pickled by Python {detail['there']}, but its image has Python {detail['here']}: "
        "pickled code does not work across minor versions.",
        f"Use an image with Python {detail['there']} (image='python:{detail['there']}-slim'), "
        f"or run this program with Python {detail['here']}.",
    )
    return errors.PythonMismatchError(str(told), diagnosis=told)


def _load(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    cause = detail.get("cause") or "the cause is shown above"
    message = f"The function could not be loaded in the place where it should run: {cause}."
    advice = how_to_have(detail, known) or "Compare the versions of the packages here and in the image."
    if causes.MODULE in detail:
        told = completed(known, "MissingModule", message, advice)
        return errors.MissingModuleError(str(told), name=str(detail[causes.MODULE]), diagnosis=told)
    told = completed(known, "LoadFailed", message, advice)
    return errors.SerializationError(str(told), diagnosis=told)


def how_to_have(missing: Mapping[str, Any], known: Diagnosis) -> str:
    """What helps against the lack of this in a Pod; nothing where it is not that."""
    if known.namespace is None and known.pod is None:  # a process of this machine has what is here
        return ""
    if causes.MODULE in missing:
        from kubefunc.packing.packages.missing import distribution_for  # only when it is needed

        package = distribution_for(str(missing[causes.MODULE]))
        return (
            f"Let the Pod install it, packages=[{package!r}], or use an image that has it, image=... Your own code is "
            "sent automatically if it is outside site-packages."
        )
    if causes.VARIABLE in missing:
        name = missing[causes.VARIABLE]
        return (
            f"Your environment variables are not sent. Pass this one, env={{{name!r}: ...}}, or read it inside the "
            "function and not while its module is imported."
        )
    if causes.FILE in missing:
        return (
            f"{missing[causes.FILE]!r} is not in the Pod: only files inside your own packages are sent. Put it there, "
            "pass its content as an argument, or mount a volume (pod_template=...)."
        )
    return ""


def _unpicklable(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    if detail.get("file"):
        return _file_not_returned(detail, known)
    told = completed(
        known,
        "ResultUnpicklable",
        f"The function returned a value that cannot be pickled: {detail['path']} is a {detail['type']} "
        f"({detail['message']}).",
        "Return plain data: read the file, fetch the rows, or turn the generator into a list first.",
    )
    return errors.SerializationError(str(told), diagnosis=told)


_RETURN_A_FILE = (
    "Return a file that the function has written and closed. Pack a folder into one file first, for example with "
    "shutil.make_archive()."
)
_YIELD_NO_FILE = "Yield what is in the file, or return files from a function that is no generator."


def _file_not_returned(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    told = completed(
        known,
        "FileNotReturned",
        f"The function returned a file that cannot be sent: {detail['path']} is File({detail['file']!r}) "
        f"({detail['message']}).",
        _YIELD_NO_FILE if str(detail["path"]).startswith("value ") else _RETURN_A_FILE,
    )
    return errors.FileError(str(told), diagnosis=told)


def _not_json(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    told = completed(
        known,
        "ResultNotJson",
        f"The function returned a value that cannot travel as JSON: {detail['path']} is of type {detail['type']} "
        f"({detail['message']}).",
        "With untrusted=True a function returns numbers, text, True, False, None, and lists and dicts of these (keys "
        "are text). Convert the value in the function, or write it to a volume.",
    )
    return errors.SerializationError(str(told), diagnosis=told)


def _exit(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    said = detail.get("text") or detail["exit_code"]
    told = completed(
        known,
        "Exit",
        f"The function raised {detail['type']}({'' if said is None else repr(said)}) instead of returning.",
        "Return a value or raise an ordinary exception: sys.exit() and similar end a process, not a function.",
    )
    return errors.RemoteExitError(str(told), exit_code=detail["exit_code"], diagnosis=told)


def _timeout(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    stacks = own_frames(str(detail.get("stacks") or ""))
    message = f"The function ran longer than its timeout of {detail['timeout']:g} s and was stopped."
    told = completed(known, "Timeout", message, "Raise timeout=, or look at the stacks below to see what it was doing.")
    return errors.CallTimeoutError(str(told) + (f"\n\n{stacks}" if stacks else ""), diagnosis=told)


_RUNNER_FRAME = re.compile(r'^  File "(?:[^"]*/)?kubefunc\.pyz/|^  File "<frozen runpy>"')


def own_frames(stacks: str) -> str:
    """The stacks of all threads as the faulthandler wrote them, without the runner's frames below the function's."""
    lines = stacks.splitlines()
    kept = (line for line in lines if not _RUNNER_FRAME.match(line) and not line.startswith("Timeout ("))
    return "\n".join(kept).strip()


def _died(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    number, exit_code = detail.get("signal"), detail.get("exit_code")
    if number is not None:
        how = f"was killed by signal {number} ({signal_name(number)})"
        advice = "The last output may show where. A crash in a C extension prints its stack there."
    elif exit_code == EXIT_BROKEN:
        how = f"ended with exit code {exit_code} without returning"
        advice = "If the output ends in a traceback of kubefunc, this is a bug in kubefunc: please report it."
    else:
        how = f"ended itself with exit code {exit_code} without returning"
        advice = "Look for os._exit() or a library that ends the process."
    told = completed(known, "WorkerDied", f"The function's process {how}.", advice, exit_code=exit_code, signal=number)
    return errors.WorkerDiedError(str(told), exit_code=exit_code, signal=number, diagnosis=told)


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return "unknown"


def _out_of_memory(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    limit = detail.get("limit")
    size = f" of {limit / 2**20:,.0f} MiB" if limit else ""
    told = completed(
        known,
        "OOMKilled",
        f"The function used more memory than its limit{size}, and the kernel killed it.",
        'Raise memory=, or let retries raise it: retries=3, memory=("1Gi", "8Gi").',
        signal=9,
    )
    return errors.OutOfMemoryError(str(told), diagnosis=told)


def _upload(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    what = f"The file {detail['file']!r} of the arguments" if detail.get("file") else "The arguments"
    why = "Files are never in a Secret" if detail.get("file") else "They are too large for a Secret"
    told = completed(
        known,
        "UploadMissing",
        f"{what} did not arrive in the Pod within {detail['waited']:g} s. ({why}, so your program sends them to the "
        "running Pod.)",
        "Keep your program running until the Pod has started, or put the data on a volume and pass its path.",
    )
    return errors.PodConfigError(str(told), diagnosis=told)


def _fault(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    told = completed(
        known,
        "RunnerFault",
        f"kubefunc itself failed in the function's process and could not send the result: {detail['error']}.",
        "If the Pod's memory is full, give the call more: memory=. Otherwise this is a bug in kubefunc: please report "
        "it with the traceback above.",
    )
    error = errors.ResultLostError(str(told), diagnosis=told)
    error.__cause__ = errors.RemoteTraceback(str(detail["traceback"]))
    return error


def _storage(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    path = str(detail["path"])
    what = {
        "full": f"the file system of {path} is full",
        "removed": f"the folder {os.path.dirname(path)} was removed while the function ran",
        "limited": f"{path} would exceed this process's limit for the size of a file",
    }.get(detail["kind"], f"{path} cannot be written")
    told = completed(
        known,
        "ResultNotStored",
        f"The function ended, but its result or exception is lost: {what} ({detail['message']}).",
        _room_for(path, str(detail["kind"])),
    )
    return errors.ResultLostError(str(told), diagnosis=told)


def _room_for(path: str, kind: str) -> str:
    if kind == "limited":
        return "Raise the limit (RLIMIT_FSIZE, `ulimit -f`). The function, or what started this program, has set it."
    if kind == "removed":
        return "Do not delete the folders kubefunc-* in the temporary directory while their program runs."
    if path.startswith(OUT_DIR):
        return "Write less to disk, or request ephemeral-storage in pod_template= to get a node with room."
    if kind == "full":
        return "Free some space there, or set TMPDIR to a directory that has room before you start the program."
    return "Set TMPDIR to a directory that works and that you may write to before you start the program."


def _packages(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    from kubefunc.packing.packages.failures import failure  # only when it is needed

    found = failure(detail, "{}.{}".format(*sys.version_info))
    told = completed(known, found.reason, found.message, found.advice, log_tail=found.output)
    return errors.PackageInstallError(str(told), diagnosis=told)


_ERRORS = {
    CODE_PACKAGES: _packages,
    CODE_STORAGE: _storage,
    CODE_PYTHON: _python,
    CODE_LOAD: _load,
    CODE_UNPICKLABLE: _unpicklable,
    CODE_EXIT: _exit,
    CODE_TIMEOUT: _timeout,
    CODE_DIED: _died,
    CODE_OOM: _out_of_memory,
    CODE_NOT_JSON: _not_json,
    CODE_UPLOAD: _upload,
    CODE_FAULT: _fault,
}
