"""The HTTP API: generate, tasks, pictures, model, health; ``queue`` has the queue."""

from __future__ import annotations

import asyncio

from tornado.web import HTTPError

from nbgen.errors import NbgenError, TaskCancelled, TaskError, UnknownImage
from nbgen.handles.task import Task
from nbgen.schema import TaskQuery
from nbgen.schema.checks import check_task_id, submission_id
from nbgen.server.base import BaseHandler
from nbgen.wire.http import (
    AcceptedAnswer,
    GenerateAnswer,
    GenerateBody,
    HealthBody,
    Links,
    ModelBody,
    TaskBody,
    TaskPageBody,
    check_flags,
    read_flag,
    read_task_query,
    sent_pictures,
)

_UNREADABLE = "The tasks cannot be read. The log of the server says more."

_KEY = "Idempotency-Key"


class GenerateHandler(BaseHandler):
    """``POST /api/media/generate``: make pictures, and wait for them or not."""

    async def post(self) -> None:
        """Queue a request; answer when it has ended, or at once."""
        sent = self.json_body()
        check_flags(sent)
        for field, data in sent_pictures(sent).items():
            sent[field] = await asyncio.to_thread(self.studio.keep_picture, field, data)
        body = GenerateBody.read(sent)
        if not body.use_generation:
            self._answer_without_picture("Generation was not asked for.", None)
            return
        key = self.request.headers.get(_KEY)
        submission_id(body.task_id, key, field=_KEY)  # an error names the header
        task = await asyncio.to_thread(
            self.studio.submit,
            body.request,
            task_id=body.task_id,
            request_key=key,
            replace=body.replace,
        )
        respond_async = "respond-async" in self.request.headers.get("Prefer", "")
        if respond_async or not body.wait:
            self._accept(task)
            return
        try:
            result = await task
        except TaskCancelled as error:
            again = f"To have it made, POST {Links.of(task.id).retry}."
            self._answer_without_picture(f"{error} {again}", task.id)
        except TaskError as error:
            self._answer_without_picture(str(error), task.id)
        else:
            self.write_json(GenerateAnswer.of(result, task.id))

    def _accept(self, task: Task) -> None:
        links = Links.of(task.id)
        self.set_header("Location", links.self_)
        answer = AcceptedAnswer(task_id=task.id, status=task.status_then, links=links)
        self.write_json(answer, 202)

    def _answer_without_picture(self, message: str, task_id: str | None) -> None:
        self.write_json(GenerateAnswer(success=False, message=message, task_id=task_id))


class TasksHandler(BaseHandler):
    """``GET /api/tasks``: some of the tasks, the newest first."""

    async def get(self) -> None:
        """List those that the query asks for."""
        sent = self.request.query_arguments
        # Others belong to whoever stands between, and may be no text at all.
        names = [name for name in TaskQuery.__struct_fields__ if name in sent]
        query = read_task_query({name: self.get_query_argument(name) for name in names})
        page = await asyncio.to_thread(self.studio.backend.list_tasks, query)
        self.write_json(TaskPageBody.of(page))


class TaskHandler(BaseHandler):
    """``GET`` and ``DELETE /api/tasks/{id}``: one task."""

    async def get(self, task_id: str) -> None:
        """Answer with the task as the store has it."""
        check_task_id(task_id)

        def read() -> TaskBody:
            record = self.studio.get_record(task_id)
            return TaskBody.of(record, tuple(self.studio.publications(task_id)))

        self.write_json(await asyncio.to_thread(read))

    async def delete(self, task_id: str) -> None:
        """Delete the task; the answer has no body."""
        check_task_id(task_id)
        force = read_flag("force", self.get_query_argument("force", "false"))
        await asyncio.to_thread(self.studio.delete, task_id, force=force)
        self.set_status(204)


class BatchHandler(BaseHandler):
    """``GET /api/batches/{id}``: how far a batch is."""

    async def get(self, batch_id: str) -> None:
        """Answer with the progress of all of its rows together."""
        progress = await asyncio.to_thread(lambda: self.studio.batch(batch_id).progress)
        self.write_json(progress)


class CancelHandler(BaseHandler):
    """``POST /api/tasks/{id}/cancel``: end one task."""

    async def post(self, task_id: str) -> None:
        """Ask the task to end, in whatever state it is, and answer with it."""
        check_task_id(task_id)
        await asyncio.to_thread(self.studio.cancel, task_id)
        record = await asyncio.to_thread(self.studio.get_record, task_id)
        self.write_json(TaskBody.of(record))


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


class ModelHandler(BaseHandler):
    """``GET /api/model``: which model draws."""

    async def get(self) -> None:
        """Answer with the facts of the model."""
        self.write_json(ModelBody(await asyncio.to_thread(self.studio.model)))


class HealthHandler(BaseHandler):
    """``GET /health``: the server lives and its store can be read."""

    async def get(self) -> None:
        """Answer 200, or 503 when the store cannot be read."""
        try:
            await asyncio.to_thread(self.studio.tasks, limit=1)
        except (NbgenError, OSError) as error:
            # Whatever the system says of a file may hold its path.
            message = str(error) if isinstance(error, NbgenError) else _UNREADABLE
            self.write_json(HealthBody("unhealthy", message), 503)
        else:
            self.write_json(HealthBody("healthy"))
