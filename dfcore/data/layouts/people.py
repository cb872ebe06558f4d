"""Hold people out of training where a data set has no validation split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from dfcore.data.layouts.listing import Found, connected, held_out

__all__ = ["LEFT_OUT", "group_people", "hold_out_people"]

LEFT_OUT = "left out: it shows people of training and of validation together"
# of the people who are swapped with one another
_SHARE = 0.1
# a group of more than this share of all fakes is cut; smaller ones are held out whole
_LARGE = 0.2
_FEWEST = 6


def hold_out_people(
    samples: Sequence[tuple[Found, tuple[str, ...]]],
) -> tuple[list[Found], dict[str, str]]:
    """Make a validation split from the training samples, so that nobody is in both, and name all groups.

    Where everybody was swapped with everybody, the fakes that show a person of each side must go.

    Args:
        samples: with the identities that each shows.

    Returns:
        The samples with split and group, and for the path of each that is left out, why.
    """
    training = [(found, people) for found, people in samples if found.split == "train"]
    chosen = _chosen([people for _, people in training])
    kept: list[tuple[Found, tuple[str, ...]]] = []
    left_out = {}
    for found, people in training:
        inside = len(chosen.intersection(people))
        if 0 < inside < len(set(people)):
            left_out[found.path] = LEFT_OUT
        else:
            kept.append((found._replace(split="val" if inside else "train"), people))
    rest = [(found, people) for found, people in samples if found.split != "train"]
    return group_people([*kept, *rest]), left_out


def group_people(samples: Sequence[tuple[Found, tuple[str, ...]]]) -> list[Found]:
    """Name the group of each sample: the people that are connected through samples outside the test split.

    A test sample joins the first group that training or validation knows, so that an overlap is seen.
    """
    kept = [people for found, people in samples if found.split != "test"]
    group_of = connected(kept)
    tested = [people for found, people in samples if found.split == "test"]
    unknown = connected(new for people in tested if (new := [one for one in people if one not in group_of]))
    named = []
    for found, people in samples:
        known = sorted({group_of[person] for person in people if person in group_of})
        named.append(found._replace(group=known[0] if known else unknown[people[0]]))
    return named


def _chosen(shown: Sequence[tuple[str, ...]]) -> set[str]:
    """Choose the people who validate."""
    component = connected(shown)
    members: dict[str, set[str]] = defaultdict(set)
    for person, name in component.items():
        members[name].add(person)
    if len(component) < _FEWEST:
        return set()
    fakes = Counter(component[people[0]] for people in shown if len(set(people)) > 1)
    total = sum(fakes.values())
    large = {name for name, count in fakes.items() if count > _LARGE * total}
    small_swapped = {name for name in fakes if name not in large}
    alone = set(members) - set(fakes)
    chosen = {person for name in held_out(alone) | held_out(small_swapped) for person in members[name]}
    for name in sorted(large):
        chosen |= _cut(members[name], [people for people in shown if component[people[0]] == name])
    return chosen


def _cut(members: set[str], shown: Sequence[tuple[str, ...]]) -> set[str]:
    """Choose a tenth of connected people so that as few fakes as possible show one of them and one other."""
    weight: dict[str, Counter[str]] = defaultdict(Counter)
    for people in shown:
        for person in set(people):
            weight[person].update(set(people) - {person})
    size = max(2, round(_SHARE * len(members)))
    if len(members) < _FEWEST:
        return set()
    best: tuple[float, list[str]] = (-1.0, [])
    for start in sorted(members)[:64]:
        grown = _grown(start, weight, size)
        inside = sum(weight[a][b] for a in grown for b in grown) / 2
        touched = sum(weight[a].total() for a in grown) - inside
        best = max(best, (inside / max(touched, 1), grown))
    return set(best[1])


def _grown(start: str, weight: dict[str, Counter[str]], size: int) -> list[str]:
    grown = [start]
    near = Counter(weight[start])
    while len(grown) < size and near:
        # the one whose fakes are mostly with those chosen already
        new = max(sorted(near), key=lambda person: near[person] / weight[person].total())
        grown.append(new)
        near.update(weight[new])
        for person in grown:
            near.pop(person, None)
    return sorted(grown)
