"""DFFD: single face images of seven generators and two real sources, or its authors' Real/Fake/Mask folders.

Source: the data set's file names (R_ and F_ prefixes) and the official training code's folders.
"""

from __future__ import annotations

import re

from dfcore.data.layouts.listing import Found, Listing, connected
from dfcore.data.layouts.tree import IMAGES, Tree, base, join, normal, stem
from dfcore.data.manifest import FAKE, REAL
from dfcore.errors import DataError

__all__ = ["missing", "scan"]

_SPLITS = {"train": "train", "validation": "val", "val": "val", "eval": "val", "test": "test"}
_SOURCES = {
    **dict.fromkeys(("ffhq", "celeba", "celeba_2w", "youtube"), REAL),
    **dict.fromkeys(("faceapp", "stargan", "pggan_v1", "pggan_v2", "stylegan_celeba", "stylegan_ffhq"), FAKE),
    **dict.fromkeys(("deepfakes", "face2face", "faceswap"), FAKE),
}
# made from FaceForensics++ by the user; their names are its ids
_FROM_VIDEOS = frozenset({"youtube", "deepfakes", "face2face", "faceswap"})
_PREFIXES = {"R_": REAL, "F_": FAKE}
# CelebA's own partition by the image's number: training up to the first, validation up to the second
_CELEBA_PARTS = (162_770, 182_637)


def missing(tree: Tree) -> str:
    """Say what a tree lacks."""
    if _source_folders(tree) or _mask_folders(tree):
        return ""
    return (
        "ffhq/, faceapp/, stargan/ … with train/, validation/ or test/ in them, "
        "nor {train,eval,test}/{Real,Fake,Mask}/"
    )


def scan(tree: Tree) -> Listing:
    """Read the images; the whole image is the face's box.

    Raises:
        DataError: a file's prefix contradicts its folder.
    """
    listing = Listing()
    for folder, source, split in _source_folders(tree):
        for path in tree.files(folder, IMAGES):
            label = _label(path, source)
            own = split or _celeba_split(stem(path))
            found = Found(path, "dffd", own, label, source, "", name=stem(path), kind="image", cropped=True)
            listing.found.append(found)
    ids = connected(_video_ids(found) for found in listing.found if found.method in _FROM_VIDEOS)
    listing.found = [
        found._replace(
            group=f"ffpp-{ids[_video_ids(found)[0]]}" if found.method in _FROM_VIDEOS else _variant(found)
        )
        for found in listing.found
    ]
    for folder, kind, split in _mask_folders(tree):
        if kind == "mask":
            listing.read.add(folder)
        else:
            listing.found.extend(_with_masks(tree, folder, REAL if kind == "real" else FAKE, split))
    return listing


def _source_folders(tree: Tree) -> list[tuple[str, str, str]]:
    """List (folder, source, split); CelebA lies unsplit in img_align_celeba/."""
    found = []
    for source in _SOURCES:
        for top in tree.spelled(source):
            for name in tree.children.get(top, ()):
                if normal(name) in _SPLITS:
                    found.append((join(top, name), source, _SPLITS[normal(name)]))
                elif normal(name) == "img_align_celeba":
                    found.append((join(top, name), source, ""))
    return [(folder, source, split) for folder, source, split in found if tree.files(folder, IMAGES)]


def _mask_folders(tree: Tree) -> list[tuple[str, str, str]]:
    """List (folder, real or fake or mask, split); without a Mask/ folder it is another layout."""
    found: list[tuple[str, str, str]] = []
    for name, split in _SPLITS.items():
        for top in tree.spelled(name):
            kinds = {normal(kind): join(top, kind) for kind in tree.children.get(top, ())}
            if "mask" in kinds:
                found += [(kinds[kind], kind, split) for kind in ("real", "fake", "mask") if kind in kinds]
    return found


def _label(path: str, source: str) -> int:
    label = _PREFIXES.get(base(path)[:2].upper(), _SOURCES[source])
    if label != _SOURCES[source]:
        prefix = "R_" if _SOURCES[source] == REAL else "F_"
        raise DataError(f"expected the prefix {prefix} in {source}/, got {path}; move it")
    return label


def _celeba_split(name: str) -> str:
    digits = re.findall(r"\d+", name)
    number = int(digits[-1]) if digits else 0
    return "train" if number <= _CELEBA_PARTS[0] else "val" if number <= _CELEBA_PARTS[1] else "test"


def _video_ids(found: Found) -> tuple[str, ...]:
    """Return the ids of the FaceForensics++ video that an image was cut from."""
    name = stem(found.path)[2:] if base(found.path)[:2].upper() in _PREFIXES else stem(found.path)
    match = re.search(r"(?<!\d)(\d{3})(?:_(\d{3}))?(?!\d)", name)
    return tuple(part for part in match.groups() if part) if match else (name,)


def _variant(found: Found) -> str:
    # F_FAP0_00000-1 and F_FAP0_00000-2 are made from one image
    return f"{found.method}-{stem(found.path).partition('-')[0]}"


def _with_masks(tree: Tree, folder: str, label: int, split: str) -> list[Found]:
    masks: dict[str, str] = {}
    if label == FAKE:
        for place, kind, _ in _mask_folders(tree):
            if kind == "mask" and place.rpartition("/")[0] == folder.rpartition("/")[0]:
                masks = {stem(path): path for path in tree.files(place, IMAGES)}
    return [
        Found(path, "dffd", split, label, "real" if label == REAL else "fake", stem(path).partition("-")[0],
              name=f"{split}/{base(path)}", kind="image", mask=masks.get(stem(path), ""), cropped=True)
        for path in tree.files(folder, IMAGES)
    ]  # fmt: skip
