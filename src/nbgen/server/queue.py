"""The HTTP API of the queue: its state, the places in it, and attempts at tasks."""

from __future__ import annotations

import asyncio

from nbgen.schema.checks import check_task_id
from nbgen.server.base import BaseHandler
from nbgen.studio import Studio
from nbgen.wire.http import HistoryBody, QueueBody, TaskBody, read_priority


class QueueHandler(BaseHandler):
    """``GET /api/queue``: what runs and what waits."""

    async def get(self) -> None:
        """Answer with the queue of the server."""
        self.write_json(await asyncio.to_thread(_read_queue, self.studio))


class PauseHandler(BaseHandler):
    """``POST /api/queue/pause``: start no further task."""

    async def post(self) -> None:
        """Pause the queue in every process, and answer with it."""
        await asyncio.to_thread(self.studio.pause)
        self.write_json(await asyncio.to_thread(_read_queue, self.studio))


class ResumeHandler(BaseHandler):
    """``POST /api/queue/resume``: start tasks again."""

    async def post(self) -> None:
        """Resume the queue, and answer with it."""
        await asyncio.to_thread(self.studio.resume)
        self.write_json(await asyncio.to_thread(_read_queue, self.studio))


class RetryHandler(BaseHandler):
    """``POST /api/tasks/{id}/retry``: another attempt at one task."""

    async def post(self, task_id: str) -> None:
        """Queue an attempt at a task that did not succeed, and answer with the task."""
        check_task_id(task_id)

        def retry() -> TaskBody:
            self.studio.retry(task_id)
            return TaskBody.of(self.studio.get_record(task_id))

        self.write_json(await asyncio.to_thread(retry))


class PriorityHandler(BaseHandler):
    """``POST /api/tasks/{id}/priority``: another place in the queue."""

    async def post(self, task_id: str) -> None:
        """Give a waiting task another priority, and answer with the task."""
        priority = read_priority(self.json_body())
        check_task_id(task_id)

        def move() -> TaskBody:
            self.studio.prioritise(task_id, priority)
            return TaskBody.of(self.studio.get_record(task_id))

        self.write_json(await asyncio.to_thread(move))


class HistoryHandler(BaseHandler):
    """``GET /api/tasks/{id}/history``: the attempts at one task."""

    async def get(self, task_id: str) -> None:
        """Answer with each attempt, the first one first."""
        check_task_id(task_id)
        attempts = await asyncio.to_thread(self.studio.attempts, task_id)
        self.write_json(HistoryBody(task_id=task_id, attempts=tuple(attempts)))


def _read_queue(studio: Studio) -> QueueBody:
    return QueueBody.of(
        studio.queue_state(), studio.running(), studio.waiting(), studio.offered()
    )
