"""Print what may be other people's words: nothing in it moves a terminal's cursor or colours its text."""

from collections.abc import Sequence

__all__ = ["printable", "table"]


def printable(text: object) -> str:
    """Return a text on a single line, its control characters as spaces."""
    return "".join(character if character.isprintable() else " " for character in str(text))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with aligned columns, a line a row."""
    cells = [list(map(printable, row)) for row in (columns, *rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(columns))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)
