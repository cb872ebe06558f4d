"""Read data sets as they lie on disk: one file for each layout, found by name or recognised."""

from dfcore.data.layouts import celebdf, deepfakebench, dfdc, dffd, ffpp, folder, wilddeepfake
from dfcore.data.layouts.counts import PublishedCount, published_counts
from dfcore.data.layouts.registry import LAYOUTS, Layout, register_layout, scan

__all__ = ["LAYOUTS", "Layout", "PublishedCount", "published_counts", "register_layout", "scan"]

# the more particular ones first, because they are asked in this order
for _name, _module in (
    ("deepfakebench", deepfakebench),
    ("ffpp", ffpp),
    ("celebdf", celebdf),
    ("wilddeepfake", wilddeepfake),
    ("dfdc", dfdc),
    ("dffd", dffd),
    ("folder", folder),
):
    register_layout(_name, Layout(_module.missing, _module.scan))
