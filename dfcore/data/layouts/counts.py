"""Published sizes of the data sets, and what a manifest has of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from dfcore.data.layouts.ffpp import METHODS
from dfcore.data.layouts.people import LEFT_OUT
from dfcore.data.manifest import FAKE, REAL, Manifest, Sample

__all__ = ["PublishedCount", "published_counts"]


class PublishedCount(NamedTuple):
    """How many samples of a kind a manifest has, and how many were published."""

    dataset: str
    what: str
    found: int
    published: int


_FFPP = {"original": 1000, **dict.fromkeys(METHODS, 1000)}
_DFD = {"original": 363, "DeepFakeDetection": 3068}
_FFPP_SPLITS = {"train": 720, "val": 140, "test": 140}
_CELEB = {
    "celebdf_v1": {"celeb-real": 158, "youtube-real": 250, "fake": 795, "test real": 38, "test fake": 62},
    "celebdf": {"celeb-real": 590, "youtube-real": 300, "fake": 5639, "test real": 178, "test fake": 340},
    "celebdf_pp": {"celeb-real": 590, "youtube-real": 300, "fake": 53_196, "test real": 178},
}
_SPLIT_SIZES = {
    "dfdc": {"training real": 19_154, "training fake": 100_000, "test real": 2500, "test fake": 2500},
    "dfdcp": {"test real": 276, "test fake": 501},
    "dffd": {"real": 222_598, "fake": 104_680},
}
_WILD = {"sequences": 7314, "source videos": 707}


def published_counts(manifest: Manifest) -> list[PublishedCount]:
    """Compare a manifest with the published sizes of its data sets; other data sets are left out.

    People hold parts of a data set, so a difference is for them to judge. Fakes that were left out to keep
    training and validation apart are counted as found.
    """
    left_out = sum(reason == LEFT_OUT for _, reason in manifest.skipped)
    datasets = sorted({sample.dataset for sample in manifest.samples})
    rows: list[PublishedCount] = []
    for dataset in datasets:
        samples = [sample for sample in manifest.samples if sample.dataset == dataset]
        if dataset in ("ffpp", "dfd"):
            rows += _by_compression(dataset, samples)
        elif dataset == "wilddeepfake":
            found = {"sequences": len(samples), "source videos": len({sample.group_id for sample in samples})}
            rows += [PublishedCount(dataset, what, found[what], number) for what, number in _WILD.items()]
        else:
            published = _CELEB.get(dataset) or _SPLIT_SIZES.get(dataset) or {}
            counted = _kinds(samples)
            counted.update(dict.fromkeys(("fake", "training fake"), left_out if len(datasets) == 1 else 0))
            rows += [
                PublishedCount(dataset, what, counted[what], number) for what, number in published.items()
            ]
    return rows


def _by_compression(dataset: str, samples: list[Sample]) -> Iterator[PublishedCount]:
    counted = Counter((sample.compression, sample.method) for sample in samples)
    splits = Counter((sample.compression, sample.split) for sample in samples if sample.label == REAL)
    for compression in sorted({sample.compression for sample in samples}):
        for method, number in (_FFPP if dataset == "ffpp" else _DFD).items():
            yield PublishedCount(dataset, f"{compression} {method}", counted[compression, method], number)
        for split, number in _FFPP_SPLITS.items() if dataset == "ffpp" else ():
            yield PublishedCount(dataset, f"{compression} real {split}", splits[compression, split], number)


def _kinds(samples: list[Sample]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for sample in samples:
        kind = "fake" if sample.label == FAKE else "real"
        side = "test" if sample.split == "test" else "training"
        counted.update((kind, f"{side} {kind}", sample.method))
        if sample.method == kind:  # counted already
            counted[kind] -= 1
    return counted
