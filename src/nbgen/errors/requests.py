"""Errors about what was asked for: fields, rows, names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from nbgen.errors.base import NbgenError, shown

if TYPE_CHECKING:
    from pandas import DataFrame


class InvalidRequest(NbgenError, ValueError):
    """A field of a request has a value that is not allowed.

    Attributes:
        field: The name of the field, as the caller wrote it.
        allowed: What the field takes, as a phrase.
    """

    code = "invalid_request"

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.allowed = allowed
        super().__init__(f"{field} must be {allowed}; got {shown(value)}.")

    def renamed(self, field: str) -> InvalidRequest:
        """Return the same error with the field called as another caller knows it."""
        error = InvalidRequest(field, None, self.allowed)
        # The value is in the message only: it may be large, or not fit for a pipe.
        error.args = (field + str(self).removeprefix(self.field),)
        return error


class RowMistake(NamedTuple):
    """A cell of a table that asks for what is not allowed.

    Attributes:
        row: The position of its row, from 0.
        key: The key of its row, or None.
        field: The field of the request, or the name of the column.
        value: What stands in the cell, as text.
        error: What is wrong with it.
    """

    row: int
    key: str | None
    field: str
    value: str
    error: str


class RowErrors(NbgenError, ValueError):
    """Rows of a table ask for what is not allowed.

    Example::

        try:
            studio.generate_frame(df, prompt="{headline}, watercolor")
        except RowErrors as error:
            print(error.table)

    Attributes:
        mistakes: Every mistake, in the order of the rows.
    """

    code = "row_errors"

    def __init__(self, message: str, mistakes: Iterable[RowMistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__(message)

    @property
    def table(self) -> DataFrame:
        """The mistakes as a ``pandas.DataFrame`` with a row for each.

        Its columns are those of ``RowMistake``.
        """
        import pandas as pd  # only for those who ask for a table

        columns = RowMistake._fields
        kinds = {"row": "int64", **dict.fromkeys(columns[1:], "string")}
        return pd.DataFrame(self.mistakes, columns=list(columns)).astype(kinds)


class NoRecipe(NbgenError):
    """A picture file does not say how it was made."""

    code = "no_recipe"


class UnknownImage(NbgenError, LookupError):
    """There is no picture of that name where the studio keeps its pictures."""

    code = "unknown_image"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no picture {shown(name)}. Take a name from the result of a "
            "task, and check that its file was not removed."
        )


class PictureDamaged(NbgenError):
    """The file of a picture does not have the bytes that its name was made from.

    Attributes:
        name: The name of the picture.
    """

    code = "picture_damaged"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"The file of the picture {shown(name)} is damaged: its bytes changed "
            "after it was saved. Generate the picture again with the same request and "
            "seed, and the good file takes its place. 'nbgen check' lists all damaged "
            "files. A damaged picture is never shown, approved or published."
        )


class UnknownBatch(NbgenError, LookupError):
    """There is no batch of that id."""

    code = "unknown_batch"

    def __init__(self, batch_id: str) -> None:
        super().__init__(
            f"There is no batch {shown(batch_id)}. Check the id, or the data folder "
            "that the studio was opened on."
        )
