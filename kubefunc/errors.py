"""Every error that kubefunc raises of its own accord.

::

    KubefuncError
      ConfigurationError             a bad option, no or a broken kubeconfig; raised before anything is sent
        NestedCallError              .remote() inside a call
      SerializationError             a function, argument or return value cannot be pickled
      ClusterError                   the cluster said no
        AuthenticationError          your credentials are not accepted: log in again
        PermissionDeniedError        403: a verb on a resource that the Role lacks
        QuotaExceededError           more is asked for than the quota can ever give
        AdmissionError               Pod Security, a webhook or validation refused the Pod
        ClusterUnreachableError      the API server cannot be reached at all
      PodStartError                  the function never ran
        ImagePullError
        UnschedulableError
        PodConfigError               a Secret, ConfigMap or command that the Pod names is not there
      PodFailedError                 it ran and died
        OutOfMemoryError
        WorkerDiedError              exit code or signal
        EvictedError
        PodLostError                 the node is gone, or the Pod with it
        JobDeletedError              deleted by someone else
      CallTimeoutError               a clock of the call ran out (result(timeout=) raises the builtin TimeoutError)
      RemoteExitError                the function raised SystemExit, KeyboardInterrupt, GeneratorExit ...
      ResultError                    it ran, but its result is not here
        ResultLostError
        ResultCorruptedError         length, sha256 or HMAC is wrong
        PythonMismatchError          another minor version of Python in the image, or in the program that attaches

The function's own exceptions are raised as themselves, with a :class:`RemoteTraceback` at the end of their chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubefunc.diagnosis import Diagnosis


class KubefuncError(Exception):
    """The base of all errors below.

    Attributes:
        diagnosis: the same as the message, as data, where a call was under way.
    """

    diagnosis: Diagnosis | None

    def __init__(self, message: str, *, diagnosis: Diagnosis | None = None) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis


class ConfigurationError(KubefuncError):
    """A bad option, or a kubeconfig that is missing or broken. Nothing was sent."""


class NestedCallError(ConfigurationError):
    """A remote call was made from inside a remote call whose Pod has no ``service_account``."""


class SerializationError(KubefuncError):
    """A function, an argument or a return value cannot be pickled; the message has the path to the culprit."""


class ClusterError(KubefuncError):
    """The cluster refused the request."""


class AuthenticationError(ClusterError):
    """The cluster does not accept your credentials, or there are none: log in again."""


class PermissionDeniedError(ClusterError):
    """The credentials lack a permission; the message names verb and resource."""


class QuotaExceededError(ClusterError):
    """The namespace's quota can never give what is asked for."""


class AdmissionError(ClusterError):
    """Pod Security, a webhook or validation refused the Job or its Pod."""


class ClusterUnreachableError(ClusterError):
    """The API server could not be reached."""


class PodStartError(KubefuncError):
    """The function never ran."""


class ImagePullError(PodStartError):
    """The image does not exist, or the registry refused it."""


class UnschedulableError(PodStartError):
    """No node took the Pod within ``schedule_timeout``."""


class PodConfigError(PodStartError):
    """Something that the Pod names is not there, or its container cannot be started."""


class PodFailedError(KubefuncError):
    """The function ran and its process or Pod died."""


class OutOfMemoryError(PodFailedError):
    """The kernel killed the function for using more than its memory limit."""


class WorkerDiedError(PodFailedError):
    """The function's process ended by itself, with an exit code or by a signal.

    Attributes:
        exit_code: the process's exit code, or None when a signal ended it.
        signal: the signal's number, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        diagnosis: Diagnosis | None = None,
    ) -> None:
        super().__init__(message, diagnosis=diagnosis)
        self.exit_code = exit_code
        self.signal = signal


class EvictedError(PodFailedError):
    """The kubelet evicted the Pod for what it used itself (an emptyDir or ephemeral-storage limit)."""


class PodLostError(PodFailedError):
    """The Pod or its node vanished, more often than ``max_disruptions`` allows."""


class JobDeletedError(PodFailedError):
    """Someone else deleted the Job."""


class CallTimeoutError(KubefuncError):
    """The function's ``timeout`` or the Job's ``deadline`` ran out; the message says which and shows the stacks."""


class RemoteExitError(KubefuncError):
    """The function raised an exception that would end the caller's process, such as SystemExit.

    Attributes:
        exit_code: what was given to ``sys.exit``, where it was an integer (None means 0 to Python).
    """

    def __init__(self, message: str, *, exit_code: int | None = None, diagnosis: Diagnosis | None = None) -> None:
        super().__init__(message, diagnosis=diagnosis)
        self.exit_code = exit_code


class ResultError(KubefuncError):
    """The function ran, but its result did not arrive."""


class ResultLostError(ResultError):
    """The result is gone; the message says when and why."""


class ResultCorruptedError(ResultError):
    """The result's length, sha256 or HMAC is wrong. Nothing was unpickled."""


class PythonMismatchError(ResultError):
    """The image, or the program that attaches, has another minor version of Python: pickled code cannot cross."""


class RemoteTraceback(Exception):
    """The text of a traceback from the other side, hung below the exception that it belongs to."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"
