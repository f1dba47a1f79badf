"""The tables of an older nbgen are changed only when it is not at work on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from nbgen.errors import DataFolderUnusable
from nbgen.store import Store
from tests.postgresql import Server

_MARK_AS_OLDER = "UPDATE alembic_version SET version_num = '0006'"


def mark_as_older(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(_MARK_AS_OLDER))
    engine.dispose()


def test_an_older_nbgen_at_work_is_named_and_not_disturbed(tmp_path: Path) -> None:
    """Its tables are not changed under it, and the error says whose they are."""
    store = Store(tmp_path)
    url = f"sqlite:///{tmp_path / 'nbgen.sqlite'}"
    mark_as_older(url)
    with pytest.raises(DataFolderUnusable, match=r"older nbgen.*nbgen 0\.1.* opened"):
        Store(tmp_path)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    engine.dispose()
    assert found == "0006"
    store.close()


def test_an_owner_without_a_name_is_an_older_nbgen(tmp_path: Path) -> None:
    """Versions before the names left a lock only."""
    store = Store(tmp_path)
    for name in (tmp_path / "owners").glob("*.txt"):
        name.unlink()
    mark_as_older(f"sqlite:///{tmp_path / 'nbgen.sqlite'}")
    with pytest.raises(DataFolderUnusable, match="an older nbgen, which opened it at"):
        Store(tmp_path)
    store.close()


def test_an_older_nbgen_on_another_machine_is_named(
    tmp_path: Path, postgresql_server: Server
) -> None:
    """With PostgreSQL its session tells of it."""
    url = postgresql_server.new_database()
    store = Store(tmp_path / "a", url)
    mark_as_older(url)
    with pytest.raises(DataFolderUnusable, match=r"nbgen 0\.1.* from .* opened"):
        Store(tmp_path / "b", url)
    store.close()
