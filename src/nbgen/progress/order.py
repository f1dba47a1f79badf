"""States of a task follow on each other: nothing goes back. Pure functions."""

from __future__ import annotations

from msgspec.structs import replace

from nbgen.schema import GenerationProgress, Stage, Status


def follow_on(last: GenerationProgress, new: GenerationProgress) -> GenerationProgress:
    """Return a state as it follows on another of the same task: nothing goes back.

    Only a task that waits again, since its process died, begins anew.
    """
    new = replace(
        new,
        seq=max(new.seq, last.seq + 1),
        timestamp=max(new.timestamp, last.timestamp),
    )
    if new.status is Status.PENDING:
        return new
    if new.status is Status.GENERATING and new.current_stage is None:
        # From the record, which knows no steps; the live states may know more.
        new = replace(
            new,
            current_stage=last.current_stage,
            total_steps=last.total_steps,
            estimated_remaining=last.estimated_remaining,
            remaining_known=last.remaining_known,
            message=last.message if last.status is new.status else new.message,
        )
    return replace(
        new,
        current_step=max(new.current_step, last.current_step),
        elapsed_time=max(new.elapsed_time, last.elapsed_time),
        overall_percentage=max(new.overall_percentage, last.overall_percentage),
    )


def later_stage(last: Stage | None, new: Stage | None) -> Stage | None:
    """Return the stage that comes later in a run."""
    if new is None or (last is not None and new.position < last.position):
        return last
    return new
