"""A tally that is kept up counts as one that counts anew."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgen.backend import Backend
from nbgen.handles import Batch
from nbgen.handles.tally import BatchTally
from nbgen.schema import BatchRow, GenerationRequest, Outcome, Status
from nbgen.testing import MemoryBackend

NAMES = ["cat", "dog", "owl"]
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)

States = st.sampled_from([Status.PENDING, Status.GENERATING, *Outcome])


def row(name: str, state: Status | Outcome, number: int, second: int = 0) -> BatchRow:
    outcome = state if isinstance(state, Outcome) else None
    status = state if isinstance(state, Status) else state.status
    return BatchRow(
        name,
        f"pets:{name}-{number}",
        status,
        outcome,
        f"error {number}" if outcome in (Outcome.FAILED, Outcome.LOST) else None,
        1.0 + number if outcome else None,
        NOW + dt.timedelta(seconds=second) if outcome else None,
        number,
    )


# What is told of a row: it goes on to the next state, or a newer task takes its place.
Told = st.lists(st.tuples(st.sampled_from([*NAMES, "other"]), States), max_size=40)


@given(told=Told)
def test_what_is_kept_up_equals_what_is_counted_anew(
    told: list[tuple[str, Status | Outcome]],
) -> None:
    kept = BatchTally("pets", NAMES)
    standing: dict[str, BatchRow] = {}
    for number, (name, state) in enumerate(told):
        standing[name] = row(name, state, number, second=number)
        kept.update([standing[name]])
    anew = BatchTally("pets", NAMES)
    anew.update([row("cat", Status.PENDING, 99)])  # forgotten by the reset
    anew.reset(standing.values())
    assert kept.rows() == anew.rows()
    assert kept.unfinished == anew.unfinished
    assert kept.running == anew.running
    assert kept.newest_error() == anew.newest_error()
    counted, again = kept.progress(lambda _: 0.5), anew.progress(lambda _: 0.5)
    counts = ("pending", "generating", *(outcome.value for outcome in Outcome))
    assert [getattr(counted, name) for name in counts] == [
        getattr(again, name) for name in counts
    ]
    assert counted.percentage == again.percentage


def test_a_task_that_is_not_the_newest_of_its_row_says_nothing() -> None:
    """It may end after the row was queued once more."""
    tally = BatchTally("pets", ["cat"])
    tally.update([row("cat", Status.PENDING, 2)])
    tally.update([row("cat", Outcome.FAILED, 1)])
    assert tally.progress(lambda _: 0.0).pending == 1


def test_the_same_end_that_is_told_twice_counts_once() -> None:
    tally = BatchTally("pets", ["cat", "dog"])
    made = row("cat", Outcome.SUCCEEDED, 1)
    tally.update([made, made])
    tally.update([made, row("dog", Status.PENDING, 2)])
    progress = tally.progress(lambda _: 0.0)
    assert (progress.succeeded, progress.pending, progress.percentage) == (1, 1, 50.0)


class Counting(MemoryBackend):
    """Counts how many rows it was asked for."""

    read = 0

    def changed_rows(self, batch_id, since):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        found = super().changed_rows(batch_id, since)
        self.read += len(found.rows)
        return found


def test_a_look_reads_only_what_has_changed() -> None:
    backend = Counting()
    backend.pause()
    rows = {name: GenerationRequest(prompt=name) for name in NAMES}
    backend.submit_batch("pets", rows, priority=0)
    batch = Batch(checked(backend), "pets", NAMES)
    assert batch.progress.pending == 3
    assert backend.read == 3
    assert batch.progress.pending == 3
    backend.cancel(["pets:dog"])
    assert (batch.progress.pending, batch.progress.cancelled) == (2, 1)
    assert backend.read == 4
    backend.close()


def checked(backend: Backend) -> Backend:
    return backend


@pytest.mark.parametrize("names", [["cat"], NAMES])
def test_a_handle_counts_its_own_rows_only(names: list[str]) -> None:
    tally = BatchTally("pets", names)
    tally.reset([row(name, Status.PENDING, n) for n, name in enumerate(NAMES)])
    assert tally.progress(lambda _: 0.0).total == len(names)
    assert tally.progress(lambda _: 0.0).pending == len(names)
