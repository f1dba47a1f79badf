"""A model hub on this machine: as much of its HTTP API as a download needs.

And what lies in the cache after a download.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Self

import tornado.httpserver
import tornado.netutil
import tornado.web

from nbgen.generation.checkpoints import (
    SDXL_BASE,
    SDXL_REFINER,
    SDXL_VAE,
    TINY_FOLDER,
    HubModel,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNET = "diffusion_pytorch_model"


class Hub:
    """Serves folders as models; use it as a context manager.

    Args:
        models: The folder of each model, by its id.

    Attributes:
        url: For ``HF_ENDPOINT``.
        requests: What was asked for: ``"GET /owner/name/… bytes=5-"``.
        break_after: Bytes of a file's body after which its connection is cut, by the
            file's path in the model; each is used once.
        refuse_ranges: Whether to answer requests for the rest of a file with an error.
    """

    def __init__(self, models: dict[str, Path]) -> None:
        self.models = models
        self.url = ""
        self.requests: list[str] = []
        self.break_after: dict[str, int] = {}
        self.refuse_ranges = False

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="hub"
        )
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        [socket] = tornado.netutil.bind_sockets(0, "127.0.0.1")
        self.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        application = tornado.web.Application(
            [
                (r"/api/models/([\w.-]+/[\w.-]+)/tree/(\w+)", _Tree, {"hub": self}),
                (
                    r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(\w+))?",
                    _Info,
                    {"hub": self},
                ),
                (r"/([\w.-]+/[\w.-]+)/resolve/(\w+)/(.+)", _File, {"hub": self}),
            ],
            log_function=lambda _handler: None,
        )
        server = tornado.httpserver.HTTPServer(application)
        server.add_sockets([socket])
        started.set()
        await self._ended.wait()
        server.stop()
        await server.close_all_connections()


class _Handler(tornado.web.RequestHandler):
    def initialize(self, hub: Hub) -> None:
        self.hub = hub

    def prepare(self) -> None:
        asked = f"{self.request.method} {self.request.path}"
        wanted = self.request.headers.get("Range")
        self.hub.requests.append(asked if wanted is None else f"{asked} {wanted}")

    def model(self, name: str) -> Path:
        """Return the folder of a model; answer as the hub does if there is none."""
        if name not in self.hub.models:
            self.set_header("X-Error-Code", "RepoNotFound")
            raise tornado.web.HTTPError(404)
        return self.hub.models[name]

    def write_error(self, status_code: int, **_reason: object) -> None:
        # The base class would clear the header above.
        self.finish(json.dumps({"error": f"status {status_code}"}))

    def send_error(self, status_code: int = 500, **reason: object) -> None:
        self.set_status(status_code)
        self.write_error(status_code, **reason)

    def log_exception(self, *_exception: object) -> None:
        """Say nothing: the errors here are meant."""


class _Info(_Handler):
    def get(self, name: str, revision: str | None) -> None:
        self.model(name)
        if revision not in (None, "main", "v1", COMMIT):
            self.set_header("X-Error-Code", "RevisionNotFound")
            raise tornado.web.HTTPError(404)
        self.finish({"id": name, "sha": COMMIT, "siblings": []})


class _Tree(_Handler):
    def get(self, name: str, _revision: str) -> None:
        folder = self.model(name)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        listed = [
            {
                "type": "file",
                "path": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in files
        ]
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(listed))


class _File(_Handler):
    def head(self, name: str, revision: str, path: str) -> None:
        self._describe(self._body(name, path), revision)
        self.finish()

    async def get(self, name: str, revision: str, path: str) -> None:
        body = self._body(name, path)
        start = re.match(r"bytes=(\d+)-", self.request.headers.get("Range", ""))
        if start is not None and self.hub.refuse_ranges:
            raise tornado.web.HTTPError(500)
        self._describe(body, revision)
        if start is not None:
            self.set_status(206)
            first = int(start[1])
            last = len(body) - 1
            self.set_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            body = body[first:]
            self.set_header("Content-Length", len(body))
        cut = self.hub.break_after.pop(path, None)
        self.write(body[:cut])
        await self.flush()
        if cut is None:
            self.finish()
        else:
            self.detach().close()

    def _body(self, name: str, path: str) -> bytes:
        return (self.model(name) / path).read_bytes()

    def _describe(self, body: bytes, commit: str) -> None:
        self.set_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.set_header("X-Repo-Commit", commit)
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Content-Length", len(body))


def cached(cache: Path, model: HubModel) -> Path:
    """Return the folder in which the files of a model lie after a download."""
    held = cache / f"models--{model.repository.replace('/', '--')}"
    if model.revision is not None and len(model.revision) == len(COMMIT):
        return held / "snapshots" / model.revision
    (held / "refs").mkdir(parents=True, exist_ok=True)
    (held / "refs" / (model.revision or "main")).write_text(COMMIT)
    return held / "snapshots" / COMMIT


def put_sdxl(cache: Path) -> None:
    """Put a tiny SDXL where a download of the real one would lie."""
    base = shutil.copytree(TINY_FOLDER, cached(cache, SDXL_BASE))
    shutil.rmtree(base / "refiner")
    (base / "vae" / f"{UNET}.safetensors").unlink()  # SDXL's own is not downloaded
    shutil.copytree(TINY_FOLDER / "refiner", cached(cache, SDXL_REFINER))
    shutil.copytree(TINY_FOLDER / "vae", cached(cache, SDXL_VAE))
