"""Exporting from whatever has tasks and pictures."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from nbgen.errors import InvalidRequest, PictureDamaged, UnknownImage
from nbgen.exporting import Exported, export_pictures
from nbgen.schema import (
    GenerationRequest,
    GenerationResult,
    ImageRecord,
    Status,
    TaskPage,
    TaskQuery,
    TaskRecord,
)


def task(number: int) -> TaskRecord:
    name = f"{number:032x}.png"
    image = ImageRecord(name=name, url=f"/images/{name}", width=8, height=8, seed=1)
    return TaskRecord(
        id=str(number),
        request=GenerationRequest(prompt="a cat"),
        seed=1,
        status=Status.COMPLETED,
        created_at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        result=GenerationResult(images=(image,), generation_time=1.0),
    )


class Paged:
    """Tasks in pages of two; the picture of task 3 is gone, that of 1 damaged."""

    def __init__(self) -> None:
        self.records = [task(number) for number in range(5)]

    def list_tasks(self, query: TaskQuery) -> TaskPage:
        assert query.limit >= 2
        start = int(query.cursor or 0)
        more = start + 2 < len(self.records)
        return TaskPage(
            self.records[start : start + 2], str(start + 2) if more else None
        )

    def read_picture(self, name: str) -> bytes:
        if name.startswith(f"{3:032x}"):
            raise UnknownImage(name)
        if name.startswith(f"{1:032x}"):
            raise PictureDamaged(name)
        return name.encode()


def test_all_pages_are_exported_and_what_is_gone_or_damaged_is_named(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "new" / "out"
    names = [f"{number:032x}.png" for number in range(5)]
    gone, damaged = names.pop(3), names.pop(1)
    done = export_pictures(Paged(), folder, "all")
    assert done == Exported(5, tuple(names), (damaged, gone))
    assert [(folder / name).read_bytes() for name in names] == [
        name.encode() for name in names
    ]
    described = json.loads((folder / "tasks.json").read_text())
    assert [entry["id"] for entry in described] == ["0", "1", "2", "3", "4"]


def test_a_file_of_several_tasks_is_exported_and_missed_once(tmp_path: Path) -> None:
    paged = Paged()
    paged.records = [task(2), task(2), task(3), task(3)]
    done = export_pictures(paged, tmp_path, "all")
    assert done == Exported(4, (f"{2:032x}.png",), (f"{3:032x}.png",))


def test_an_approval_that_is_none_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"approval must be .* or 'all'; got 'apr"):
        export_pictures(Paged(), tmp_path / "out", "aproved")
    assert not (tmp_path / "out").exists()
