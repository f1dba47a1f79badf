"""The HTTP API of review: tasks made elsewhere, decisions on all of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec

from nbgen.errors import InvalidRequest, NbgenError
from nbgen.schema import (
    ContentTask,
    Decision,
    DecisionRequest,
    Verdict,
)
from nbgen.schema.checks import check_reviewer_id, check_task_id
from nbgen.server.base import BaseHandler, error_body, error_status, publications_body
from nbgen.studio import Studio

_LONGEST_BULK = 500

# A folder has published by then, and a service has mostly answered; a slow one is
# asked again in the background.
_PUBLISHING_PATIENCE_S = 3.0


class ContentHandler(BaseHandler):
    """``PUT`` and ``GET /api/content/tasks/{id}``: a task made elsewhere."""

    async def put(self, task_id: str) -> None:
        """Register the task, or merge what is newly known of it."""
        body = self.json_body()
        try:
            content = await asyncio.to_thread(
                self.studio.put_content,
                check_task_id(task_id),
                body.get("task_metadata", {}),
                featured_image_url=body.get("featured_image_url"),
            )
        except InvalidRequest as error:
            called = "task_metadata" if error.field == "metadata" else error.field
            raise error.renamed(called) from None
        answer = await asyncio.to_thread(_content_body, self.studio, content)
        self.write_json(answer)

    async def get(self, task_id: str) -> None:
        """Answer with the task."""
        check_task_id(task_id)
        content = await asyncio.to_thread(self.studio.get_content, task_id)
        answer = await asyncio.to_thread(_content_body, self.studio, content)
        self.write_json(answer)


class ApproveHandler(BaseHandler):
    """``POST`` or ``PATCH /api/content/tasks/{id}/approve``: decide on a task."""

    async def post(self, task_id: str) -> None:
        """Approve, with ``approved`` false reject, with ``undo`` true undo."""
        body = self.json_body()
        check_task_id(task_id)
        answer = await asyncio.to_thread(_decide, self.studio, task_id, body)
        self.write_json(answer)

    patch = post


class BulkDecideHandler(BaseHandler):
    """``POST /api/content/tasks/bulk-decide``: many decisions in one transaction."""

    async def post(self) -> None:
        """Take those that can be taken; answer 207 if there were others."""
        items = self.json_body().get("decisions")
        if not isinstance(items, list) or not 1 <= len(items) <= _LONGEST_BULK:
            allowed = f"a list of 1 to {_LONGEST_BULK} decisions"
            raise InvalidRequest("decisions", items, allowed)
        results = await asyncio.to_thread(_decide_many, self.studio, items)
        failed = any("error" in result for result in results)
        self.write_json({"results": results}, 207 if failed else 200)


def _decide(studio: Studio, task_id: str, body: dict[str, Any]) -> dict[str, Any]:
    undo = body.get("undo", False)
    if not isinstance(undo, bool):
        raise InvalidRequest("undo", undo, "true or false")
    if undo:
        undone = studio.undo(
            task_id,
            reviewer_id=check_reviewer_id(body.get("reviewer_id")),
            expect_version=body.get("expect_version"),
        )
        return _decision_body(studio, undone)
    request = _request({**body, "task_id": task_id})
    [answer] = studio.decide_many([request])
    if isinstance(answer, NbgenError):
        raise answer
    return _decision_body(studio, answer)


def _decide_many(studio: Studio, items: list[Any]) -> list[dict[str, Any]]:
    requests: list[DecisionRequest | NbgenError] = []
    for item in items:
        try:
            requests.append(_request(item))
        except InvalidRequest as error:
            requests.append(error)
    readable = [item for item in requests if isinstance(item, DecisionRequest)]
    answers = iter(studio.decide_many(readable))
    results = []
    for item, request in zip(items, requests, strict=True):
        answer = next(answers) if isinstance(request, DecisionRequest) else request
        if isinstance(answer, NbgenError):
            status = error_status(answer)
            named = {"task_id": _named_task(item), "status": status}
            results.append({**named, **error_body(answer)})
        else:
            # Whoever decides on hundreds at once looks at publications later.
            body = _decision_body(studio, answer, patience_s=0.0)
            results.append({**body, "status": 200})
    return results


def _named_task(item: Any) -> str | None:
    """Return the id that an item names, if it is one that can be said."""
    with suppress(InvalidRequest, KeyError, TypeError):
        return check_task_id(item["task_id"])
    return None


def _request(body: Any) -> DecisionRequest:
    """Return what a body asks for, its fields called as the wire calls them."""
    if not isinstance(body, dict):
        raise InvalidRequest("decisions", body, "a list of JSON objects")
    approved = body.get("approved")
    if not isinstance(approved, bool):
        raise InvalidRequest("approved", approved, "true or false")
    try:
        return DecisionRequest(
            task_id=body.get("task_id", ""),
            verdict=Verdict.APPROVED if approved else Verdict.REJECTED,
            reviewer_id=check_reviewer_id(body.get("reviewer_id")),
            feedback=body.get("human_feedback"),
            tags=body.get("tags", ()),
            image=body.get("image"),
            featured_image_url=body.get("featured_image_url"),
            expect_version=body.get("expect_version"),
        )
    except InvalidRequest as error:
        called = "human_feedback" if error.field == "feedback" else error.field
        raise error.renamed(called) from None


def _decision_body(
    studio: Studio, decision: Decision, *, patience_s: float = _PUBLISHING_PATIENCE_S
) -> dict[str, Any]:
    _, review, publications, message = studio.decided(decision, wait_s=patience_s)
    urls = [record.url for record in publications if record.url is not None]
    return {
        "task_id": decision.task_id,
        "approval_status": review.status.value,
        "featured_image_url": decision.featured_image_url,
        "published_url": urls[0] if urls else None,
        "approval_timestamp": decision.decided_at.isoformat(),
        "reviewer_id": decision.reviewer_id,
        "message": message,
        "version": review.version,
    }


def _content_body(studio: Studio, content: ContentTask) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.to_builtins(content)
    body["task_metadata"] = body.pop("metadata")
    body["version"] = content.version
    body["publications"] = publications_body(studio, content.task_id)
    del body["decisions"]
    return body
