"""A web service is told of an approval, and nobody else is."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import hmac
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from nbgen.errors import InvalidRequest, PublishFailed
from nbgen.review.publishers import Publication, Publisher
from nbgen.review.webhook import WebhookPublisher, _CheckingResolver

PUBLICATION = Publication(
    task_id="post:7",
    image=Path("/home/ada/pictures/0123.png"),
    featured_image_url="/images/0123.png",
    reviewer_id="ada",
    feedback="Schön",
    decided_at=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    request={"prompt": "a cat"},
    seed=7,
)


class Hook:
    """A real web service that keeps what it is asked and answers what it is told."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[HTTPServerRequest] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b""
        self.before_answer: Callable[[Handler], Any] | None = None
        self.port = 0
        self._tls = tls
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._started.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?key=s3cret"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = HTTPServer(
            Application([(".*", Handler, {"hook": self})], log_function=_silent),
            ssl_options=self._tls,
        )
        sockets = bind_sockets(0, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        server.add_sockets(sockets)
        self._started.set()
        await self._stop.wait()
        server.stop()
        await server.close_all_connections()


class Handler(RequestHandler):
    def initialize(self, hook: Hook) -> None:
        self.hook = hook
        self.gone = asyncio.Event()

    async def post(self) -> None:
        self.hook.requests.append(self.request)
        if self.hook.before_answer is not None:
            await self.hook.before_answer(self)
            return
        self.set_status(self.hook.status)
        for name, value in self.hook.headers.items():
            self.set_header(name, value)
        self.write(self.hook.body)

    get = post

    def on_connection_close(self) -> None:
        self.gone.set()


def _silent(_handler: RequestHandler) -> None:
    """Log no request."""


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Return a table of names, each with what it resolves to, one lookup after another.

    Only the lookup is replaced; the connections are real.
    """
    table: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        host = host.decode() if isinstance(host, bytes) else host
        return real(table[host].pop(0) if host in table else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


def test_an_approval_is_posted(hook: Hook) -> None:
    assert WebhookPublisher(hook.url).publish(PUBLICATION) is None
    [request] = hook.requests
    assert (request.method, request.uri) == ("POST", "/hook?key=s3cret")
    assert request.headers["Content-Type"] == "application/json"
    assert "X-Nbgen-Signature" not in request.headers
    assert json.loads(request.body) == {
        "task_id": "post:7",
        "featured_image_url": "/images/0123.png",
        "reviewer_id": "ada",
        "feedback": "Schön",
        "decided_at": "2026-01-02T03:04:05Z",
        "request": {"prompt": "a cat"},
        "seed": 7,
    }


def test_nobody_is_told_where_the_file_lies(hook: Hook) -> None:
    WebhookPublisher(hook.url).publish(PUBLICATION)
    assert b"/home/ada" not in hook.requests[0].body


def test_the_signature_is_of_the_body(hook: Hook) -> None:
    WebhookPublisher(hook.url, secret="hütte").publish(PUBLICATION)
    [request] = hook.requests
    digest = hmac.new("hütte".encode(), request.body, hashlib.sha256).hexdigest()
    assert request.headers["X-Nbgen-Signature"] == f"sha256={digest}"


def test_each_decision_has_a_key_of_its_own(hook: Hook) -> None:
    publisher = WebhookPublisher(hook.url)
    elsewhere = dt.timezone(dt.timedelta(hours=2))
    later = PUBLICATION.decided_at + dt.timedelta(microseconds=1)
    for publication in (
        PUBLICATION,
        PUBLICATION,
        msgspec.structs.replace(
            PUBLICATION, decided_at=PUBLICATION.decided_at.astimezone(elsewhere)
        ),
        msgspec.structs.replace(PUBLICATION, decided_at=later),
        msgspec.structs.replace(PUBLICATION, task_id="post:8"),
    ):
        publisher.publish(publication)
    first, *others = [request.headers["Idempotency-Key"] for request in hook.requests]
    assert others[:2] == [first, first]
    assert len({first, *others}) == 3


@pytest.mark.parametrize(
    ("body", "url"),
    [
        (b'{"url": "https://x.example/7"}', "https://x.example/7"),
        (b'{"url": " http://x.example/7 "}', "http://x.example/7"),
        (b'{"url": "javascript:alert(1)"}', None),
        (b'{"url": "/7"}', None),
        (b'{"url": ""}', None),
        (b'{"url": null}', None),
        (b'{"url": "https://[x"}', None),
        (b'{"link": "https://x.example/7"}', None),
        (b'["https://x.example/7"]', None),
        (b'"https://x.example/7"', None),
        (b"7", None),
        (b"null", None),
        (b"OK", None),
        (b"[" * 100_000, None),
        (b'{"a":' * 100_000, None),
        (b"\xff\xfe", None),
        (b"", None),
    ],
)
def test_the_service_may_answer_a_url(hook: Hook, body: bytes, url: str | None) -> None:
    hook.status, hook.body = 201, body
    assert WebhookPublisher(hook.url).publish(PUBLICATION) == url


@pytest.mark.parametrize("status", [400, 401, 404, 409, 500, 503])
def test_a_refusal_is_a_failure(hook: Hook, status: int) -> None:
    hook.status = status
    with pytest.raises(PublishFailed, match=f"'post:7' .status {status}.") as failure:
        WebhookPublisher(hook.url).publish(PUBLICATION)
    assert "s3cret" not in str(failure.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(hook: Hook, status: int) -> None:
    hook.status, hook.headers = status, {"Location": "/elsewhere"}
    with pytest.raises(PublishFailed, match=f"status {status}"):
        WebhookPublisher(hook.url).publish(PUBLICATION)
    assert [request.path for request in hook.requests] == ["/hook"]


async def stay_silent(handler: Handler) -> None:
    await handler.gone.wait()


async def answer_drop_by_drop(handler: Handler) -> None:
    while not handler.gone.is_set():
        handler.write(b" ")
        await handler.flush()
        await asyncio.wait([asyncio.ensure_future(handler.gone.wait())], timeout=0.02)


@pytest.mark.parametrize("before_answer", [stay_silent, answer_drop_by_drop])
def test_a_service_that_does_not_finish_is_a_failure(
    hook: Hook, before_answer: Any
) -> None:
    hook.before_answer = before_answer
    started = time.monotonic()
    with pytest.raises(PublishFailed, match="Timeout"):
        WebhookPublisher(hook.url, timeout_s=0.3).publish(PUBLICATION)
    assert time.monotonic() - started < 5


def test_a_name_that_is_not_looked_up_in_time_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_o: released.wait(10))
    publisher = WebhookPublisher("https://hook.example/", timeout_s=0.1)
    try:
        with pytest.raises(PublishFailed, match="Timeout"):
            publisher.publish(PUBLICATION)
    finally:
        released.set()


def test_every_address_of_a_name_is_tried(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``localhost`` may mean ::1 first, where nobody listens."""

    def both(_host: Any, port: Any, *_args: Any, **_options: Any) -> Any:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    WebhookPublisher(f"http://localhost:{hook.port}/").publish(PUBLICATION)
    assert len(hook.requests) == 1


def test_an_answer_without_end_is_a_failure(hook: Hook) -> None:
    hook.body = b" " * (2**20 + 1)
    with pytest.raises(PublishFailed):
        WebhookPublisher(hook.url).publish(PUBLICATION)


def test_a_service_that_is_not_there_is_a_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(PublishFailed, match=r"127\.0\.0\.1 cannot be reached"):
            WebhookPublisher(f"http://127.0.0.1:{port}/").publish(PUBLICATION)


def test_a_name_that_means_nothing_is_a_failure(names: dict[str, list[str]]) -> None:
    names["hook.example"] = ["256.256.256.256"]
    with pytest.raises(PublishFailed, match=r"hook\.example cannot be reached"):
        WebhookPublisher("https://hook.example/").publish(PUBLICATION)


REFUSED = [
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "0.0.0.0",
    "::",
    "fe80::1",
    "fc00::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "2001:db8::1",
    "::ffff:10.1.2.3",
    "::ffff:169.254.169.254",
    "::10.1.2.3",
    "64:ff9b::10.1.2.3",
    "64:ff9b::127.0.0.1",
    "2002:a01:203::1",
    "2002:7f00:1::1",
]


def resolve(host: str, *, encrypted: bool = True, allow_private: bool = False) -> None:
    resolver = _CheckingResolver(encrypted=encrypted, allow_private=allow_private)
    asyncio.run(resolver.resolve(host, 443))


@pytest.mark.parametrize("address", REFUSED)
def test_only_public_addresses_are_connected_to(
    names: dict[str, list[str]], address: str
) -> None:
    names["hook.example"] = [address]
    with pytest.raises(PublishFailed, match="not at a public address"):
        WebhookPublisher("https://hook.example/").publish(PUBLICATION)
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(PublishFailed, match="not at a public address"):
        WebhookPublisher(f"https://{literal}/").publish(PUBLICATION)
    resolve(address, allow_private=True)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "::ffff:127.0.0.1",
    ],
)
def test_public_and_loopback_addresses_are_connected_to(address: str) -> None:
    resolve(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "10.1.2.3"])
