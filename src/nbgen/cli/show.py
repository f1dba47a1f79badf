"""The command that shows all that is known of one task: ``show``.

It loads no model and starts no task, so a studio or server beside it is undisturbed.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from nbgen.cli.data_folder import AsJson, opened_studio, print_json
from nbgen.cli.terminal import DataDir, app, coloured, console, local_time, one_line
from nbgen.schema import (
    REQUEST_FIELDS,
    Attempt,
    Decision,
    GenerationRequest,
    TaskRecord,
)


@app.command()
def show(
    task_id: Annotated[str, typer.Argument(help="The id of the task.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show one task: its request, its times, the decisions on it and its attempts."""
    with opened_studio(data_dir) as studio:
        record = studio.get_record(task_id)
        attempts = studio.attempts(task_id)
    if as_json:
        history = msgspec.to_builtins(attempts)
        print_json({**msgspec.to_builtins(record), "attempts": history})
        return
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(record).items():
        facts.add_row(name, value)
    console.print(facts)
    for attempt in attempts:
        line = f"attempt {attempt.number}: {_told(attempt)}"
        console.print(escape(line), highlight=False, soft_wrap=True)


def _facts(record: TaskRecord) -> dict[str, str]:
    """Return what there is to say of a task, in the markup of the terminal."""
    outcome = record.outcome or record.status
    waits = ", from before; see 'nbgen offered'" if record.is_offered else ""
    facts = {
        "task": escape(record.id),
        "status": coloured(outcome.value) + waits,
        "prompt": escape(one_line(record.request.prompt)),
        "request": escape(_changed_fields(record.request)),
        "seed": str(record.seed),
        "priority": f"{record.priority:,}" if record.priority else "",
        "batch": escape(f"{record.batch_id}, row {record.batch_row}")
        if record.batch_id
        else "",
        "made from": escape(record.parent_id or ""),
        "submitted": local_time(record.created_at),
        "started": local_time(record.started_at) if record.started_at else "",
        "ended": local_time(record.ended_at) if record.ended_at else "",
        "error": escape(one_line(record.error or "")),
        "pictures": escape(_pictures(record)),
        "review": coloured(record.approval_status.value),
    }
    for decision in record.decisions:
        facts[f"decision {decision.version}"] = escape(_decided(decision))
    return {name: value for name, value in facts.items() if value}


def _changed_fields(request: GenerationRequest) -> str:
    """Return the fields of a request that are not as they are by default."""
    changed = {
        name: getattr(request, name)
        for name, field in REQUEST_FIELDS.items()
        if not field.required and getattr(request, name) != field.default
    }
    told = (f"{name.replace('_', ' ')} {value}" for name, value in changed.items())
    return one_line(", ".join(told))


def _pictures(record: TaskRecord) -> str:
    images = record.result.images if record.result else ()
    return ", ".join(image.name for image in images)


def _decided(decision: Decision) -> str:
    verdict = decision.verdict.value.replace("_", " ")
    said = f": {one_line(decision.feedback)}" if decision.feedback else ""
    when = local_time(decision.decided_at)
    return f"{verdict} by {one_line(decision.reviewer_id)}, {when}{said}"


def _told(attempt: Attempt) -> str:
    """Return in one line how an attempt went."""
    how = attempt.outcome.value.replace("_", " ") if attempt.outcome else "running"
    told = [how]
    if attempt.lane:
        told.append(f"on {one_line(attempt.lane)}")
    if attempt.started_at:
        told.append(local_time(attempt.started_at))
    if attempt.started_at and attempt.ended_at:
        took = attempt.ended_at - attempt.started_at
        told.append(f"{took.total_seconds():.1f} s")
    error = f". {one_line(attempt.error)}" if attempt.error else ""
    return ", ".join(told) + error
