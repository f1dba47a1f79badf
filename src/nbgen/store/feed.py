"""The expressions that say how far the change feed has come. For any thread."""

from __future__ import annotations

import sqlalchemy as sa

from nbgen.store.tables import changes, feed

_NEWEST = sa.func.coalesce(
    sa.select(sa.func.max(changes.c.number)).scalar_subquery(),
    # All may be forgotten, and the numbers go on all the same.
    sa.select(feed.c.pruned).scalar_subquery(),
)
NEXT_NUMBER = sa.select(_NEWEST + 1).scalar_subquery()
"""The number of the next change."""

FEED = sa.select(feed.c.epoch, feed.c.pruned, _NEWEST.label("newest"))
"""The feed as it stands: its epoch, its newest number and what is forgotten of it."""