def test_only_loopback_is_told_unencrypted(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    publisher = WebhookPublisher(f"http://{literal}/", allow_private=True)
    with pytest.raises(PublishFailed, match="must start with https://"):
        publisher.publish(PUBLICATION)
    for loopback in ("127.0.0.1", "::1"):
        resolve(loopback, encrypted=False)


@pytest.mark.parametrize("disguise", ["2130706433", "0x7f.1", "127.1"])
def test_the_address_counts_and_not_its_spelling(hook: Hook, disguise: str) -> None:
    WebhookPublisher(f"http://{disguise}:{hook.port}/").publish(PUBLICATION)
    assert len(hook.requests) == 1


def test_one_refused_address_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(_host: Any, port: Any, *_args: Any, **_options: Any) -> Any:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("8.8.8.8", "10.1.2.3")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with pytest.raises(PublishFailed, match=r"10\.1\.2\.3"):
        WebhookPublisher("https://hook.example/").publish(PUBLICATION)


def test_a_name_cannot_change_its_meaning_after_the_check(
    hook: Hook, names: dict[str, list[str]]
) -> None:
    """The address that was checked is connected to, and the name not asked again."""
    names["hook.example"] = ["127.0.0.1", "10.1.2.3"]
    WebhookPublisher(f"http://hook.example:{hook.port}/").publish(PUBLICATION)
    assert names["hook.example"] == ["10.1.2.3"]
    assert hook.requests[0].host == f"hook.example:{hook.port}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a new certificate of hook.example and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    done = subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=hook.example"
        " -addext subjectAltName=DNS:hook.example -keyout key.pem -out cert.pem"
        " && cat key.pem cert.pem > both.pem",
        shell=True,
        cwd=folder,
        capture_output=True,
    )
    if done.returncode:
        pytest.skip("OpenSSL is not installed")
    return folder / "both.pem"


