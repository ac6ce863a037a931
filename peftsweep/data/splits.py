"""How is one table split? Stratified by label, all copies of a text in one split, every label in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from peftsweep.config import SplitConfig
from peftsweep.data.table import Table
from peftsweep.errors import DataError
from peftsweep.task import Labels, stratified_sample

PARTS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST, UNUSED = range(4)
PartOfRow = NDArray[np.int64]  # [n], the part (split) of each row
# Weight of the size of a split against its rows of one label, for each pass. The first pass favours labels: texts move
# even if a size gets worse. Later passes weigh sizes more, which restores them by the moves that harm labels least. In
# the last pass sizes outweigh all labels, so that only sizes that cannot be reached stay wrong.
SIZE_WEIGHTS = (0.5, 1, 8, 64, 1e6)


def split_table(
    table: Table,
    texts: Sequence[str],
    labels: Labels,
    split: SplitConfig,
    note: Callable[[str], object],
    *,
    as_0_1: bool = False,
) -> dict[str, Table]:
    """The table's splits by name: train, validation and, if it is asked for, test.

    Rows are first drawn by label. Then all copies of a text move to the split that has most of them, and a text moves
    into training for each label that training lacks. That changes sizes and label frequencies, so whole texts move
    between the splits until both are as close as possible to the draw. Without copies and missing labels the draw is
    final. The size of a split may differ from the one asked for by half of a text's copies, or by the texts that
    training needs.

    Args:
        texts: the text of each row. Rows with equal texts are copies.
        as_0_1: keep the draw, as version 0.1 did.

    Raises:
        DataError: the sizes ask for more rows than there are, or every label has a single text, so that none is left
            for validation or test.
    """
    drawn = _draw(table.name, labels, split)
    places = drawn if as_0_1 else _repair(drawn, texts, labels, split.seed)
    parts = {}
    for part, name in enumerate(PARTS):
        asked, rows = int((drawn == part).sum()), np.flatnonzero(places == part)
        if not asked:
            continue
        if not len(rows):
            raise DataError(
                f"data.split.{name}: {table.name} has no row left for {name}: training needs a text of each label"
            )
        if len(rows) != asked:
            note(
                f"data.split.{name}: {len(rows):,} rows instead of {asked:,}: all copies of a text go to one split, "
                "and training gets a text of each label"
            )
        parts[name] = table.take(rows.tolist())
    return parts


def _draw(name: str, labels: Labels, split: SplitConfig) -> PartOfRow:
    """A draw by label only: first the rows of test, then of validation, then of training if it has a size."""
    places = np.full(len(labels), TRAIN)
    left = np.arange(len(labels))
    for part in (TEST, VALIDATION, TRAIN):
        size = getattr(split, PARTS[part])
        if size is None:
            continue
        rows = size if isinstance(size, int) else max(1, round(size * len(labels)))
        after = (0, 1, 2)[part]  # each later split needs a row
        if isinstance(size, float) and rows == len(left) - after + 1 > 1:
            rows -= 1  # all fractions were rounded up
        if rows > len(left) - (part != TRAIN):
            raise DataError(
                f"data.split.{PARTS[part]}: {name} has {len(labels):,} rows, of which {len(left):,} are left for "
                f"{PARTS[part]}; it cannot take {rows:,}"
            )
        chosen = np.arange(len(left)) if rows == len(left) else stratified_sample(labels[left], rows, split.seed)
        places[left[chosen]] = part
        left = np.delete(left, chosen)
    if split.train is not None:
        places[left] = UNUSED
    return places


def _repair(drawn: PartOfRow, texts: Sequence[str], labels: Labels, seed: int) -> PartOfRow:
    """The draw after copies were brought together and every label got a text in training."""
    first: dict[str, int] = {}
    placed = ((text, place) for text, place in zip(texts, drawn.tolist(), strict=True) if place != UNUSED)
    torn = any(first.setdefault(text, place) != place for text, place in placed)
    if not torn and not len(_labels_missing_in_training(drawn, labels)):
        return drawn
    found = _TextMover(drawn, texts, labels, seed)
    for label in _labels_missing_in_training(found.places(), labels):
        found.train(label)
    for part in (VALIDATION, TEST):
        if (drawn == part).any():
            found.fill(part)
    for weight in SIZE_WEIGHTS:
        while found.balance(weight):
            pass
    return found.places()


def _labels_missing_in_training(places: PartOfRow, labels: Labels) -> list[int]:
    """Labels that occur in some row but in none for training."""
    trained = labels[places == TRAIN]
    if labels.ndim == 1:
        return [int(label) for label in np.setdiff1d(labels, trained)]
    return [int(label) for label in np.flatnonzero(labels.any(axis=0) & ~trained.any(axis=0))]


class _TextMover:
    """Moves whole texts between parts. A text starts in the part for which most of its rows were drawn.

    Attributes:
        rows: the rows of each text that are used: those drawn for a split. A row drawn for none is used only if the
            text has no other rows, or if it has a label that the others lack.
        parts: the part of each text.
        on: for each text, the number of its rows by label; under None, of all its rows.
        over: for each part, by label, the number of rows beyond the draw; under None, of all rows.
        counts: for each part, the number of texts by label; under None, of all texts.
        order: the order in which to move texts: those with few copies first, random among equals.
    """

    def __init__(self, drawn: PartOfRow, texts: Sequence[str], labels: Labels, seed: int) -> None:
        copies: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            copies.setdefault(text, []).append(row)
        own = _labels_of_rows(labels)
        places = drawn.tolist()
        self.drawn, self.rows, self.parts = drawn, list[list[int]](), list[int]()
        self.on: list[Counter[int | None]] = []
        self.over: list[Counter[int | None]] = [Counter() for _ in range(4)]
        self.counts: list[Counter[int | None]] = [Counter() for _ in range(4)]
        for rows in copies.values():
            used = [row for row in rows if places[row] != UNUSED] or rows[:]
            self.parts.append(Counter(places[row] for row in used).most_common(1)[0][0])
            known = Counter(label for row in used for label in own[row])
            for row in rows:
                if row not in used and not known.keys() >= set(own[row]):
                    used.append(row)
                    known.update(own[row])
            for row in used:
                self.over[places[row]].subtract(own[row])
            self.rows.append(used)
            self.on.append(known)
            self._add(len(self.on) - 1, self.parts[-1], 1)
        shuffled = np.random.default_rng(seed).permutation(len(self.rows)).tolist()
        self.order = sorted(shuffled, key=lambda text: len(self.rows[text]))

    def places(self) -> PartOfRow:
        found = self.drawn.copy()
        for rows, part in zip(self.rows, self.parts, strict=True):
            found[rows] = part
        return found

    def train(self, label: int) -> None:
        """Move a text with the label into training, unless it has one by now."""
        if not self.counts[TRAIN][label]:
            self._move(next(text for text in self.order if label in self.on[text]), TRAIN)

    def fill(self, part: int) -> None:
        """Move a text into the part if it is empty and another part can spare one."""
        spare = (text for text in self.order if self.parts[text] != part and self._can_spare(text))
        if not self.counts[part][None] and (text := next(spare, None)) is not None:
            self._move(text, part)

    def balance(self, weight: float) -> bool:
        """Move each text to the part where it reduces the sum of squares of `over` most. False if no text moved.

        Args:
            weight: the weight of the size of a part against its rows of one label.
        """
        moved = False
        parts = sorted(set(self.drawn.tolist()) | {TRAIN})
        for text in self.order if any(any(self.over[part].values()) for part in parts) else ():
            part = self.parts[text]
            leaving = self._cost(text, part, -1, weight)
            cost, to = min((leaving + self._cost(text, to, 1, weight), to) for to in parts if to != part)
            if cost < 0 and self._can_spare(text):
                self._move(text, to)
                moved = True
        return moved

    def _cost(self, text: int, part: int, sign: int, weight: float) -> float:
        """How much the part's sum of squares grows if it gains (sign 1) or loses (sign -1) the text."""
        if part == UNUSED:
            return 0.0
        over = self.over[part]
        return sum(
            (weight if label is None else 1.0) * rows * (rows + 2 * sign * over[label])
            for label, rows in self.on[text].items()
        )

    def _can_spare(self, text: int) -> bool:
        """Whether its part can spare it: training keeps a text of each of its labels, other parts keep a text."""
        part = self.parts[text]
        if part == TRAIN:
            return all(self.counts[TRAIN][label] > 1 for label in self.on[text])
        return part == UNUSED or self.counts[part][None] > 1

    def _move(self, text: int, to: int) -> None:
        self._add(text, self.parts[text], -1)
        self._add(text, to, 1)
        self.parts[text] = to

    def _add(self, text: int, part: int, sign: int) -> None:
        for label, rows in self.on[text].items():
            self.over[part][label] += sign * rows
            self.counts[part][label] += sign


def _labels_of_rows(labels: Labels) -> list[list[int | None]]:
    """The labels of each row, and None, which counts the row itself."""
    if labels.ndim == 1:
        return [[label, None] for label in labels.tolist()]
    return [[*np.flatnonzero(row).tolist(), None] for row in labels]
