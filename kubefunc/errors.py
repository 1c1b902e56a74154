"""All errors that kubefunc raises.

::

    KubefuncError
      ConfigurationError             a wrong option, or a missing or broken kubeconfig; nothing was sent
        NestedCallError              .remote() inside a call
      SerializationError             a function, argument or return value cannot be pickled
        FileError                    a File cannot be sent: it is missing, unreadable, changed, or finds no room
        MissingModuleError           the Pod lacks a module that the function imports (an ImportError, too)
      ClusterError                   the cluster refused the request
        AuthenticationError          the cluster does not accept your credentials: log in again
        PermissionDeniedError        your user lacks a permission
        QuotaExceededError           the call asks for more than the namespace's quota can ever give
        AdmissionError               a rule of the cluster refused the Pod (Pod Security, webhook, validation)
        ClusterUnreachableError      the cluster's API server cannot be reached
      PodStartError                  the function did not start
        ImagePullError
        UnschedulableError
        PodConfigError               the Pod needs a Secret, ConfigMap or command that is missing
        PackageInstallError          ``packages=`` could not be installed
      PodFailedError                 the function ran, and its process or Pod died
        OutOfMemoryError
        WorkerDiedError              exit code or signal
        EvictedError
        PodLostError                 the Pod or its node is gone
          StreamLostError            the Pod of a generator function is gone, after values had come
        JobDeletedError              somebody deleted the Job
      CallTimeoutError               timeout= or deadline= is over (result(timeout=) raises the builtin TimeoutError)
      RemoteExitError                the function raised SystemExit, KeyboardInterrupt or GeneratorExit
      RemoteError                    a function with untrusted=True raised an exception: its type and text
      PortForwardError               a forwarded port leads nowhere: nothing listens, or the Pod has ended
      ResultError                    the function ran, but its result did not arrive
        ResultLostError
        ResultCorruptedError         length, checksum or signature is wrong
        PythonMismatchError          the image, or the program that attaches, has another Python or kubefunc
      PublishError                   the function returned, but publish= could not write its result

The function's own exceptions are raised unchanged, with a :class:`RemoteTraceback` at the end of their chain.
A function raises one that derives from :class:`DoNotRetry` if a further attempt cannot help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubefunc.diagnosis import Diagnosis


class KubefuncError(Exception):
    """The base of all errors below.

    Attributes:
        diagnosis: the content of the message as data, if the error belongs to a call.
    """

    diagnosis: Diagnosis | None

    def __init__(self, message: str, *, diagnosis: Diagnosis | None = None) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis


class ConfigurationError(KubefuncError):
    """An option is wrong, or the kubeconfig is missing or broken. Nothing was sent."""


class NestedCallError(ConfigurationError):
    """A call was made from inside a call whose Pod has no ``service_account``."""


class SerializationError(KubefuncError):
    """A function, argument or return value cannot be pickled. The message has the path to the object."""


class FileError(SerializationError):
    """A :class:`kubefunc.File` cannot be sent: it is missing, unreadable or no file, has changed, or finds no room."""


class MissingModuleError(SerializationError, ImportError):
    """The function imports a module that the place where it should run does not have.

    Attributes:
        name: the module.
    """

    name: str | None

    def __init__(self, message: str, *, name: str = "", diagnosis: Diagnosis | None = None) -> None:
        super().__init__(message, diagnosis=diagnosis)
        self.name = name


class ClusterError(KubefuncError):
    """The cluster refused the request."""


class AuthenticationError(ClusterError):
    """The cluster does not accept your credentials, or you have none: log in again."""


class PermissionDeniedError(ClusterError):
    """Your user lacks a permission. The message names it."""


class QuotaExceededError(ClusterError):
    """The call asks for more than the namespace's quota can ever give."""


class AdmissionError(ClusterError):
    """A rule of the cluster (Pod Security, a webhook, validation) refused the Job or its Pod."""


class ClusterUnreachableError(ClusterError):
    """The API server could not be reached."""


