"""Corpora: layouts on disk, the manifest, and the crop store that training reads."""

from dfcore.data.layouts import LAYOUTS, Layout, register_layout, scan
from dfcore.data.manifest import FAKE, REAL, SPLITS, Manifest, Sample
from dfcore.data.prepare import prepare
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
    "Sample",
    "prepare",
    "register_layout",
    "scan",
    "synthesize",
]
