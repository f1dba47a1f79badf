"""Brings approvals to their publishers and retries until they are published.

Every method may be called from any thread. Each publisher has a thread of its own,
``nbgen-publisher-`` and its name, so that a slow one delays no other. The store holds
the queue, so a process that dies loses nothing: the next one goes on. The condition
guards two counters and is never held during a database query, so ``wake`` returns at
once whatever the database does.
"""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from nbgen.errors import InvalidRequest, NbgenError, PublishFailed, StudioClosed
from nbgen.images import Images
from nbgen.review.publishers import (
    Publication,
    Publisher,
    publication_of,
    retry_delay_s,
)
from nbgen.schema import Decision, PublicationRecord, PublicationState, utc_now
from nbgen.schema.checks import IMAGE_URL, LONGEST_PUBLISHER_NAME, check_text
from nbgen.store import Store
from nbgen.threads import start_thread

logger = logging.getLogger(__name__)

_LONGEST_TEXT = 2_000


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """The time-outs of an outbox, in seconds.

    Attributes:
        attempt_s: After this long an attempt counts as failed, and another process may
            take the publication over; longer than a publisher should take.
        rest_s: The longest pause between two looks at the queue: other processes may
            have died with publications they had taken.
        close_s: How long ``close`` waits for attempts under way; longer than a webhook
            takes. The next process repeats an attempt that takes longer.
    """

    attempt_s: float = 120.0
    rest_s: float = 60.0
    close_s: float = 15.0


