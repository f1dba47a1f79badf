"""The HTTP API: generate, tasks, pictures, health."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
from contextlib import suppress
from typing import Any

import msgspec
from tornado.web import HTTPError

from nbgen.errors import InvalidRequest, NbgenError, TaskError, UnknownImage
from nbgen.handles.task import Task
from nbgen.schema import GenerationRequest, GenerationResult, done_message
from nbgen.schema.checks import check_task_id
from nbgen.server.base import BaseHandler, publications_body, task_body, task_links

_REQUEST_FIELDS = frozenset(GenerationRequest.__struct_fields__)
_LONGEST_LIST = 1_000


class GenerateHandler(BaseHandler):
    """``POST /api/media/generate``: make pictures, and wait for them or not."""

    async def post(self) -> None:
        """Queue a request; answer when it has ended, or at once."""
        body = self.json_body()
        for flag in ("use_generation", "high_quality", "wait"):
            if not isinstance(body.get(flag, True), bool):
                raise InvalidRequest(flag, body[flag], "true or false")
        # What is not a field of ours belongs to other services that take this body.
        fields = {name: body[name] for name in _REQUEST_FIELDS & body.keys()}
        for field in ("image", "mask"):
            if str(fields.get(field, "")).startswith("data:"):
                data = _data_of_url(field, fields[field])
                fields[field] = await asyncio.to_thread(
                    self.studio.keep_picture, field, data
                )
        request = GenerationRequest(**{"prompt": None, **fields})
        if not body.get("use_generation", True):
            self.write_json(_no_picture("Generation was not asked for.", None))
            return
        task_id = body.get("task_id")
        if task_id is not None:
            check_task_id(task_id)
        task = await asyncio.to_thread(self.studio.submit, request, task_id=task_id)
        respond_async = "respond-async" in self.request.headers.get("Prefer", "")
        if respond_async or not body.get("wait", True):
            self._accept(task)
            return
        try:
            result = await task
        except TaskError as error:
            self.write_json(_no_picture(str(error), task.id))
        else:
            self.write_json(_picture(result, task.id))

    def _accept(self, task: Task) -> None:
        links = task_links(task.id)
        self.set_header("Location", links["self"])
        body = {"task_id": task.id, "status": task.status.value, "links": links}
        self.write_json(body, 202)


class TasksHandler(BaseHandler):
    """``GET /api/tasks``: some of the tasks, the newest first."""

    async def get(self) -> None:
        """List those that the query asks for."""
        asked = self.get_query_argument("limit", "100")
        # The length first: Python refuses to read thousands of digits.
        short = asked.isdecimal() and len(asked) <= len(str(_LONGEST_LIST))
        if not short or not 1 <= int(asked) <= _LONGEST_LIST:
            allowed = f"a whole number from 1 to {_LONGEST_LIST:,}"
            raise InvalidRequest("limit", asked, allowed)
        page = await asyncio.to_thread(
            self.studio.tasks,
            status=self.get_query_argument("status", None),
            text=self.get_query_argument("text", None),
            since=_time("since", self.get_query_argument("since", None)),
            batch_id=self.get_query_argument("batch_id", None),
            limit=int(asked),
            cursor=self.get_query_argument("cursor", None),
        )
        tasks = [task_body(record) for record in page]
        self.write_json({"tasks": tasks, "next_cursor": page.next_cursor})


class TaskHandler(BaseHandler):
    """``GET /api/tasks/{id}``: one task."""

    async def get(self, task_id: str) -> None:
        """Answer with the task as the store has it."""
        check_task_id(task_id)

        def read() -> dict[str, Any]:
            body = task_body(self.studio.get_record(task_id))
            return {**body, "publications": publications_body(self.studio, task_id)}

        self.write_json(await asyncio.to_thread(read))


class BatchHandler(BaseHandler):
    """``GET /api/batches/{id}``: how far a batch is."""

    async def get(self, batch_id: str) -> None:
        """Answer with the progress of all of its rows together."""
        progress = await asyncio.to_thread(lambda: self.studio.batch(batch_id).progress)
        self.write_json(msgspec.to_builtins(progress))


class CancelHandler(BaseHandler):
    """``POST /api/tasks/{id}/cancel``: end one task."""

    async def post(self, task_id: str) -> None:
        """Ask the task to end, in whatever state it is, and answer with it."""
        check_task_id(task_id)
        await asyncio.to_thread(self.studio.cancel, task_id)
        self.write_json(
            task_body(await asyncio.to_thread(self.studio.get_record, task_id))
        )


class ImageHandler(BaseHandler):
    """``GET /images/{name}``: a picture, which never changes under its name."""

    async def get(self, name: str) -> None:
        """Send the file."""
        try:
            data = await asyncio.to_thread(self.studio.read_image, name)
        except UnknownImage:
            raise HTTPError(404) from None
        self.set_header("Content-Type", f"image/{name.rpartition('.')[2]}")
        self.set_header("Cache-Control", "public, max-age=31536000, immutable")
        self.finish(data)

    head = get


class HealthHandler(BaseHandler):
    """``GET /health``: the server lives and its store can be read."""

    async def get(self) -> None:
        """Answer 200, or 503 when the store cannot be read."""
        try:
            await asyncio.to_thread(self.studio.tasks, limit=1)
        except (NbgenError, OSError):
            self.write_json({"status": "unhealthy"}, 503)
        else:
            self.write_json({"status": "healthy"})


def _data_of_url(field: str, url: str) -> bytes:
    head, comma, text = url.partition(",")
    if comma and head.endswith(";base64"):
        with suppress(ValueError):
            return base64.b64decode(text, validate=True)
    allowed = "a name, an /images/ URL or a data: URL in base64"
    raise InvalidRequest(field, url, allowed)


def _time(field: str, value: str | None) -> dt.datetime | None:
    if value is None:
        return None
    try:
        # The plus of an offset that was not encoded has come as a blank.
        time = dt.datetime.fromisoformat(value.replace(" ", "+"))
        time = time if time.tzinfo else time.replace(tzinfo=dt.UTC)
        return time.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        allowed = "a time such as 2026-01-02T03:04:05Z"
        raise InvalidRequest(field, value, allowed) from None


def _picture(result: GenerationResult, task_id: str) -> dict[str, Any]:
    first = result.images[0]
    return {
        "success": True,
        "image_url": first.url,
        "image": {
            "url": first.url,
            "source": "sdxl",
            "width": first.width,
            "height": first.height,
        },
        "message": done_message(result),
        "generation_time": result.generation_time,
        "task_id": task_id,
    }


def _no_picture(message: str, task_id: str | None) -> dict[str, Any]:
    return {
        "success": False,
        "image_url": "",
        "image": None,
        "message": message,
        "generation_time": 0.0,
        "task_id": task_id,
    }
