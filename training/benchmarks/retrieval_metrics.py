"""Time and memory of the retrieval metrics on random embeddings: streamed, whole matrix, product alone.

    python -m training.benchmarks.retrieval_metrics                                    # RSICD's test size, both ways
    python -m training.benchmarks.retrieval_metrics --images 100000 --texts 500000 --streamed-only

Each way runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from training.evaluation.metrics import recall_metrics, retrieval_metrics, streamed_retrieval_ranks
from training.run.environment import peak_memory

WAYS = ("streamed", "whole matrix", "matrix product alone")


def random_embeds(rows: int, dim: int, seed: int) -> torch.Tensor:
    """(rows, dim) float32, unit norm, without a second copy in memory."""
    embeds = torch.empty(rows, dim).normal_(generator=torch.Generator().manual_seed(seed))
    return F.normalize(embeds, dim=-1, out=embeds)


def measure(way: str, num_images: int, num_texts: int, dim: int) -> str:
    """One line: seconds of the metrics, and the peak memory of this process.

    Args:
        way: of `WAYS`.
        num_images: rows of images.
        num_texts: rows of texts, as many for each image.
        dim: width.
    """
    images, texts = random_embeds(num_images, dim, 0), random_embeds(num_texts, dim, 1)
    text_to_image = torch.arange(num_texts) * num_images // num_texts
    seconds, recall = float("inf"), "-"
    for _ in range(3 if num_images * num_texts < 1e8 else 1):
        start = time.perf_counter()
        if way == "streamed":
            recall = recall_metrics(*streamed_retrieval_ranks(images, texts, text_to_image))["mR"]
        elif way == "whole matrix":
            recall = retrieval_metrics(images @ texts.T, text_to_image)["mR"]
        else:
            images @ texts.T
        seconds = min(seconds, time.perf_counter() - start)
    shown = recall if isinstance(recall, str) else f"{recall:.3f}"
    return f"{way:20} {seconds:10.3f} {peak_memory():10.2f} {shown:>8}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        "python -m training.benchmarks.retrieval_metrics", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--images", type=int, default=1093)
    parser.add_argument("--texts", type=int, default=5465)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--streamed-only", action="store_true", help="leave out the whole matrix, which may not fit")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # the child processes' job
    args = parser.parse_args(arguments)
    if args.texts < args.images:
        parser.error(f"--texts is {args.texts}, but each of {args.images} images needs one at least.")
    if args.way:
        print(measure(args.way, args.images, args.texts, args.dim))
        return
    print(f"{args.images} images, {args.texts} texts, width {args.dim}, {torch.get_num_threads()} threads")
    print(f"{'':20} {'seconds':>10} {'peak GiB':>10} {'mR':>8}", flush=True)
    for way in WAYS[: 1 if args.streamed_only else None]:
        sizes = ["--images", str(args.images), "--texts", str(args.texts), "--dim", str(args.dim)]
        subprocess.run(
            [sys.executable, "-m", "training.benchmarks.retrieval_metrics", *sizes, "--way", way], check=True
        )


if __name__ == "__main__":
    main()
