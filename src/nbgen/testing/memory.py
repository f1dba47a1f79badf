"""A backend in memory, for tests of code that uses nbgen.

It keeps no files, opens no database and starts no process. The rules are those of
``nbgen.schema`` and ``nbgen.review``, so it answers as ``LocalBackend`` does.

Thread-safety: every method of ``MemoryBackend`` may be called from any thread. All its
state belongs to the lock of its queue, whose thread ``nbgen-memory`` runs the tasks.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from nbgen.backend import (
    ChangesCallback,
    Deciding,
    PreviewCallback,
    ProgressCallback,
    StopWatching,
)
from nbgen.backend.answering import answered_by
from nbgen.errors import (
    BackupElsewhere,
    TaskNotWaiting,
    UnknownBatch,
    UnknownTask,
)
from nbgen.generation.engine import Engine
from nbgen.generation.model import ModelDescription
from nbgen.progress import ChangeFollower
from nbgen.review.publishers import Publisher
from nbgen.review.quorum import read_quorum
from nbgen.schema import (
    Attempt,
    BackedUp,
    BatchRow,
    ChangedRows,
    CheckReport,
    ClearedUp,
    DecisionRequest,
    Draft,
    GenerationProgress,
    GenerationRequest,
    ModelFacts,
    OldTasks,
    Position,
    PromptLength,
    QueueState,
    Status,
    TaskEnd,
    TaskPage,
    TaskQuery,
    TaskRecord,
    present_attempt,
    progress_of_record,
    utc_now,
)
from nbgen.schema.checks import (
    check_batch_name,
    check_priority,
)
from nbgen.testing.engine import PatternEngine
from nbgen.testing.memory_deciding import MemoryDecider
from nbgen.testing.memory_finding import changed_rows_of, page_of, rows_of
from nbgen.testing.memory_keeper import MemoryKeeper
from nbgen.testing.memory_pictures import MemoryPictures
from nbgen.testing.memory_queue import MemoryQueue
from nbgen.testing.memory_reviews import MemoryReviews
from nbgen.testing.memory_submitter import MemorySubmitter


class MemoryBackend:
    """A ``Backend`` that keeps all in memory, for tests; ``Backend`` has the semantics.

    An approval is published before the call that decides returns: each publisher is
    called once, on the caller's thread and without an image file. A publication that
    fails stays pending and is tried again after the next decision.

    Example::

        backend = MemoryBackend(PatternEngine())
        record = backend.submit(request, task_id=None, priority=0)
        assert backend.ended(record.id).result(10).outcome is Outcome.SUCCEEDED
        backend.close(finish=False)

    Args:
        engine: Makes the pictures; None draws patterns.
        checkpoint: The checkpoint whose facts it tells and in whose tokens it measures
            prompts, whatever the engine is; None for none.
        queue_limit: How many tasks may wait.
        quorum: The approvals that a task needs; see ``Studio``.
        publishers: Publish what is approved.
        now: Returns the present time in UTC.

    Raises:
        InvalidRequest: The quorum is none.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        checkpoint: str | Path | None = None,
        queue_limit: int = 10_000,
        quorum: str = "any",
        publishers: Sequence[Publisher] = (),
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._quorum = read_quorum(quorum)
        self._pictures = MemoryPictures(now)
        self._queue = MemoryQueue(
            engine or PatternEngine(), self._pictures, queue_limit, now
        )
        self._tasks = self._queue.tasks
        self._open = self._queue.opened
        self._reviews = MemoryReviews(
            self._tasks,
            self._pictures.has,
            self._quorum,
            publishers,
            now=now,
            tell=self._queue.changes.append,
        )
        self._submitter = MemorySubmitter(
            self._queue, self._pictures, self._reviews, Draft(now=now)
        )
        self._decider = MemoryDecider(self._reviews, self._open, self._quorum)
        self._keeper = MemoryKeeper(self._queue, self._reviews, self._quorum, now)
        self._follower = ChangeFollower(self._queue.changes)
        self._description = ModelDescription(checkpoint)

    # Calls that one part answers as they are; ``nbgen.backend`` describes them.
    decide = answered_by("_decider", Deciding.decide)
    undo = answered_by("_decider", Deciding.undo)
    decisions = answered_by("_decider", Deciding.decisions)
    review = answered_by("_decider", Deciding.review)
    decided = answered_by("_decider", Deciding.decided)
    put_content = answered_by("_decider", Deciding.put_content)
    get_content = answered_by("_decider", Deciding.get_content)
    publications = answered_by("_decider", Deciding.publications)

    def submit(
        self,
        request: GenerationRequest,
        *,
        task_id: str | None,
        priority: int,
        replace: bool = False,
    ) -> TaskRecord:
        """Queue a task; see ``Running.submit``."""
        with self._open():
            new = self._submitter.submit(request, task_id, priority, replace=replace)
            return self._record(new)

    def submit_batch(
        self, batch_id: str, rows: Mapping[str, GenerationRequest], *, priority: int
    ) -> None:
        """Queue what is missing of a batch; see ``Running.submit_batch``."""
        with self._open():
            self._submitter.submit_batch(batch_id, rows, priority)

    def retry(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Queue another attempt at tasks; see ``Running.retry``."""
        with self._open():
            for task_id in task_ids:
                self._record(task_id)
            self._submitter.retry(task_ids)
            return [self._record(task_id) for task_id in task_ids]

    def retry_rows(self, batch_id: str, rows: Iterable[str]) -> None:
        """Queue missing rows again; see ``Running.retry_rows``."""
        with self._open():
            self._submitter.retry_rows(batch_id, frozenset(rows))

    def cancel(self, task_ids: Sequence[str]) -> None:
        """Ask tasks to end; see ``Running.cancel``."""
        with self._open():
            for task_id in task_ids:
                self._record(task_id)
            unended = [i for i in dict.fromkeys(task_ids) if i in self._queue.unended]
            ends = self._queue.cancel(unended)
        self._queue.resolve(ends)

    def ended(self, task_id: str) -> Future[TaskEnd]:
        """Return a future of the end; see ``Running.ended``."""
        return self._queue.ended(task_id)

    def waiting(self) -> list[str]:
        """Return the ids of the waiting tasks; see ``Running.waiting``."""
        with self._open():
            return self._queue.waiting()

    def running(self) -> list[str]:
        """Return the ids of the tasks that run; see ``Running.running``."""
        with self._open():
            return self._queue.running()

    def offered(self) -> list[str]:
        """Return no task: none waits from a process that is gone."""
        with self._open():
            return []

    def run_offered(self) -> None:
        """Do nothing: none waits from a process that is gone."""
        with self._open():
            return

    def prioritise(self, task_id: str, priority: int) -> None:
        """Change the priority of a waiting task; see ``Running.prioritise``."""
        check_priority(priority)
        with self._open():
            record = self._record(task_id)
            if record.status is not Status.PENDING:
                raise TaskNotWaiting(task_id)
            self._queue.change(task_id, priority=priority)

    def pause(self) -> None:
        """Start no further task; see ``Running.pause``."""
        with self._open():
            self._queue.pause(paused=True)

    def resume(self) -> None:
        """Start tasks again; see ``Running.resume``."""
        with self._open():
            self._queue.pause(paused=False)

    def queue_state(self) -> QueueState:
        """Return where the queue stands; see ``Running.queue_state``."""
        with self._open():
            return self._queue.state()

    def get_progress(self, task_id: str) -> GenerationProgress:
        """Return the present state of a task; see ``Watching.get_progress``."""
        with self._open():
            record = self._record(task_id)
            present = self._queue.progress.get_progress(task_id)
            return present or progress_of_record(record)

    def watch(self, task_id: str, callback: ProgressCallback) -> StopWatching:
        """Call back with each state of a task; see ``Watching.watch``."""
        with self._open():
            record = self._tasks.get(task_id)
            if record is None or self._queue.progress.get_progress(task_id) is not None:
                return self._queue.progress.register_callback(task_id, callback)
        callback(progress_of_record(record))
        return lambda: None

    def watch_changes(
        self, callback: ChangesCallback, *, since: Position | None = None
    ) -> StopWatching:
        """Call back with each change; see ``Watching.watch_changes``."""
        with self._open():
            return self._follower.watch(callback, since)

    def watch_previews(self, task_id: str, callback: PreviewCallback) -> StopWatching:
        """Call back with previews; see ``Watching.watch_previews``."""
        with self._open():
            return self._queue.progress.previews.register(task_id, callback)

    def list_tasks(self, query: TaskQuery) -> TaskPage:
        """Return a page of tasks; see ``Finding.list_tasks``."""
        with self._open():
            page = page_of(self._queue.numbered(), query)
            records = map(self._reviews.reviewed_task, page)
            return TaskPage(records, page.next_cursor)

    def get_tasks(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Return tasks in the order of the ids; see ``Finding.get_tasks``."""
        with self._open():
            return [self._record(task_id) for task_id in task_ids]

    def attempts(self, task_id: str) -> list[Attempt]:
        """Return the attempts at a task; see ``Finding.attempts``."""
        with self._open():
            present = present_attempt(self._record(task_id))
            return [*self._queue.attempts[task_id], *present]

    def batch_rows(self, batch_id: str) -> list[BatchRow]:
        """Return the rows of a batch; see ``Finding.batch_rows``."""
        check_batch_name("batch_id", batch_id)
        with self._open():
            rows = rows_of(self._queue.numbered(), batch_id)
        if not rows:
            raise UnknownBatch(batch_id)
        return rows

    def changed_rows(self, batch_id: str, since: Position | None) -> ChangedRows:
        """Return what changed of a batch; see ``Finding.changed_rows``."""
        check_batch_name("batch_id", batch_id)
        with self._open():
            feed = self._queue.changes
            news = feed.read(since or feed.position())
            return changed_rows_of(self._queue.numbered(), batch_id, since, news)

    def keep_picture(self, field: str, picture: str | bytes) -> str:
        """Return the name of a picture to refer to; see ``Pictures.keep_picture``."""
        with self._open():
            return self._pictures.keep(field, picture)

    def read_picture(self, name: str) -> bytes:
        """Return the bytes of a picture file; see ``Pictures.read_picture``."""
        with self._open():
            return self._pictures.read(name)

    def picture_path(self, name: str, *, check: bool = True) -> Path | None:  # noqa: ARG002
        """Return None: no picture is on a disk."""
        with self._open():
            return None

    def collect_garbage(self, *, dry_run: bool = True) -> list[str]:
        """Remove unreferenced pictures; see ``Pictures.collect_garbage``."""
        return list(self.clear_up(None, dry_run=dry_run).files)

    def check_pictures(self, *, repair: bool = False) -> CheckReport:
        """Compare all pictures with their names; see ``Pictures.check_pictures``."""
        with self._open():
            return self._pictures.check(self._keeper.referring(), repair=repair)

    def delete(self, task_ids: Sequence[str], *, force: bool = False) -> None:
        """Delete tasks; see ``Keeping.delete``."""
        with self._open():
            self._keeper.delete(task_ids, force=force)

    def delete_old(self, old: OldTasks, *, dry_run: bool = True) -> list[str]:
        """Delete tasks that ended long ago; see ``Keeping.delete_old``."""
        with self._open():
            return self._keeper.delete_old(old, dry_run=dry_run)

    def clear_up(self, old: OldTasks | None, *, dry_run: bool = True) -> ClearedUp:
        """Delete old tasks and unused pictures; see ``Keeping.clear_up``."""
        with self._open():
            tasks = self._keeper.delete_old(old, dry_run=dry_run) if old else ()
            referring = self._keeper.referring()
            files = self._pictures.collect_garbage(referring, dry_run=dry_run)
            return ClearedUp(tuple(tasks), tuple(files))

    def backup(self, path: Path, *, force: bool = False) -> BackedUp:  # noqa: ARG002
        """Raise ``BackupElsewhere``: nothing is kept in files."""
        with self._open():
            raise BackupElsewhere("This studio keeps all in memory, for tests.")

    def request_changes(
        self, request: DecisionRequest, *, prompt: str | None
    ) -> TaskRecord | None:
        """Send a task back and queue its child; see ``Deciding.request_changes``."""
        with self._open():
            child_id = self._submitter.request_changes(request, prompt)
            return None if child_id is None else self._record(child_id)

    def model(self) -> ModelFacts | None:
        """Return what is known of the model; see ``Describing.model``."""
        with self._open():
            return self._description.model()

    def measure_prompt(self, text: str) -> PromptLength | None:
        """Return how long a prompt is; see ``Describing.measure_prompt``."""
        with self._open():
            return self._description.measure_prompt(text)

    def close(self, *, finish: bool = False) -> None:
        """Give back what runs and end the thread; see ``Backend.close``."""
        self._queue.close(finish=finish)
        self._follower.close()

    def _record(self, task_id: str) -> TaskRecord:
        if task_id not in self._tasks:
            raise UnknownTask(task_id)
        return self._reviews.reviewed_task(self._tasks[task_id])
