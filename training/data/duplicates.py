"""Images that show the same picture: perceptual hashes, then the details of each pair."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image, ImageFilter

from modeling_pir.errors import need
from modeling_pir.inference.images import open_image
from training.data.rows import image_bytes_or_path

SIDE = 64  # pixels of the grey thumbnails that are hashed and compared
# Measured on every tenth test image of RSICD: 95 % of its copies compressed at quality 40, halved or brightened are
# above 0.83; those shifted by 4 % or cropped by 2 % of the side are all above 0.46. Pairs of RSICD that show two places
# stay below 0.52, but UCM's runways, painted alike, reach 0.79: look at the pairs before removing images.
MAX_BITS = 16  # of 64, that the hashes of one picture may differ in
SAME_FROM = 0.75  # correlation of details from which two images are taken for one picture
DOUBT_FROM = 0.5  # from which a person should look
MAX_SHIFT = 8  # pixels of a thumbnail by which one may be shifted
BLUR = 2  # pixels; what a blur of that radius takes away is detail
ORIENTATIONS = {
    "as it is": None,
    "turned 90": Image.Transpose.ROTATE_90,
    "turned 180": Image.Transpose.ROTATE_180,
    "turned 270": Image.Transpose.ROTATE_270,
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
    "upside down": Image.Transpose.FLIP_TOP_BOTTOM,
    "transposed": Image.Transpose.TRANSPOSE,
    "transversed": Image.Transpose.TRANSVERSE,
}


@dataclass
class Fingerprints:
    """What is compared of a list of images.

    Attributes:
        names: `data/split/filename`.
        digests: SHA-256 of size and RGB pixels, the same for the same picture in any file format without loss.
        thumbnails: (images, SIDE, SIDE) uint8, grey.
        hashes: (images, orientations) uint64, perceptual hash of each orientation; one column for the training side.
    """

    names: list[str]
    digests: list[str]
    thumbnails: np.ndarray
    hashes: np.ndarray


@dataclass
class Pair:
    """Two images that are or may be one picture.

    Attributes:
        train: `data/split/filename` of the one that should not have been trained on.
        test: `data/split/filename` of the other.
        identical: the same pixels.
        bits: of 64 that the hashes differ in.
        orientation: of the test image in which they agree.
        correlation: of the details, up to 1.
    """

    train: str
    test: str
    identical: bool
    bits: int
    orientation: str
    correlation: float

    @property
    def is_same(self) -> bool:
        """Whether they are taken for one picture."""
        return self.identical or self.correlation >= SAME_FROM


def perceptual_hash(thumbnail: Image.Image) -> int:
    """64 bits that survive scaling, compression and brightness (`imagehash.phash`)."""
    imagehash = need("imagehash", "eval", "The leak check needs")
    return int(np.packbits(imagehash.phash(thumbnail).hash.ravel()).view(">u8")[0])


def fingerprints(splits: dict[str, Dataset], orientations: Sequence[str]) -> Fingerprints:
    """Hash all images of some splits.

    Args:
        splits: name to rows.
        orientations: keys of `ORIENTATIONS` to hash each image in.

    Returns:
        The fingerprints, split after split.
    """

    def of_image(rows: Dataset, index: int) -> tuple[str, np.ndarray, list[int]]:
        row = rows[index]
        image = open_image(image_bytes_or_path(row["image"]), row["filename"])
        digest = hashlib.sha256(str(image.size).encode() + image.tobytes()).hexdigest()
        thumbnail = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        hashes = [perceptual_hash(_turned(thumbnail, orientation)) for orientation in orientations]
        return digest, np.asarray(thumbnail), hashes

    names, parts = [], []
    for split, rows in splits.items():
        undecoded = rows.select_columns(["image", "filename"]).cast_column("image", ImageFeature(decode=False))
        names += [f"{split}/{filename}" for filename in rows["filename"]]
        with ThreadPoolExecutor() as pool:
            parts += pool.map(of_image, [undecoded] * len(rows), range(len(rows)))
    digests, thumbnails, hashes = zip(*parts, strict=True)
    return Fingerprints(names, list(digests), np.stack(thumbnails), np.array(hashes, dtype=np.uint64))


def find_pairs(train: Fingerprints, test: Fingerprints) -> list[Pair]:
    """Images of the one side that are, or may be, a picture of the other.

    Args:
        train: hashed as they are.
        test: hashed in all `ORIENTATIONS`.

    Returns:
        The pairs with a correlation of at least `DOUBT_FROM`, most alike first; none of an image with itself.
    """
    pairs: dict[tuple[str, str], Pair] = {}
    for index, name in enumerate(test.names):
        bits = np.bitwise_count(train.hashes[:, :1] ^ test.hashes[index])  # (train, orientations)
        for other, turn in zip(*np.nonzero(bits <= MAX_BITS), strict=True):
            if train.names[other] == name:  # where both sides are the test side
                continue
            orientation = list(ORIENTATIONS)[turn]
            identical = bool(turn == 0 and train.digests[other] == test.digests[index])
            turned = np.asarray(_turned(Image.fromarray(test.thumbnails[index]), orientation))
            correlation = 1.0 if identical else detail_correlation(train.thumbnails[other], turned)
            pair = Pair(train.names[other], name, identical, int(bits[other, turn]), orientation, correlation)
            best = pairs.get((pair.train, pair.test))  # of its orientations: a symmetric picture agrees in several
            if correlation >= DOUBT_FROM and (best is None or correlation > best.correlation):
                pairs[pair.train, pair.test] = pair
    return sorted(pairs.values(), key=lambda pair: (not pair.identical, -pair.correlation, pair.train, pair.test))


def detail_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Largest correlation of the second image's inner part with the first one's details, over all shifts.

    Args:
        first: (SIDE, SIDE) grey.
        second: (SIDE, SIDE) grey.

    Returns:
        -1 to 1; 0 where one has no detail. Coarse brightness, which any two beaches share, is taken out.
    """
    inner = _details(second)[MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT]
    inner = inner - inner.mean()
    windows = np.lib.stride_tricks.sliding_window_view(_details(first), inner.shape)  # (shifts, shifts, inner, inner)
    norms = windows.std(axis=(2, 3)) * np.sqrt(inner.size) * np.linalg.norm(inner)
    products = np.einsum("ijkl,kl->ij", windows, inner)
    return float(np.divide(products, norms, out=np.zeros_like(products), where=norms > 1e-3).max())


