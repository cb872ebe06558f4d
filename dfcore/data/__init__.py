"""Corpora: layouts on disk, the manifest, and the crop store that training reads."""

from dfcore.data.claim import known_manifest
from dfcore.data.contact_sheet import contact_sheet
from dfcore.data.join import copy_parts, join_stores
from dfcore.data.layouts import (
    LAYOUTS,
    Layout,
    PublishedCount,
    published_counts,
    register_layout,
    scan,
)
from dfcore.data.manifest import FAKE, REAL, SPLITS, Manifest, Sample, Skipped
from dfcore.data.parts import Shard, parse_shard
from dfcore.data.prepare import prepare, prepare_shard
from dfcore.data.store import Crops, CropStore
from dfcore.data.synthetic import synthesize

__all__ = [
    "FAKE",
    "LAYOUTS",
    "REAL",
    "SPLITS",
    "CropStore",
    "Crops",
    "Layout",
    "Manifest",
    "PublishedCount",
    "Sample",
    "Shard",
    "Skipped",
    "contact_sheet",
    "copy_parts",
    "join_stores",
    "known_manifest",
    "parse_shard",
    "prepare",
    "prepare_shard",
    "published_counts",
    "register_layout",
    "scan",
    "synthesize",
]
