"""Finds the publishers that are set up on this machine, for whoever opens a studio.

Holds no state, so any thread may call it.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from nbgen.errors import InvalidRequest, PublishFailed
from nbgen.review.publishers import FolderPublisher, Publisher
from nbgen.settings import default_publish_folder, default_webhook

_GROUP = "nbgen.publishers"


def load_publishers() -> tuple[Publisher, ...]:
    """Return the publishers that every studio on this machine has.

    A folder if ``NBGEN_PUBLISH_FOLDER`` names one, a web service if
    ``NBGEN_WEBHOOK_URL`` does, and one for each entry point of the group
    ``nbgen.publishers``, in the order of their names. An entry point names a class or
    function that is called without arguments and returns the publisher.

    Raises:
        PublishFailed: One cannot be loaded, or is no publisher. Without it, approvals
            would be published in fewer places than the user believes.
        InvalidRequest: ``NBGEN_WEBHOOK_URL`` is no such URL.
    """
    publishers: list[Publisher] = []
    folder, webhook = default_publish_folder(), default_webhook()
    if folder is not None:
        publishers.append(FolderPublisher(folder))
    if webhook is not None:
        publishers.append(_make_webhook(*webhook))
    found = sorted(entry_points(group=_GROUP), key=lambda point: point.name)
    return (*publishers, *map(_load, found))


def _make_webhook(url: str, secret: str | None) -> Publisher:
    from nbgen.review.webhook import WebhookPublisher  # only here: it loads Tornado

    try:
        return WebhookPublisher(url, secret)
    except InvalidRequest as error:
        raise error.renamed("NBGEN_WEBHOOK_URL") from None


def _load(point: EntryPoint) -> Publisher:
    try:
        publisher = point.load()()
    except Exception as error:
        raise PublishFailed(
            f"The publisher {point.name!r} ({point.value}) cannot be loaded "
            f"({type(error).__name__}: {error}). Mend or uninstall its package."
        ) from error
    if not isinstance(publisher, Publisher):
        raise PublishFailed(
            f"The publisher {point.name!r} ({point.value}) has no name or no publish "
            "method. Mend or uninstall its package."
        )
    return publisher
