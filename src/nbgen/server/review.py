"""The HTTP API of review: tasks made elsewhere, decisions on all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from nbgen.errors import InvalidRequest, NbgenError
from nbgen.schema import ContentTask, Decision, DecisionRequest
from nbgen.schema.checks import check_task_id
from nbgen.server.base import BaseHandler
from nbgen.studio import Studio
from nbgen.wire.review import (
    BulkAnswer,
    BulkDecided,
    BulkRefused,
    ContentBody,
    DecideBody,
    DecisionAnswer,
    PutContentBody,
    as_on_wire,
    read_bulk,
)

# A folder has published by then, and a service has mostly answered; a slow one is
# asked again in the background.
_PUBLISHING_PATIENCE_S = 3.0


class ContentHandler(BaseHandler):
    """``PUT`` and ``GET /api/content/tasks/{id}``: a task made elsewhere."""

    async def put(self, task_id: str) -> None:
        """Register the task, or merge what is newly known of it."""
        body = PutContentBody.read(self.json_body())

        def put() -> ContentBody:
            content = self.studio.put_content(
                check_task_id(task_id),
                body.task_metadata,
                featured_image_url=body.featured_image_url,
            )
            return _content_body(self.studio, content)

        try:
            answer = await asyncio.to_thread(put)
        except InvalidRequest as error:
            raise as_on_wire(error) from None
        self.write_json(answer)

    async def get(self, task_id: str) -> None:
        """Answer with the task."""
        check_task_id(task_id)

        def read() -> ContentBody:
            return _content_body(self.studio, self.studio.get_content(task_id))

        self.write_json(await asyncio.to_thread(read))


class ApproveHandler(BaseHandler):
    """``POST`` or ``PATCH /api/content/tasks/{id}/approve``: decide on a task."""

    async def post(self, task_id: str) -> None:
        """Approve, with ``approved`` false reject, with ``undo`` true undo."""
        sent = self.json_body()
        check_task_id(task_id)
        body = DecideBody.read(sent)
        answer = await asyncio.to_thread(_decide, self.studio, task_id, body)
        self.write_json(answer)

    patch = post


class BulkDecideHandler(BaseHandler):
    """``POST /api/content/tasks/bulk-decide``: many decisions in one transaction."""

    async def post(self) -> None:
        """Take those that can be taken; answer 207 if there were others."""
        answer = await asyncio.to_thread(_decide_many, self.studio, self.json_body())
        failed = any(isinstance(result, BulkRefused) for result in answer.results)
        self.write_json(answer, 207 if failed else 200)


def _decide(studio: Studio, task_id: str, body: DecideBody) -> DecisionAnswer:
    answer: Decision | NbgenError
    if body.undo:
        answer = studio.undo(
            task_id, reviewer_id=body.reviewer_id, expect_version=body.expect_version
        )
    else:
        [answer] = studio.decide_many([body.request(task_id)])
    if isinstance(answer, NbgenError):
        raise answer
    return DecisionAnswer.of(studio.decided(answer, wait_s=_PUBLISHING_PATIENCE_S))


def _decide_many(studio: Studio, body: Mapping[str, Any]) -> BulkAnswer:
    items = read_bulk(body)
    requests = [item for item in items if isinstance(item, DecisionRequest)]
    answers = iter(studio.decide_many(requests))
    results: list[BulkDecided | BulkRefused] = []
    for item in items:
        if isinstance(item, BulkRefused):
            results.append(item)
            continue
        answer = next(answers)
        if isinstance(answer, NbgenError):
            results.append(BulkRefused.of(answer, item.task_id))
        else:
            # Whoever decides on hundreds at once looks at publications later.
            results.append(BulkDecided.of(studio.decided(answer)))
    return BulkAnswer(results)


def _content_body(studio: Studio, content: ContentTask) -> ContentBody:
    return ContentBody.of(content, tuple(studio.publications(content.task_id)))
