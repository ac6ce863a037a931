"""Mutations of the values in JSON and YAML: mappings, lists and scalars."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tests.fuzz import values

Place = tuple[Any, ...]  # the keys and indices that lead to a value


def mutated(tree: Any, rng: random.Random) -> Any:
    """A copy of the tree, damaged in one place or in a few."""
    tree = _copied(tree)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        tree = _edited(tree, rng)
    return tree


def scaled(tree: Any, rng: random.Random) -> Any:
    """A copy of the tree with some numbers larger or smaller."""
    tree = _copied(tree)
    for place in list(_places(tree)):
        here = _at(tree, place)
        if place and isinstance(here, int | float) and not isinstance(here, bool) and rng.random() < 0.1:
            _at(tree, place[:-1])[place[-1]] = rng.choice(
                [here * 2, here * 1000, here + 1, here / 2, 1 - here, type(here)(1)]
            )
    return tree


def _edited(tree: Any, rng: random.Random) -> Any:
    places = list(_places(tree))
    place = rng.choice(places)
    if not place:
        return _other(tree, rng)
    above, last = _at(tree, place[:-1]), place[-1]
    here = above[last]
    match rng.randrange(9):
        case 0:
            del above[last]
        case 1 if isinstance(above, list):
            above[last:last] = [_copied(here) for _ in range(rng.choice([1, 1, 2, 50]))]
        case 1:
            above[_word(rng, above)] = _copied(here)
        case 2:  # rename a key
            if isinstance(above, dict):
                del above[last]
                above[_word(rng, above)] = here
            else:
                rng.shuffle(above)
        case 3:  # a value from elsewhere in the tree
            above[last] = _copied(_at(tree, rng.choice(places)))
        case 4:
            above[last] = rng.choice([[here], {"a": here}, [here, _copied(here)], str(here), repr(here), not here])
        case 5:
            above[last] = values.deep(rng) if rng.random() < 0.2 else values.value(rng)
        case _:
            above[last] = _other(here, rng)
    return tree


def _other(here: Any, rng: random.Random) -> Any:
    """A value similar to the present one, or any other."""
    if isinstance(here, str) and rng.random() < 0.6:
        place = rng.randrange(len(here) + 1)
        put = rng.choice([values.text(rng), rng.choice("aZ0/.-_ \n\0"), ""])
        return rng.choice([here[:place] + put + here[place + rng.randrange(3) :], here[:place], here * 2, here.upper()])
    if isinstance(here, int | float) and not isinstance(here, bool) and abs(here) < 2**63 and rng.random() < 0.5:
        return rng.choice([here + 1, here - 1, -here, here * 1000, here / 7, float(here), str(here), int(here == here)])
    return values.value(rng)


def _word(rng: random.Random, above: dict[str, Any]) -> str:
    known = str(rng.choice(list(above))) if above else "a"
    return rng.choice([values.text(rng), known, known.upper(), known + "s", known[1:]])


def _places(tree: Any, place: Place = ()) -> Iterator[Place]:
    yield place
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    if len(place) < 20:
        for name, child in children:
            yield from _places(child, (*place, name))


def _at(tree: Any, place: Place) -> Any:
    for name in place:
        tree = tree[name]
    return tree


def _copied(tree: Any, level: int = 0) -> Any:
    """Copy as deep as mutations go; nothing below that is ever changed."""
    if level < 25 and isinstance(tree, dict):
        return {name: _copied(child, level + 1) for name, child in tree.items()}
    if level < 25 and isinstance(tree, list):
        return [_copied(child, level + 1) for child in tree]
    return tree