@pytest.fixture
def encrypted_hook(certificate: Path) -> Iterator[Hook]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    hook = Hook(tls)
    yield hook
    hook.close()


def test_the_certificate_is_checked_for_the_name(
    encrypted_hook: Hook,
    certificate: Path,
    names: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Connecting to a checked address must not cost the check of who is there."""
    trusting = ssl.create_default_context(cafile=str(certificate))
    names.update({"hook.example": ["127.0.0.1"] * 2, "other.example": ["127.0.0.1"]})
    right = WebhookPublisher(f"https://hook.example:{encrypted_hook.port}/")
    wrong = WebhookPublisher(f"https://other.example:{encrypted_hook.port}/")
    with pytest.raises(PublishFailed, match="certificate"):
        right.publish(PUBLICATION)
    monkeypatch.setattr(
        "tornado.simple_httpclient._client_ssl_defaults", lambda: trusting
    )
    with pytest.raises(PublishFailed, match="certificate"):
        wrong.publish(PUBLICATION)
    assert encrypted_hook.requests == []
    right.publish(PUBLICATION)
    assert len(encrypted_hook.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hook.example",
        "ftp://hook.example/",
        "file:///etc/passwd",
        "https://",
        "https:///hook",
        "https://[::1",
        "https://hook.example:99999/",
        "https://hook.example:x/",
    ],
)
def test_what_is_no_url_of_a_webhook_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="url must be"):
        WebhookPublisher(url)


def test_an_empty_secret_is_refused() -> None:
    """It would sign nothing, and comes of a variable that is not set."""
    with pytest.raises(InvalidRequest, match="secret must be"):
        WebhookPublisher("https://hook.example/", secret="")


def test_threads_may_share_a_publisher(hook: Hook) -> None:
    hook.body = b'{"url": "https://x.example/7"}'
    publisher: Publisher = WebhookPublisher(hook.url)
    urls: list[str | None] = []
    threads = [
        threading.Thread(target=lambda: urls.append(publisher.publish(PUBLICATION)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert urls == ["https://x.example/7"] * 8
