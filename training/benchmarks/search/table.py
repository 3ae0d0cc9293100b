"""Compare an index of a million images with exact search: build time, size, latency, recall, by filter.

    python -m training.benchmarks.search.table --model runs/rsicd/best --data rsicd     # embeds the images first
    python -m training.benchmarks.search.table --embeddings rsicd.safetensors           # what --save has written

A million real vectors are hard to come by, so the given ones are grown: a new vector lies between a real one and one of
its ten nearest neighbours, with noise in the directions and of the size in which real neighbours differ. A tenth of the
real vectors is held back as queries. One filter takes a scene (all rows grown from one region, so that it goes
together with the query's place), the other dates drawn by lot. Latency is the median of single queries on whatever
else the machine is doing; the processor time beside it is less touched by that.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Image as ImageFeature
from safetensors.numpy import load_file, save_file

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.hub.pretrained import load_pretrained
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.index.rows import make_row
from modeling_pir.index.stores.bit_codes import CODE_BYTES
from modeling_pir.index.stores.lance_store import LanceStore
from modeling_pir.inference.embed import embed_images, embed_texts
from modeling_pir.inference.images import open_image
from training.data.rows import decoded_images
from training.data.sources import load_image_captions

CHUNK = 50_000  # rows grown and written at once
NUM_NEIGHBOURS = 10
NUM_SCENES = 25  # so that a scene is about 4 % of the rows
NUM_DAYS = 1_000
FILTERS = {
    "none": None,
    "scene, 4 %": "scene = '{scene}'",
    "date, 0.5 %": "date < '0005'",
    "date, 10 %": "date < '0100'",
}


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser("python -m training.benchmarks.search.table", description=__doc__.splitlines()[0])
    parser.add_argument("--embeddings", type=Path, help=".safetensors with image_embeds and text_embeds, unit norm")
    parser.add_argument("--model", help="folder or Hub id; embeds the images of --data")
    parser.add_argument(
        "--data", default="rsicd", help="see training.data.sources.load_image_captions (default: %(default)s)"
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512, help="vectors of fewer values are turned into this space")
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    parser.add_argument("--images", type=int, default=1_000, help="with --model: indexed to time that; 0 for none")
    parser.add_argument("--save", type=Path, help="with --model: .safetensors to keep the embeddings in")
    parser.add_argument("--index", help="folder to leave the index in (default: a temporary one)")
    args = parser.parse_args()
    if (args.embeddings is None) == (args.model is None):
        parser.error("give either --embeddings or --model")
    if args.embeddings:
        embeds = load_file(args.embeddings)
    else:
        model, processor = load_pretrained(args.model)
        if args.images:
            measure_indexing(model, processor, args.data, args.images)
        embeds = embed_data(model, processor, args.data)
        if args.save:
            save_file(embeds, args.save)
    images, texts = turn(embeds["image_embeds"], args.dim), turn(embeds["text_embeds"], args.dim)
    folder = Path(args.index or tempfile.mkdtemp(prefix="benchmark_index_"))
    try:
        run(images, texts, folder, args.rows, args.queries)
    finally:
        if args.index is None:
            shutil.rmtree(folder)


def embed_data(model: PIRModel, processor: PIRProcessor, data: str) -> dict[str, np.ndarray]:
    """Embeddings of all images of a data set, and of the first captions of its test images."""
    splits = [load_image_captions(data, split) for split in ("train", "validation", "test")]
    images = [embed_images(model, processor, decoded_images(rows), progress="images") for rows in splits]
    captions = [captions[0] for captions in splits[-1]["captions"]]
    texts = embed_texts(model, processor, captions)
    return {"image_embeds": torch.cat(images).numpy(), "text_embeds": texts.numpy()}


def measure_indexing(model: PIRModel, processor: PIRProcessor, data: str, num_images: int) -> None:
    """Print what indexing a folder costs beside embedding its images, taking turns, and what a second run costs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "images")
        folder.mkdir()
        rows = load_image_captions(data, "train").select_columns(["image"])
        rows = rows.select(range(min(num_images, len(rows)))).cast_column("image", ImageFeature(decode=False))
        for number, row in enumerate(rows):
            folder.joinpath(f"{number:05}.jpg").write_bytes(row["image"]["bytes"])
        files = sorted(folder.iterdir())
        bare, indexed = [], []
        for turn_number in range(3):
            started = time.perf_counter()
            embed_images(model, processor, map(open_image, files))
            bare.append(time.perf_counter() - started)
            index = PIRIndex.create(Path(name, f"index{turn_number}"), model, processor)
            started = time.perf_counter()
            index.add(folder)
            indexed.append(time.perf_counter() - started)
        started = time.perf_counter()
        index.add(folder)
        print(
            f"{len(files):,} images, best of 3: {len(files) / min(bare):.1f} images/s embedded from their files, ",
            end="",
        )
        print(f"{len(files) / min(indexed):.1f} indexed, {min(bare) / min(indexed):.0%}; ", end="")
        print(f"second run, nothing changed: {time.perf_counter() - started:.2f} s\n")


