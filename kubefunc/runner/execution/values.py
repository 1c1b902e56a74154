"""What a function returned or raised, as an outcome: pickled, with the files that it returned beside the pickle."""

from __future__ import annotations

import pickle
import sys

from kubefunc.runner import CODE_UNPICKLABLE, ERROR, RAISED, VALUE
from kubefunc.runner.execution import exceptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from kubefunc.runner.execution.files import Returned
    from kubefunc.runner.execution.reports import Body, Form, NewBody, Outcome


def _value(value: object, new_body: NewBody) -> Outcome:
    return _value_with(_files("keep_here"), value, new_body)


def _sealed_value(value: object, new_body: NewBody) -> Outcome:
    return _value_with(_files("keep_sealed"), value, new_body)


def _yielded_value(value: object, new_body: NewBody) -> Outcome:
    return _value_with(_files("refuse_yielded"), value, new_body)


def _files(keep: str) -> Returned | None:
    """Takes the files in a value, which is kept in this way; None where the function cannot have one."""
    if "kubefunc.runner.protocol.file" not in sys.modules:
        return None
    from kubefunc.runner.execution import files

    return files.Returned(getattr(files, keep))


def _value_with(files: Returned | None, value: object, new_body: NewBody) -> Outcome:
    try:
        body = _dump(value, new_body, files)
    except Exception as error:
        return _unpicklable(value, error, new_body, dumps if files is None else files.dumps)
    kept = {"files": files.kept} if files is not None and files.kept else {}
    return {"outcome": VALUE, **body.seal, **kept}, body


def _unpicklable(value: object, error: Exception, new_body: NewBody, pickled: Callable[[object], bytes]) -> Outcome:
    from kubefunc.runner.execution.culprit import find_unpicklable

    try:
        where, culprit, cause = find_unpicklable(value, "result", pickled)
    except ValueError:  # it pickles now: what failed was not the value's own fault, or has passed
        where, culprit, cause = "result", value, error
    detail = {
        "path": where,
        "type": exceptions.type_name(type(culprit)),
        "message": exceptions.text_of(cause),
        "file": getattr(cause, "file", None),
    }
    header, body = _raised(error, new_body)
    return {**header, "outcome": ERROR, "code": CODE_UNPICKLABLE, "detail": detail}, body


def _dump(value: object, new_body: NewBody, files: Returned | None) -> Body:
    """Pickle it. C's pickle first, it is faster; cloudpickle for what only that can."""
    try:
        return _dump_with(pickle.Pickler, value, new_body, files)
    except Exception:
        from kubefunc.runner.execution.pickling import Pickler

        return _dump_with(Pickler, value, new_body, files)


def _dump_with(kind: Any, value: object, new_body: NewBody, files: Returned | None) -> Body:
    body = new_body()
    pickler = kind(body, protocol=5) if files is None else files.pickler(kind, body)
    try:
        pickler.dump(value)
    except BaseException:
        body.discard()
        raise
    return body


def dumps(value: object) -> bytes:
    from kubefunc.runner.execution.pickling import dumps as pickled

    return pickled(value)


def _raised(error: BaseException, new_body: NewBody) -> Outcome:
    text = exceptions.traceback_text(error)
    try:
        nodes, pickles = exceptions.encode(error, dumps)
    except BaseException:  # a class that not even BaseException's own fields can be read of
        nodes, pickles = exceptions.encode_text(error), b""
    body = new_body()
    body.write(pickles)
    return {"outcome": RAISED, "nodes": nodes, "traceback": text, **body.seal}, body


PICKLED: Form = (_value, _raised)
SEALED: Form = (_sealed_value, _raised)


def of_stream(form: Form) -> Callable[[Any, NewBody], Outcome]:
    """How the values of a generator function travel: nobody would fetch a file beside one of them."""
    return _yielded_value if form in (PICKLED, SEALED) else form[0]
