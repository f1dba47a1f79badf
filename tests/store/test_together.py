"""A change and its entry in the feed are committed together, or neither is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from nbgen.review.quorum import read_quorum
from nbgen.review.rules import rule
from nbgen.schema import (
    DecisionRequest,
    Outcome,
    Plan,
    Proposal,
    PublicationRecord,
    Verdict,
)
from nbgen.store import Store
from nbgen.store.database import Database
from nbgen.store.running import Ending
from nbgen.store.tables import (
    attempts,
    content,
    decisions,
    publications,
    queues,
    tasks,
)
from tests.store.test_tasks import LATER, NOW, add, claim, record


class Broken(Exception):
    """What the feed raises while it is broken."""


def approve(store: Store, task_id: str) -> object:
    ruling = partial(
        rule,
        request=DecisionRequest(
            task_id=task_id, verdict=Verdict.APPROVED, reviewer_id="ada"
        ),
        quorum=read_quorum("any"),
        picture=None,
        now=NOW,
    )
    child = record(f"{task_id}-child")
    return store.decisions.decide([Proposal(task_id, ruling, child)], ["site"])


def publication(store: Store) -> PublicationRecord:
    [found] = store.publications.list_publications("approved")
    return found


GENERATION = 1
TABLES = (queues, tasks, attempts, content, decisions, publications)

OPERATIONS: dict[str, Callable[[Store], object]] = {
    "submit": lambda store: store.queue.submit(Plan(new=[record("new")])),
    "submit again": lambda store: store.queue.submit(
        Plan(again=store.tasks.get_known(["failed"]))
    ),
    "claim": lambda store: store.running.claim(GENERATION, "lane"),
    "end": lambda store: store.running.end(
        "runs", GENERATION, Ending(Outcome.SUCCEEDED), ended_at=LATER
    ),
    "give back": lambda store: store.running.give_back("runs", GENERATION),
    "lose": lambda store: store.running.give_back("runs", GENERATION, died_of="No."),
    "begin": lambda store: store.running.begin(take_over=False),
    "cancel": lambda store: store.queue.cancel(["waits", "runs"]),
    "prioritise": lambda store: store.queue.prioritise("waits", 5),
    "run what is offered": lambda store: store.queue.run_offered(),
    "pause": lambda store: store.queue.set_paused(paused=True),
    "register": lambda store: store.decisions.put_content("new", {}, None),
    "decide": lambda store: approve(store, "known"),
    "take publication": lambda store: store.publications.take_publication(
        ["site"], now=LATER, until=LATER
    ),
    "end publication": lambda store: store.publications.end_publication(
        publication(store).number, "https://site.example/1"
    ),
    "postpone publication": lambda store: store.publications.postpone_publication(
        publication(store), "The site is down.", LATER
    ),
}


@pytest.fixture
def store(tmp_path: Path, database: str | None) -> Iterator[Store]:
    """Return a store in which each of the operations changes something."""
    gone = Store(tmp_path, database)
    add(gone, record("left"))
    gone.close()
    store = Store(tmp_path, database)
    assert store.running.begin(take_over=False) == GENERATION  # "left" is offered
    for task_id in ("failed", "runs"):
        add(store, record(task_id))
        claim(store, GENERATION)
    store.running.end("failed", GENERATION, Ending(Outcome.FAILED), ended_at=LATER)
    add(store, record("waits"))
    for task_id in ("known", "approved"):
        store.decisions.put_content(task_id, {}, None)
    approve(store, "approved")
    yield store
    store.close()


@pytest.fixture
def read_tables(
    tmp_path: Path, database: str | None
) -> Iterator[Callable[[], list[Any]]]:
    """Return a function that reads all tables that the feed tells of."""
    looking = Database(tmp_path, database)

    def read() -> list[Any]:
        with looking.reading() as connection:
            return [
                sorted(map(tuple, connection.execute(sa.select(table))))
                for table in TABLES
            ]

    yield read
    looking.close()


@contextmanager
def broken_feed() -> Iterator[None]:
    """Have every appending to the feed fail."""

    def fail(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith(("INSERT INTO changes", "SELECT nbgen_append")):
            raise Broken

    sa.event.listen(sa.Engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", fail)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_is_changed_that_the_feed_does_not_tell(
    store: Store, read_tables: Callable[[], list[Any]], operation: str
) -> None:
    change = OPERATIONS[operation]
    rows, place = read_tables(), store.changes.position()
    with broken_feed(), pytest.raises(Broken):
        change(store)
    assert read_tables() == rows
    assert store.changes.position() == place
    change(store)
    assert read_tables() != rows
    assert store.changes.position().number > place.number
