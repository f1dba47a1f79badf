"""Tasks and decisions in one SQLite file.

Thread-safe: each call takes a connection of its own from the pool, and each change is
one ``BEGIN IMMEDIATE`` transaction. Several processes may open the same folder; each
runs the tasks that it submitted itself.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import sqlalchemy as sa
from filelock import FileLock, Timeout

from nbgen.errors import DataFolderUnusable
from nbgen.schema import (
    Decision,
    GenerationRequest,
    GenerationResult,
    Outcome,
    Status,
    TaskRecord,
    Verdict,
)

_BUSY_TIMEOUT_S = 10

_metadata = sa.MetaData()

_tasks = sa.Table(
    "tasks",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(128), nullable=False, unique=True),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("outcome", sa.String(16)),
    sa.Column("error", sa.Text),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("ended_at", sa.String(40)),
    sa.Column("current_step", sa.Integer, nullable=False, default=0),
    sa.Column("result", sa.Text),
)

_decisions = sa.Table(
    "decisions",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("task_id", sa.ForeignKey("tasks.id"), nullable=False, index=True),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("reviewer_id", sa.Text, nullable=False),
    sa.Column("feedback", sa.Text),
    sa.Column("featured_image_url", sa.Text),
    sa.Column("decided_at", sa.String(40), nullable=False),
)

_latest_decision = (
    sa.select(sa.func.max(_decisions.c.number))
    .where(_decisions.c.task_id == _tasks.c.id)
    .correlate(_tasks)
    .scalar_subquery()
)
_tasks_with_decision = sa.select(_tasks, _decisions).select_from(
    _tasks.outerjoin(_decisions, _decisions.c.number == _latest_decision)
)


class Store:
    """The tasks and decisions of one data folder.

    On opening, tasks whose process is gone are ended as ``lost``: each open store
    holds a lock file that the system frees when the process dies.

    Args:
        folder: Where ``nbgen.sqlite`` lies; made if it does not exist.

    Raises:
        DataFolderUnusable: The folder or the file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._open(folder)
        except (OSError, sa.exc.DatabaseError) as error:
            cause = getattr(error, "orig", None) or error
            raise DataFolderUnusable(
                f"The data folder {str(folder)!r} cannot be used: {cause}. Choose "
                "another with data_dir, --data-dir or NBGEN_DATA_DIR."
            ) from error

    def _open(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._owners = folder / "owners"
        self._owners.mkdir(exist_ok=True)
        self._owner = uuid4().hex
        self._lock = FileLock(self._owner_lock(self._owner))
        self._lock.acquire(timeout=0)
        url = sa.URL.create("sqlite", database=str(folder / "nbgen.sqlite"))
        self._engine = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})
        sa.event.listen(self._engine, "connect", _on_connect)
        sa.event.listen(self._engine, "begin", _on_begin)
        self._reading = self._engine.execution_options(reading=True)
        _metadata.create_all(self._engine)
        self._end_lost_tasks()

    def add_task(self, record: TaskRecord) -> bool:
        """Commit a new task; return False if there is one of that id already."""
        row = {
            "id": record.id,
            "owner": self._owner,
            "request": msgspec.json.encode(record.request).decode(),
            "seed": record.seed,
            "status": record.status,
            "created_at": record.created_at.isoformat(),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(_tasks.insert().values(row))
        except sa.exc.IntegrityError:
            return False
        return True

    def start_task(self, task_id: str) -> None:
        """Commit that the work on a task has begun."""
        with self._engine.begin() as connection:
            connection.execute(
                _tasks.update()
                .where(_tasks.c.id == task_id, _tasks.c.outcome.is_(None))
                .values(status=Status.GENERATING)
            )

    def end_task(
        self,
        task_id: str,
        outcome: Outcome,
        *,
        ended_at: dt.datetime,
        current_step: int,
        error: str | None = None,
        result: GenerationResult | None = None,
    ) -> bool:
        """Commit the end of a task; return False if it has ended already."""
        encoded = None if result is None else msgspec.json.encode(result).decode()
        with self._engine.begin() as connection:
            changed = connection.execute(
                _tasks.update()
                .where(_tasks.c.id == task_id, _tasks.c.outcome.is_(None))
                .values(
                    status=outcome.status,
                    outcome=outcome,
                    error=error,
                    ended_at=ended_at.isoformat(),
                    current_step=current_step,
                    result=encoded,
                )
            )
        return changed.rowcount == 1

    def get_task(self, task_id: str) -> TaskRecord | None:
        """Return the task of that id, or None."""
        query = _tasks_with_decision.where(_tasks.c.id == task_id)
        with self._reading.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _record(row)

    def list_tasks(self, limit: int) -> list[TaskRecord]:
        """Return the newest tasks, newest first."""
        query = _tasks_with_decision.order_by(_tasks.c.number.desc()).limit(limit)
        with self._reading.connect() as connection:
            return [_record(row) for row in connection.execute(query)]

    def add_decision(self, decision: Decision) -> Decision:
        """Commit a decision, unless the task has one; return the one in force."""
        latest = (
            _decisions.select()
            .where(_decisions.c.task_id == decision.task_id)
            .order_by(_decisions.c.number.desc())
            .limit(1)
        )
        with self._engine.begin() as connection:
            if (row := connection.execute(latest).one_or_none()) is not None:
                return _decision(row._mapping)
            values = msgspec.structs.asdict(decision)
            values["decided_at"] = decision.decided_at.isoformat()
            connection.execute(_decisions.insert().values(values))
        return decision

    def close(self) -> None:
        """Close the file; tasks that this store left unfinished count as lost."""
        self._engine.dispose()
        self._lock.release()
        self._owner_lock(self._owner).unlink(missing_ok=True)

    def _owner_lock(self, owner: str) -> Path:
        return self._owners / f"{owner}.lock"

    def _end_lost_tasks(self) -> None:
        unfinished = _tasks.c.outcome.is_(None)
        with self._engine.begin() as connection:
            owners = connection.scalars(
                sa.select(_tasks.c.owner).where(unfinished).distinct()
            ).all()
            for owner in owners:
                if not self._is_gone(owner):
                    continue
                connection.execute(
                    _tasks.update()
                    .where(unfinished, _tasks.c.owner == owner)
                    .values(
                        status=Status.FAILED,
                        outcome=Outcome.LOST,
                        error="The process that ran this task ended. Submit it again.",
                        ended_at=dt.datetime.now(dt.UTC).isoformat(),
                    )
                )

    def _is_gone(self, owner: str) -> bool:
        lock = FileLock(self._owner_lock(owner))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        self._owner_lock(owner).unlink(missing_ok=True)
        return True


def _on_connect(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN is deferred: two writers that both read first would
    # fail with "database is locked". We begin ourselves, in _on_begin.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _on_begin(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get("reading")
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _record(row: sa.Row[Any]) -> TaskRecord:
    values = row._mapping
    result = values[_tasks.c.result]
    outcome = values[_tasks.c.outcome]
    ended_at = values[_tasks.c.ended_at]
    return TaskRecord(
        id=values[_tasks.c.id],
        request=msgspec.json.decode(values[_tasks.c.request], type=GenerationRequest),
        seed=values[_tasks.c.seed],
        status=Status(values[_tasks.c.status]),
        outcome=None if outcome is None else Outcome(outcome),
        error=values[_tasks.c.error],
        created_at=dt.datetime.fromisoformat(values[_tasks.c.created_at]),
        ended_at=None if ended_at is None else dt.datetime.fromisoformat(ended_at),
        current_step=values[_tasks.c.current_step],
        result=result and msgspec.json.decode(result, type=GenerationResult),
        decision=_decision(values) if values[_decisions.c.number] else None,
    )


def _decision(values: Any) -> Decision:
    return Decision(
        task_id=values[_decisions.c.task_id],
        verdict=Verdict(values[_decisions.c.verdict]),
        reviewer_id=values[_decisions.c.reviewer_id],
        feedback=values[_decisions.c.feedback],
        featured_image_url=values[_decisions.c.featured_image_url],
        decided_at=dt.datetime.fromisoformat(values[_decisions.c.decided_at]),
    )