class Outbox:
    """Runs the publications of a store, each at least once.

    Args:
        store: The store that holds the queue.
        images: The pictures.
        publishers: The publishers, each with a name of its own.
        clock: Returns the time in UTC.
        timing: The time-outs.
        most_waiters: How many callers may wait in ``wait_tried`` at a time, so that a
            slow publisher does not take all threads of a server.

    Raises:
        InvalidRequest: A publisher has no name, or two have the same.

    Example::

        outbox = Outbox(store, images, [FolderPublisher("approved")])
        outbox.wake()  # after an approval was committed
        outbox.close()
    """

    def __init__(
        self,
        store: Store,
        images: Images,
        publishers: Sequence[Publisher],
        clock: Callable[[], dt.datetime] = utc_now,
        *,
        timing: Timing | None = None,
        most_waiters: int = 2,
    ) -> None:
        self._publishers = {publisher.name: publisher for publisher in publishers}
        self.names = tuple(publisher.name for publisher in publishers)
        for name in self.names:
            check_text(
                "name of a publisher", name, shortest=1, longest=LONGEST_PUBLISHER_NAME
            )
        if len(self._publishers) < len(self.names):
            allowed = "publishers of different names; give them with name="
            raise InvalidRequest("publishers", list(self.names), allowed)
        self._store = store
        self._images = images
        self._clock = clock
        self._timing = timing or Timing()
        self._changed = threading.Condition()
        self._wakes = 0
        self._turns = 0  # how often a publisher's thread has looked at the queue
        self._closed = False
        self._waiters = threading.BoundedSemaphore(most_waiters)
        self._threads: list[threading.Thread] = []
        try:
            for publisher in publishers:
                name = f"nbgen-publisher-{publisher.name}"
                thread = start_thread(name, partial(self._work, publisher))
                self._threads.append(thread)
        except BaseException:
            self.close()  # nobody else could
            raise

    def wake(self) -> None:
        """Have the publishers look at the queue now; returns at once."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def wait_tried(self, task_id: str, timeout_s: float) -> list[PublicationRecord]:
        """Wait until each publication of a task was tried once; return them all.

        Only ``most_waiters`` callers wait at a time; others are answered at once.

        Args:
            task_id: The task.
            timeout_s: How long to wait, in seconds.

        Raises:
            StudioClosed: The store is closed.
        """
        if self._threads and timeout_s and self._waiters.acquire(blocking=False):
            try:
                self._wait_tried(task_id, time.monotonic() + timeout_s)
            finally:
                self._waiters.release()
        return self._store.publications.list_publications(task_id)

    def close(self) -> None:
        """End the threads after the attempts under way; the rest stays in the store.

        A publisher that does not return within ``Timing.close_s`` is left behind.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + self._timing.close_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _wait_tried(self, task_id: str, deadline_s: float) -> None:
        while True:
            with self._changed:
                # Before the query, so that a change during it ends the wait at once.
                seen = (self._wakes, self._turns)
            if not self._has_untried(task_id):
                return
            with self._changed:
                changed = self._changed.wait_for(
                    partial(self._has_changed, seen),
                    deadline_s - time.monotonic(),
                )
                if self._closed or not changed:
                    return

    def _has_untried(self, task_id: str) -> bool:
        # An attempt is counted when it begins; its end clears or sets more than that.
        return any(
            record.state is PublicationState.PENDING
            and record.error is None
            and record.publisher in self._publishers
            for record in self._store.publications.list_publications(task_id)
        )

    def _work(self, publisher: Publisher) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                seen = self._wakes
            rest_s = self._run_one(publisher)
            with self._changed:
                self._turns += 1
                self._changed.notify_all()
                if rest_s:
                    self._changed.wait_for(partial(self._is_woken, seen), rest_s)

    def _is_woken(self, wakes: int) -> bool:
        return self._closed or self._wakes != wakes

    def _has_changed(self, seen: tuple[int, int]) -> bool:
        return self._closed or (self._wakes, self._turns) != seen

    def _run_one(self, publisher: Publisher) -> float:
        """Run one publication; return the seconds until there may be another."""
        try:
            now = self._clock()
            until = now + dt.timedelta(seconds=self._timing.attempt_s)
            taken = self._store.publications.take_publication(
                [publisher.name], now=now, until=until
            )
            if taken is not None:
                self._attempt(publisher, taken)
                return 0.0
            next_at = self._store.publications.next_publication_at([publisher.name])
        except StudioClosed:
            # ``close`` left this attempt behind; the next process repeats it.
            logger.info("%s had not published when its studio closed.", publisher.name)
            return self._timing.rest_s
        except Exception:  # a database that is gone for a while must not end this
            logger.exception("The queue of publications cannot be read.")
            return retry_delay_s(1)
        if next_at is None:
            return self._timing.rest_s
        rest_s = (next_at - self._clock()).total_seconds()
        return min(max(rest_s, 0.0), self._timing.rest_s)

    def _attempt(self, publisher: Publisher, record: PublicationRecord) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="nbgen-") as folder:
                publication = self._publication(record, Path(folder))
                url = _check_url(publisher.publish(publication))
        except BaseException as error:  # noqa: BLE001 - whatever a publisher may raise
            text = _message_of(error)
            logger.warning("Publishing with %s failed: %s", record.publisher, text)
            delay = dt.timedelta(seconds=retry_delay_s(record.attempts))
            self._store.publications.postpone_publication(
                record, text, self._clock() + delay
            )
        else:
            self._store.publications.end_publication(record.number, url)

    def _publication(self, record: PublicationRecord, folder: Path) -> Publication:
        subject = self._store.decisions.get_subjects([record.task_id])[record.task_id]
        decision = next(d for d in subject.log if d.sequence == record.decision)
        image = self._local_file(decision, folder)
        return publication_of(decision, subject.task, image)

    def _local_file(self, decision: Decision, folder: Path) -> Path | None:
        """Return a file of the picture, copied into the folder if it is elsewhere.

        None for a picture that is not kept here.

        Raises:
            PublishFailed: The picture is kept here, and its file is gone.
            PictureDamaged: Its file is damaged.
        """
        url = decision.featured_image_url or ""
        if not url.startswith(IMAGE_URL):
            return None
        name = url.removeprefix(IMAGE_URL)
        path = self._images.path(name)
        if path is not None:
            return path
        data = self._images.read(name)
        if data is None:
            raise PublishFailed(
                f"The picture {url} of task {decision.task_id!r} is gone. Undo the "
                "approval, or put the file back."
            )
        copy = folder / name
        copy.write_bytes(data)
        return copy


def _check_url(url: object) -> str | None:
    """Return the URL that a publisher answered, or None.

    Raises:
        InvalidRequest: The answer is not a text that can be stored.
    """
    return None if url is None else check_text("the URL of a publisher", url)


def _message_of(error: BaseException) -> str:
    """Return the message of an error as text that can be stored."""
    try:
        text = str(error)
        text = (
            text if isinstance(error, NbgenError) else f"{type(error).__name__}: {text}"
        )
    except Exception:  # noqa: BLE001 - an error whose ``str`` raises
        text = type(error).__name__
    text = text.replace("\0", "").encode("utf-8", "replace").decode().strip()
    return text[:_LONGEST_TEXT] or "It failed."
