"""What lasts: tasks and decisions in a SQLite file, pictures in a folder."""

from nbgen.store.images import ImageFolder
from nbgen.store.inputs import keep_picture
from nbgen.store.tasks import Store

__all__ = ["ImageFolder", "Store", "keep_picture"]
