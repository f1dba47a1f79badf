"""The publishers that are set up on a machine, by variables and by packages."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from nbgen.errors import InvalidRequest, PublishFailed
from nbgen.review.installed import load_publishers
from nbgen.review.publishers import Publication
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine

PUBLICATION = Publication(
    task_id="a",
    image=None,
    featured_image_url="https://x.example/a.png",
    reviewer_id="ada",
    feedback=None,
    decided_at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    request=None,
    seed=None,
)

PLUGIN = """
class Printer:
    name = "printer"

    def publish(self, publication):
        return "https://x.example/" + publication.task_id

class Plotter(Printer):
    name = "plotter"

def fail():
    raise KeyError("PRINTER_URL")
"""


def install(folder: Path, **points: str) -> None:
    """Install a distribution with these entry points into the folder."""
    (folder / "nbgen_printer.py").write_text(PLUGIN)
    info = folder / "nbgen_printer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: nbgen-printer\nVersion: 1.0\n"
    )
    lines = [f"{name} = nbgen_printer:{target}" for name, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[nbgen.publishers]", *lines]))


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def test_publishers_are_found_by_entry_point(plugins: Path) -> None:
    install(plugins, b="Plotter", a="Printer")
    publishers = load_publishers()
    assert [publisher.name for publisher in publishers] == ["printer", "plotter"]
    assert publishers[0].publish(PUBLICATION) == "https://x.example/a"


def test_there_are_none_unless_somebody_says_so() -> None:
    assert load_publishers() == ()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("fail", "KeyError: 'PRINTER_URL'"),
        ("nothing", "AttributeError"),
        ("Printer.name", "TypeError"),
        ("Printer.__doc__.__class__", "no name or no publish method"),
    ],
)
def test_a_broken_publisher_is_named(plugins: Path, target: str, said: str) -> None:
    """An approval must not go unpublished without anybody's knowing."""
    install(plugins, mine=target)
    with pytest.raises(PublishFailed, match="'mine'") as failure:
        load_publishers()
    assert said in str(failure.value)


def test_variables_set_up_a_folder_and_a_webhook(
    tmp_path: Path, plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(plugins, mine="Printer")
    monkeypatch.setenv("NBGEN_PUBLISH_FOLDER", str(tmp_path / "approved"))
    monkeypatch.setenv("NBGEN_WEBHOOK_URL", "https://x.example/hook")
    monkeypatch.setenv("NBGEN_WEBHOOK_SECRET", "s3cret")
    names = [publisher.name for publisher in load_publishers()]
    assert names == ["folder", "webhook", "printer"]


def test_a_webhook_that_is_none_is_named_as_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NBGEN_WEBHOOK_URL", "x.example")
    with pytest.raises(InvalidRequest, match="NBGEN_WEBHOOK_URL"):
        load_publishers()


def test_every_studio_keeps_to_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBGEN_PUBLISH_FOLDER", str(tmp_path / "approved"))
    monkeypatch.setenv("NBGEN_QUORUM", "2")
    with Studio(tmp_path / "data", engine=PatternEngine()) as studio:
        studio.generate("a cat", task_id="cat").result(10)
        studio.approve("cat", reviewer_id="ada")
        assert studio.publications("cat") == []
        studio.approve("cat", reviewer_id="bob")
        [record] = studio.publications("cat", wait_s=10)
    assert record.url == (tmp_path / "approved" / "cat.png").as_uri()