def _details(thumbnail: np.ndarray) -> np.ndarray:
    """What a blur takes away, flattened where it is strong, so that a few bright lines do not decide."""
    blurred = Image.fromarray(thumbnail).filter(ImageFilter.GaussianBlur(BLUR))
    details = thumbnail - np.asarray(blurred, dtype=np.float64)
    return np.tanh(details / max(2 * np.median(np.abs(details)), 0.5))  # half a grey value is rounding


def _turned(image: Image.Image, orientation: str) -> Image.Image:
    turn = ORIENTATIONS[orientation]
    return image if turn is None else image.transpose(turn)


def leave_out_overlap(train: Dataset, test: Dataset, allow: bool) -> tuple[Dataset, list[str]]:
    """Training rows without those whose picture is in the retrieval test split.

    Args:
        train: rows of the scene data.
        test: rows of the retrieval test split.
        allow: only look for them, and keep them.

    Returns:
        The rows, and the file names of the images that are in test, too.

    Raises:
        ImportError: imagehash is missing.
        ValueError: every training image is in the test split.
    """
    pass

    train_prints = fingerprints({"train": train}, ["as it is"])
    test_prints = fingerprints({"test": test}, list(ORIENTATIONS))
    pairs = find_pairs(train_prints, test_prints)
    overlap = sorted({pair.train.removeprefix("train/") for pair in pairs if pair.is_same})
    if allow or not overlap:
        return train, overlap
    left_out = set(overlap)
    kept = [index for index, name in enumerate(train["filename"]) if name not in left_out]
    if not kept:
        raise ValueError("Every training image is in the retrieval test split: give other --data or --test-data.")
    return train.select(kept), overlap