class PodStartError(KubefuncError):
    """The function did not start."""


class ImagePullError(PodStartError):
    """The image does not exist, or the registry refused it."""


class UnschedulableError(PodStartError):
    """No node took the Pod within ``schedule_timeout``."""


class PodConfigError(PodStartError):
    """The Pod needs something that is missing, or its container cannot be started."""


class PackageInstallError(PodStartError):
    """The packages of ``packages=`` could not be installed. The message has the installer's last lines."""


class PodFailedError(KubefuncError):
    """The function ran, and its process or Pod died."""


class OutOfMemoryError(PodFailedError):
    """The function used more memory than its limit and was killed."""


class WorkerDiedError(PodFailedError):
    """The function's process ended without a result.

    Attributes:
        exit_code: the process's exit code, or None if a signal killed it.
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
    """The Pod was evicted because it used more disk than its limit (emptyDir or ephemeral-storage)."""


class PodLostError(PodFailedError):
    """The Pod or its node was lost, more often than ``max_disruptions`` allows."""


class StreamLostError(PodLostError):
    """The Pod of a generator function was lost after values had come. It is not run again: no value comes twice.

    Attributes:
        values: how many values have come. They are valid.
    """

    def __init__(self, message: str, *, values: int = 0, diagnosis: Diagnosis | None = None) -> None:
        super().__init__(message, diagnosis=diagnosis)
        self.values = values


class JobDeletedError(PodFailedError):
    """Somebody deleted the Job."""


class CallTimeoutError(KubefuncError):
    """The function's ``timeout`` or the Job's ``deadline`` is over. The message says which, and shows the stacks."""


class RemoteExitError(KubefuncError):
    """The function raised an exception that would end the caller's process, such as SystemExit.

    Attributes:
        exit_code: the argument of ``sys.exit``, if it was an integer. (For Python, None means 0.)
    """

    def __init__(self, message: str, *, exit_code: int | None = None, diagnosis: Diagnosis | None = None) -> None:
        super().__init__(message, diagnosis=diagnosis)
        self.exit_code = exit_code


class RemoteError(KubefuncError):
    """A function with ``untrusted=True`` raised an exception, which arrives as text.

    Attributes:
        type_name: module and name of the exception's class, as the function says.
        text: the exception's text.
        traceback: the traceback from the Pod.
    """

    def __init__(
        self,
        message: str,
        *,
        type_name: str = "",
        text: str = "",
        traceback: str = "",
        diagnosis: Diagnosis | None = None,
    ) -> None:
        super().__init__(message, diagnosis=diagnosis)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback


class PortForwardError(KubefuncError):
    """A port that ``forward`` opened leads nowhere: nothing listens there, or the Pod has ended."""


class ResultError(KubefuncError):
    """The function ran, but its result did not arrive."""


class ResultLostError(ResultError):
    """The result is gone. The message says when and why."""


class ResultCorruptedError(ResultError):
    """The result's length, checksum or signature is wrong. Nothing was unpickled."""


class PythonMismatchError(ResultError):
    """The image, or the program that attaches, has another minor version of Python, or another kubefunc.

    Pickled code does not work across minor versions.
    """


class DoNotRetry(Exception):
    """A base for exceptions of your own that are never tried again, whatever ``retries`` and ``retry_exceptions`` say.

    Raise it directly, derive your own exceptions from it, or raise any exception ``from`` one:
    ``raise ValueError("no such station") from DoNotRetry()``.
    """


class PublishError(KubefuncError):
    """The function returned, but its result could not be written to where ``publish=`` says.

    Attributes:
        value: what the function returned.
    """

    def __init__(self, message: str, *, value: object = None, diagnosis: Diagnosis | None = None) -> None:
        super().__init__(message, diagnosis=diagnosis)
        self.value = value


class RemoteTraceback(Exception):
    """The traceback from the Pod, as text. It is the last cause in the exception's chain."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"
