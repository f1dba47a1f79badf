"""Brings approvals to their publishers, again and again until they are out.

Every method may be called from any thread. The thread ``nbgen-publisher`` alone calls
publishers; it starts only where there are some. What is to be published is in the
store, so a process that dies loses nothing: the next one goes on.
"""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from nbgen.checks import IMAGE_URL
from nbgen.decision import Decision, PublicationRecord, PublicationState
from nbgen.errors import InvalidRequest, PublishFailed
from nbgen.review.publish import Publication, Publisher, retry_delay_s
from nbgen.store import Images, Store

logger = logging.getLogger(__name__)

# Longer than a publisher should take; another process takes over after it.
_LONGEST_ATTEMPT = dt.timedelta(minutes=2)
# Others may have died with publications in their hands.
_LONGEST_REST_S = 60.0


class PublicationRunner:
    """Runs the publications of a store, each at least once.

    Args:
        store: Where they are queued.
        images: Where the pictures are.
        publishers: Who publishes; each has a name of its own.
        clock: Returns the time in UTC.

    Raises:
        InvalidRequest: Two publishers have the same name.
    """

    def __init__(
        self,
        store: Store,
        images: Images,
        publishers: Sequence[Publisher],
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._publishers = {publisher.name: publisher for publisher in publishers}
        self.names = tuple(publisher.name for publisher in publishers)
        if len(self._publishers) < len(self.names):
            allowed = "publishers of different names; give them with name="
            raise InvalidRequest("publishers", list(self.names), allowed)
        self._store = store
        self._images = images
        self._clock = clock
        self._changed = threading.Condition()
        self._woken = False
        self._closed = False
        self._thread: threading.Thread | None = None
        if self._publishers:
            # A daemon: a notebook's kernel must be able to exit at any time.
            self._thread = threading.Thread(
                target=self._work, name="nbgen-publisher", daemon=True
            )
            self._thread.start()

    def wake(self) -> None:
        """Have the queue looked at now."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def wait_tried(self, task_id: str, timeout_s: float) -> list[PublicationRecord]:
        """Wait until each publication of a task was tried once; return them all."""
        if self._thread is not None:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or not self._has_untried(task_id), timeout_s
                )
        return self._store.list_publications(task_id)

    def close(self) -> None:
        """End the thread after the attempt under way; the rest stays in the store."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _has_untried(self, task_id: str) -> bool:
        # An attempt is counted when it begins; its end clears or sets more than that.
        return any(
            record.state is PublicationState.PENDING
            and record.error is None
            and record.publisher in self._publishers
            for record in self._store.list_publications(task_id)
        )

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                self._woken = False
            rest_s = self._run_one()
            with self._changed:
                self._changed.notify_all()
                if rest_s:
                    self._changed.wait_for(lambda: self._woken or self._closed, rest_s)

    def _run_one(self) -> float:
        """Run one publication; return the seconds until there may be another."""
        try:
            now = self._clock()
            taken = self._store.take_publication(
                self.names, now=now, until=now + _LONGEST_ATTEMPT
            )
            if taken is not None:
                self._attempt(taken)
                return 0.0
            next_at = self._store.next_publication_at(self.names)
        except Exception:  # a database that is gone for a while must not end this
            logger.exception("The queue of publications cannot be read.")
            return retry_delay_s(1)
        if next_at is None:
            return _LONGEST_REST_S
        rest_s = (next_at - self._clock()).total_seconds()
        return min(max(rest_s, 0.0), _LONGEST_REST_S)

    def _attempt(self, record: PublicationRecord) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="nbgen-") as folder:
                publication = self._publication(record, Path(folder))
                url = self._publishers[record.publisher].publish(publication)
        except Exception as error:  # noqa: BLE001 - whatever a publisher may raise
            known = isinstance(error, PublishFailed)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            logger.warning("Publishing with %s failed: %s", record.publisher, text)
            delay = dt.timedelta(seconds=retry_delay_s(record.attempts))
            self._store.postpone_publication(
                record.number, text or "It failed.", self._clock() + delay
            )
        else:
            self._store.end_publication(record.number, url)

    def _publication(self, record: PublicationRecord, folder: Path) -> Publication:
        subject = self._store.get_subjects([record.task_id])[record.task_id]
        decision = next(d for d in subject.log if d.sequence == record.decision)
        task = subject.task
        return Publication(
            task_id=record.task_id,
            image=self._local_file(decision, folder),
            featured_image_url=decision.featured_image_url,
            reviewer_id=decision.reviewer_id,
            feedback=decision.feedback,
            decided_at=decision.decided_at,
            request=msgspec.to_builtins(task.request) if task else None,
            seed=task.seed if task else None,
        )

    def _local_file(self, decision: Decision, folder: Path) -> Path | None:
        """Return a file of the picture, copied into the folder if it is elsewhere."""
        url = decision.featured_image_url or ""
        if not url.startswith(IMAGE_URL):
            return None
        name = url.removeprefix(IMAGE_URL)
        path = self._images.path(name)
        if path is not None:
            return path
        data = self._images.read(name)
        if data is None:
            return None
        copy = folder / name
        copy.write_bytes(data)
        return copy
