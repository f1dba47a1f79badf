"""The commands on what waits: ``queue | offered | pause | resume | move``, and others.

``cancel`` and ``retry`` are of single tasks. All of these read and write the data
folder only, whichever process runs the tasks. They load no model and run no task.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from nbgen.cli.data_folder import AsJson, opened_studio, print_json
from nbgen.cli.terminal import (
    DataDir,
    QueueName,
    app,
    console,
    counted,
    fail,
    for_queue,
    local_time,
    one_line,
    paused,
)
from nbgen.schema import Outcome
from nbgen.schema.checks import HIGHEST_PRIORITY

if TYPE_CHECKING:
    from nbgen.studio import Studio

_MOST_SHOWN = 20
# An idle studio takes its turn within a fifth of that.
_BEGINNING_PATIENCE_S = 1.0

_TaskId = Annotated[str, typer.Argument(help="The id of the task.")]
_TaskIds = Annotated[list[str], typer.Argument(help="The ids of the tasks.")]


@app.command("queue")
def show_queue(
    as_json: AsJson = False, queue: QueueName = None, data_dir: DataDir = None
) -> None:
    """Show whether the queue is paused, which tasks run, and which wait, in order."""
    with opened_studio(data_dir, queue=queue) as studio:
        state = studio.queue_state()
        running, waiting = studio.running(), studio.waiting()
        before = studio.offered()
        if as_json:
            from nbgen.wire.http import QueueBody

            body = QueueBody.of(state, running, waiting, before)
            print_json(msgspec.to_builtins(body))
            return
        counts = f"{len(running):,} running, {len(waiting):,} waiting"
        more = f", {len(before):,} waiting from before" if before else ""
        _say(f"Queue {state.name}: {counts}{more}.")
        _show_places(studio, running, waiting, before)
        _say_what_is_next(studio)


@app.command()
def offered(
    run: Annotated[bool, typer.Option("--run", help="Have them run.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel them.")] = False,
    queue: QueueName = None,
    data_dir: DataDir = None,
) -> None:
    """List the tasks that wait from before: their process is gone, and none runs them.

    With --run they run in their order, with --cancel they end. 'nbgen serve' runs them
    by itself.
    """
    if run and cancel:
        fail("Choose one of --run and --cancel.")
    with opened_studio(data_dir, queue=queue) as studio:
        ids = studio.offered()
        if not ids:
            _say("No task waits from before.")
        elif run:
            studio.run_offered()
            _say(f"{counted(len(ids), 'task')} of before wait in the queue now.")
            _say_what_is_next(studio)
        elif cancel:
            studio.cancel_tasks(ids)
            _say(f"{counted(len(ids), 'task')} of before cancelled.")
        else:
            _show_places(studio, [], [], ids)
            _say("--run has them run, --cancel cancels them.")


@app.command()
def pause(queue: QueueName = None, data_dir: DataDir = None) -> None:
    """Start no further task of the queue, in any process, until 'nbgen resume'.

    What runs goes on to its end.
    """
    with opened_studio(data_dir, queue=queue) as studio:
        studio.pause()
        running = studio.running()
        _say(paused(studio.queue_state().name))
    if running:
        _say(f"It goes on until then: {', '.join(running)}.")


@app.command()
def resume(queue: QueueName = None, data_dir: DataDir = None) -> None:
    """Start tasks of the queue again."""
    with opened_studio(data_dir, queue=queue) as studio:
        studio.resume()
        _say("The queue goes on.")
        _say_what_is_next(studio)


@app.command()
def move(
    task_id: _TaskId,
    priority: Annotated[
        int | None,
        typer.Option(
            help=f"-{HIGHEST_PRIORITY:,} to {HIGHEST_PRIORITY:,}; "
            "tasks of a higher one run first."
        ),
    ] = None,
    first: Annotated[
        bool, typer.Option("--first", help="A higher priority than all that wait.")
    ] = False,
    queue: QueueName = None,
    data_dir: DataDir = None,
) -> None:
    """Give a waiting task another place, with --priority or --first."""
    if first is (priority is not None):
        fail("Choose one of --priority and --first.")
    with opened_studio(data_dir, queue=queue) as studio:
        if priority is None:
            priority = _above_all(studio, task_id)
        studio.prioritise(task_id, priority)
        waiting = studio.waiting()
        if task_id in waiting:
            place = f"number {waiting.index(task_id) + 1:,} of {len(waiting):,}"
            _say(f"Task {task_id} has the priority {priority:,}: {place} that wait.")
        else:
            _say(f"Task {task_id} has the priority {priority:,}, once it may run.")


@app.command()
def cancel(
    task_ids: _TaskIds, queue: QueueName = None, data_dir: DataDir = None
) -> None:
    """Cancel tasks: at once if they wait, within two steps if they run; all or none.

    Tasks that have ended stay as they are.
    """
    with opened_studio(data_dir, queue=queue) as studio:
        studio.cancel_tasks(task_ids)
        records = studio.get_records(task_ids)
    for record in records:
        if record.outcome is None:
            _say(f"{record.id} runs, and ends within two steps.")
        elif record.outcome is Outcome.CANCELLED:
            _say(f"{record.id} is cancelled.")
        else:
            _say(f"{record.id} has ended already: {record.outcome}.")


@app.command()
def retry(
    task_ids: _TaskIds, queue: QueueName = None, data_dir: DataDir = None
) -> None:
    """Try tasks again that failed, were cancelled or lost; all of them or none.

    A task keeps its id and its seed. 'nbgen show' tells all attempts at it.
    """
    with opened_studio(data_dir, queue=queue) as studio:
        studio.retry_tasks(task_ids)
        what = "waits for its" if len(task_ids) == 1 else "wait for their"
        _say(f"{counted(len(task_ids), 'task')} {what} next attempt.")
        _say_what_is_next(studio)


def _show_places(
    studio: Studio, running: list[str], waiting: list[str], before: list[str]
) -> None:
    """Show a line for each task, up to some."""
    places = [(task_id, "runs") for task_id in running]
    places += [(task_id, str(place)) for place, task_id in enumerate(waiting, 1)]
    places += [(task_id, "before") for task_id in before]
    if not places:
        return
    shown = dict(places[:_MOST_SHOWN])
    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("place", "task", "priority", "submitted"):
        table.add_column(name, no_wrap=True)
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", ratio=1)
    for record in studio.get_records(shown):
        table.add_row(
            shown[record.id],
            escape(record.id),
            f"{record.priority:,}",
            local_time(record.created_at),
            escape(one_line(record.request.prompt)),
        )
    console.print(table)
    if len(places) > _MOST_SHOWN:
        more = len(places) - _MOST_SHOWN
        console.print(f"[dim]and {more:,} more; --json has all ids.[/dim]")


def _above_all(studio: Studio, task_id: str) -> int:
    """Return the priority that puts a task before all others that wait."""
    waiting = studio.waiting()
    first = studio.get_record(waiting[0] if waiting else task_id)
    if first.id == task_id:
        return first.priority
    return min(first.priority + 1, HIGHEST_PRIORITY)


def _say_what_is_next(studio: Studio) -> None:
    """Say what to do if tasks wait and none of them will begin."""
    state = studio.queue_state()
    if state.is_paused:
        _say(paused(state.name))
    elif not _begins(studio):
        serve = f"nbgen serve{for_queue(state.name)}"
        _say(f"Nothing runs the queue. Start '{serve}' to have it run.")
    if state.offered:
        what = "task waits" if state.offered == 1 else "tasks wait"
        more = f"nbgen offered{for_queue(state.name)}"
        _say(f"{state.offered:,} {what} from before: '{more}' lists them.")


def _begins(studio: Studio) -> bool:
    """Return whether somebody runs what there is, by now or in a moment."""
    changed = threading.Event()
    stop = studio.watch_changes(lambda _changes: changed.set())
    until_s = time.monotonic() + _BEGINNING_PATIENCE_S
    try:
        while True:
            changed.clear()
            state = studio.queue_state()
            if state.has_runner or not (state.running or state.waiting):
                return True
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            changed.wait(left_s)
    finally:
        stop()


def _say(text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)
