"""Publishing into a folder, and waiting between attempts."""

from __future__ import annotations

import datetime as dt
import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgen.errors import PublishFailed
from nbgen.review.publishers import (
    FolderPublisher,
    Publication,
    Publisher,
    retry_delay_s,
)

PICTURE = b"\x89PNG\r\n\x1a\n and so on"


@pytest.fixture
def publication(tmp_path: Path) -> Publication:
    image = tmp_path / "0123.png"
    image.write_bytes(PICTURE)
    return Publication(
        task_id="a",
        image=image,
        featured_image_url="/images/0123.png",
        reviewer_id="ada",
        feedback="Schön",
        decided_at=dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC),
        request={"prompt": "a cat", "seed": None},
        seed=7,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_picture_is_copied_and_described(
    publication: Publication, tmp_path: Path
) -> None:
    folder = tmp_path / "not yet" / "there"
    url = FolderPublisher(str(folder)).publish(publication)
    assert url == (folder / "a.png").as_uri()
    files = contents(folder)
    assert sorted(files) == ["a.json", "a.png"]
    assert files["a.png"] == PICTURE
    assert json.loads(files["a.json"]) == {
        "task_id": "a",
        "image": "a.png",
        "featured_image_url": "/images/0123.png",
        "reviewer_id": "ada",
        "feedback": "Schön",
        "decided_at": "2026-01-02T03:04:05.678901Z",
        "request": {"prompt": "a cat", "seed": None},
        "seed": 7,
    }


def test_a_long_id_gets_a_name_that_a_disk_takes(
    publication: Publication, tmp_path: Path
) -> None:
    """And two long ids that begin alike get two names."""
    publisher = FolderPublisher(tmp_path / "out")
    for last in "ab":
        publisher.publish(
            msgspec.structs.replace(publication, task_id=":" * 127 + last)
        )
    names = contents(tmp_path / "out")
    assert len(names) == 4
    assert max(len(name) for name in names) < 255


def test_publishing_again_changes_nothing(
    publication: Publication, tmp_path: Path
) -> None:
    publisher = FolderPublisher(tmp_path / "out")
    url = publisher.publish(publication)
    before = contents(tmp_path / "out")
    assert publisher.publish(publication) == url
    assert contents(tmp_path / "out") == before


def test_a_picture_that_is_elsewhere_is_only_described(
    publication: Publication, tmp_path: Path
) -> None:
    elsewhere = msgspec.structs.replace(publication, image=None)
    assert FolderPublisher(tmp_path / "out").publish(elsewhere) is None
    files = contents(tmp_path / "out")
    assert list(files) == ["a.json"]
    assert "image" not in json.loads(files["a.json"])


@pytest.mark.parametrize(
    ("task_id", "stem"),
    [
        ("post:7", "post%3A7"),
        ("post%3A7", "post%253A7"),
        ("../../up", "..%2F..%2Fup"),
        ("a\\b", "a%5Cb"),
        ("..", ".."),
        ("CON", "%43ON"),
        ("nul", "%6Eul"),
        ("com1.tar", "%63om1.tar"),
        ("console", "console"),
    ],
)
def test_the_name_of_a_file_is_safe_everywhere(
    publication: Publication, tmp_path: Path, task_id: str, stem: str
) -> None:
    named = msgspec.structs.replace(publication, task_id=task_id)
    url = FolderPublisher(tmp_path / "out").publish(named)
    assert sorted(contents(tmp_path / "out")) == [f"{stem}.json", f"{stem}.png"]
    assert url is not None
    assert Path(unquote(urlsplit(url).path)).read_bytes() == PICTURE


def test_other_readers_may_read_what_is_published(
    publication: Publication, tmp_path: Path
) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    FolderPublisher(tmp_path / "out").publish(publication)
    for path in (tmp_path / "out").iterdir():
        assert path.stat().st_mode == ordinary.stat().st_mode


def test_a_failure_leaves_what_was_there(
    publication: Publication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = FolderPublisher(tmp_path / "out")
    publisher.publish(publication)
    before = contents(tmp_path / "out")

    def fail(_handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(PublishFailed, match=r"'a'.*disk full") as failure:
        publisher.publish(publication)
    assert failure.value.code == "publish_failed"
    assert contents(tmp_path / "out") == before


def test_a_picture_that_is_gone_is_not_described(
    publication: Publication, tmp_path: Path
) -> None:
    assert publication.image is not None
    publication.image.unlink()
    with pytest.raises(PublishFailed, match=r"0123\.png"):
        FolderPublisher(tmp_path / "out").publish(publication)
    assert contents(tmp_path / "out") == {}


def test_a_folder_that_cannot_be_made_is_a_failure(
    publication: Publication, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublishFailed, match="Check that the folder"):
        FolderPublisher(tmp_path / "file" / "out").publish(publication)


def test_several_threads_may_publish_the_same(
    publication: Publication, tmp_path: Path
) -> None:
    publisher = FolderPublisher(tmp_path / "out")
    urls: list[str | None] = []
    threads = [
        threading.Thread(target=lambda: urls.append(publisher.publish(publication)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert urls == [(tmp_path / "out" / "a.png").as_uri()] * 8
    assert sorted(contents(tmp_path / "out")) == ["a.json", "a.png"]


def test_the_built_in_publishers_are_publishers(tmp_path: Path) -> None:
    publisher: Publisher = FolderPublisher(tmp_path)
    assert isinstance(publisher, Publisher)


def test_the_delay_doubles_up_to_an_hour() -> None:
    delays = [retry_delay_s(attempt) for attempt in range(1, 13)]
    assert delays[:4] == [5, 10, 20, 40]
    assert delays[-3:] == [2560, 3600, 3600]


@given(st.integers(min_value=1))
def test_a_later_attempt_never_waits_less(attempt: Any) -> None:
    assert 5 <= retry_delay_s(attempt) <= retry_delay_s(attempt + 1) <= 3600
