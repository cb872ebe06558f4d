from __future__ import annotations

from itertools import pairwise

from dfcore.storage.multipart import ranges


def test_parts_are_never_more_than_ten_thousand() -> None:
    pieces = ranges(5 * 2**40)
    assert len(pieces) <= 10_000
    assert pieces[0][0] == 0
    assert pieces[-1][1] == 5 * 2**40
    assert all(before[1] == after[0] for before, after in pairwise(pieces))
