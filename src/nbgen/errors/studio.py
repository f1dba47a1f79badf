"""Errors of a studio, of its data folder and of servers."""

from __future__ import annotations

from nbgen.errors.base import NbgenError


class PackageMissing(NbgenError, ImportError):
    """A package that this needs is not installed."""

    code = "package_missing"

    def __init__(self, package: str | None, extra: str) -> None:
        super().__init__(
            f"This needs the package {package}, which is not installed. Install what "
            f"belongs to it with: pip install 'nbgen[{extra}]'"
        )


class DataFolderUnusable(NbgenError):
    """The folder or the database for tasks and pictures cannot be read or written.

    Attributes:
        reason: What is wrong, without what was lost by it and what to do next.
    """

    code = "data_folder_unusable"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = message if reason is None else reason


class ForeignPictures(NbgenError):
    """Another database may refer to the pictures, so none is removed."""

    code = "foreign_pictures"


class BackupElsewhere(NbgenError):
    """The database or the pictures lie where other programs have to copy them."""

    code = "backup_elsewhere"


class QueueFull(NbgenError):
    """The queue has reached its limit."""

    code = "queue_full"

    def __init__(self, waiting: int, limit: int, asked: int) -> None:
        more = "1 more task" if asked == 1 else f"{asked:,} more tasks"
        waits = "is" if waiting == 1 else "are"
        way_out = "Submit again when some have run, cancel some"
        if asked > limit:
            way_out = "Submit fewer at a time"
        super().__init__(
            f"Cannot queue {more}: {waiting:,} of at most {limit:,} {waits} waiting. "
            f"{way_out}, or open the studio with a higher queue_limit."
        )


class PublishFailed(NbgenError):
    """An approved picture could not be published."""

    code = "publish_failed"


class AccessDenied(NbgenError):
    """The credential is missing or wrong."""

    code = "access_denied"


class PortTaken(NbgenError):
    """A server cannot listen on the port."""

    code = "port_taken"

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"Cannot listen on port {port} of {host}: {reason}. Choose another port "
            "with --port; 0 takes a free one."
        )


class ServerUnreachable(NbgenError, ConnectionError):
    """No server answers at the address."""

    code = "server_unreachable"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"There is no nbgen server at {url} ({reason}). Start one with 'nbgen "
            "serve', or check the address."
        )


class UnexpectedAnswer(NbgenError):
    """A server answered, but not as a server of nbgen does."""

    code = "unexpected_answer"

    def __init__(self, url: str, answer: str) -> None:
        super().__init__(
            f"The server at {url} answered {answer}. Check the address, and any proxy "
            "between this machine and the server."
        )


class StudioClosed(NbgenError):
    """The studio was used after it was closed."""

    code = "studio_closed"

    def __init__(self) -> None:
        super().__init__("This studio is closed. Open another with Studio().")
