"""What the bench says: one row per figure, beside its target where there is one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Figures: TypeAlias = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Row:
    """One line of the table. ``reached`` is None when there is no target."""

    name: str
    value: str
    target: str = ""
    reached: bool | None = None
    figures: Figures = field(default_factory=dict)

    @property
    def mark(self) -> str:
        return {True: "ok", False: "OVER", None: ""}[self.reached]

    def __str__(self) -> str:
        return f"{self.name:46}  {self.value:46}  {self.target:20}  {self.mark}".rstrip()


def median(values: Iterable[float]) -> float:
    return quantile(values, 0.5)


def quantile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(rows: Sequence[Row]) -> str:
    cells = [("what", "measured", "target", ""), *((r.name, r.value, r.target, r.mark) for r in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