def turn(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Vectors of fewer values in a space of `dim`, their similarities unchanged; those of `dim` as they are."""
    if vectors.shape[1] >= dim:
        return vectors
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, vectors.shape[1])))[0]
    return (vectors @ basis.T).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, float32."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def grow(real: np.ndarray, num_rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """New vectors from real ones, see the module.

    Args:
        real: (images, dim), unit norm.
        num_rows: to grow.

    Yields:
        (rows, dim) unit vectors and (rows,) the real vector each started from.
    """
    generator = np.random.default_rng(0)
    neighbours = np.empty((len(real), NUM_NEIGHBOURS), dtype=np.int64)
    for start in range(0, len(real), 1_000):
        similarity = real[start : start + 1_000] @ real.T
        similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))] = -2  # not itself
        neighbours[start : start + 1_000] = np.argpartition(-similarity, NUM_NEIGHBOURS, axis=1)[:, :NUM_NEIGHBOURS]
    differences = real[neighbours[:, 0]] - real
    _, spread, directions = np.linalg.svd(differences, full_matrices=False)
    noise_shape = (spread / np.sqrt(len(real)))[:, None] * directions  # (dim, dim)
    for start in range(0, num_rows, CHUNK):
        size = min(CHUNK, num_rows - start)
        origin = generator.integers(0, len(real), size)
        other = neighbours[origin, generator.integers(0, NUM_NEIGHBOURS, size)]
        share = generator.uniform(0, 1, (size, 1)).astype(np.float32)
        noise = generator.standard_normal((size, len(noise_shape))).astype(np.float32) @ noise_shape.astype(np.float32)
        yield unit(real[origin] + share * (real[other] - real[origin]) + 0.5 * noise), origin


def fill(store: LanceStore, real: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write grown rows; returns their vectors, scenes and days."""
    generator = np.random.default_rng(1)
    anchors = real[generator.choice(len(real), NUM_SCENES, replace=False)]
    scene_of = (real @ anchors.T).argmax(axis=1)
    vectors = np.empty((num_rows, real.shape[1]), dtype=np.float32)
    scenes, days = np.empty(num_rows, dtype=np.int64), generator.integers(0, NUM_DAYS, num_rows)
    start = 0
    for chunk, origin in grow(real, num_rows):
        end = start + len(chunk)
        vectors[start:end], scenes[start:end] = chunk, scene_of[origin]
        rows = [
            make_row(f"/{place}", (0, 0, 224, 224), scene=f"s{scenes[place]}", date=f"{days[place]:04}")
            for place in range(start, end)
        ]
        store.append(rows, chunk)
        start = end
    return vectors, scenes, days


def run(images: np.ndarray, texts: np.ndarray, folder: Path, num_rows: int, num_queries: int) -> None:
    """Fill, build, measure, print."""
    chosen = np.random.default_rng(2).permutation(len(images))
    held_back, real = images[chosen[: len(images) // 10]], images[chosen[len(images) // 10 :]]
    queries = {"image": held_back[:num_queries], "text": texts[:num_queries]}
    dim = images.shape[1]
    store = LanceStore.create(str(folder), {"model_id": None, "revision": None, "weights": "", "dim": dim})
    started = time.perf_counter()
    vectors, scenes, days = fill(store, real, num_rows)
    filled = time.perf_counter()
    store.maintain()
    built = time.perf_counter()
    size = sum(file.stat().st_size for file in folder.glob("images.lance/_indices/**/*") if file.is_file())
    print(
        f"{num_rows:,} rows of {dim} values, grown from {len(real):,} real vectors; written in {filled - started:.0f} s"
    )
    print(
        f"indexes built in {built - filled:.0f} s, {size / 1e6:.0f} MB: {size / vectors.nbytes:.1%} of the vectors",
        end="; ",
    )
    print(f"codes in the table: {num_rows * CODE_BYTES / vectors.nbytes:.1%}")
    counts = np.bincount(scenes, minlength=NUM_SCENES)
    scene = int(np.abs(counts - 0.04 * num_rows).argmin())
    masks = {"none": np.ones(num_rows, bool), "scene, 4 %": scenes == scene, "date, 0.5 %": days < 5}
    masks["date, 10 %"] = days < 100  # more than `lance_store.FEW_ROWS`
    print("\n| filter | rows left | queries | search | p50 ms | p95 ms | processor ms | recall@10 |")
    print("|---|---:|---|---|---:|---:|---:|---:|")
    for name, where in FILTERS.items():
        where = where and where.format(scene=f"s{scene}")
        kept = vectors if where is None else vectors[masks[name]]
        paths = np.flatnonzero(masks[name])
        for kind, vectors_of_kind in queries.items():
            head = f"| {name} | {len(paths):,} | {kind} "
            print_rows(head, store, where, kept, paths, vectors_of_kind)


def print_rows(
    head: str, store: LanceStore, where: str | None, kept: np.ndarray, paths: np.ndarray, queries: np.ndarray
) -> None:
    """Lines of the table: a matrix product in memory, the table's exact search, and the index as `pir` uses it."""
    truth = [set(paths[np.argpartition(-(kept @ query), 10)[:10]].tolist()) for query in queries]

    def in_memory(query: np.ndarray) -> list[int]:
        similarity = kept @ query
        best = np.argpartition(-similarity, 10)[:10]
        return paths[best[np.argsort(-similarity[best])]].tolist()

    def in_table(query: np.ndarray, exact: bool) -> list[int]:
        return [int(row["path"][1:]) for row, _ in store.nearest(query, 10, where, exact)]

    searches: dict[str, tuple[Callable[[np.ndarray], list[int]], int]] = {
        "exact, numpy in memory": (in_memory, len(queries)),
        "exact, table": (lambda query: in_table(query, True), 5),
        "PIRIndex": (lambda query: in_table(query, False), len(queries)),
    }
    for name, (search, count) in searches.items():
        search(queries[0])  # what is read once is in memory from here on
        found, times = [], []
        processor = time.process_time()
        for query in queries[:count]:
            started = time.perf_counter()
            found.append(search(query))
            times.append(1e3 * (time.perf_counter() - started))
        processor = 1e3 * (time.process_time() - processor) / count
        recall = np.mean([len(set(own) & true) / len(true) for own, true in zip(found, truth[:count], strict=True)])
        p50, p95 = np.percentile(times, (50, 95))
        print(f"{head}| {name} | {p50:.1f} | {p95:.1f} | {processor:.1f} | {recall:.3f} |", flush=True)


if __name__ == "__main__":
    main()
