r"""Estimate training on a large corpus from numbers you measured: bytes, shards, steps, GPU-hours.

    python -m training.benchmarks.corpus_plan --pairs 100e6 --pairs-per-second 2500 --gpus 8 --batch-size 4096 \
        --bytes-per-pair 60e3

Nothing is predicted here: the throughput is an input (`python -m training.benchmarks.model_parts`, or the
seconds in a run's log), and so is the size of a pair.
"""

import argparse
import math

from modeling_pir.errors import one_sentence


def make_plan(
    pairs: int,
    pairs_per_second: float,
    bytes_per_pair: float,
    gpus: int = 8,
    batch_size: int = 4096,
    epochs: int = 1,
    num_workers: int = 8,
    shard_bytes: float = 1e9,
    shuffle_buffer: int = 2000,
) -> dict[str, float]:
    """Lay out a streamed run.

    Args:
        pairs: images with their captions in the corpus.
        pairs_per_second: that one GPU trains on, measured.
        bytes_per_pair: an encoded image with its captions, measured.
        gpus: processes of the run.
        batch_size: of all of them together.
        epochs: passes.
        num_workers: loader processes of each.
        shard_bytes: wanted size of a shard.
        shuffle_buffer: rows that each loader process holds.

    Returns:
        `corpus_bytes`; `readers`, the loader processes that share the shards; `shards`, a multiple of them;
        `rows_per_shard`; `steps`; `gpu_hours`; `hours`; `bytes_per_second` that all readers have to deliver;
        `buffer_bytes` of all shuffle buffers; `replay_bytes`, one pass of a reader, which it reads again at most where
        parquet shards in a folder tell their rows.

    Raises:
        ValueError: a number that is not above 0, a batch that cannot be shared, or a corpus smaller than it.
    """
    for name, value in locals().items():
        if value <= 0 and name != "num_workers":
            raise ValueError(f"{name} is {value}, but it has to be above 0.")
    if batch_size % gpus:
        raise ValueError(f"batch_size is {batch_size}, which cannot be shared equally by {gpus} GPUs: take a multiple.")
    if pairs < batch_size:
        raise ValueError(f"There are {pairs} pairs, fewer than one batch of {batch_size}: lower batch_size.")
    corpus_bytes = pairs * bytes_per_pair
    readers = gpus * max(num_workers, 1)
    shards = readers * math.ceil(corpus_bytes / shard_bytes / readers)  # each reader gets equally many
    steps = epochs * (pairs // batch_size)
    gpu_seconds = steps * batch_size / pairs_per_second
    return {
        "corpus_bytes": corpus_bytes,
        "readers": readers,
        "shards": shards,
        "rows_per_shard": math.ceil(pairs / shards),
        "steps": steps,
        "gpu_hours": gpu_seconds / 3600,
        "hours": gpu_seconds / gpus / 3600,
        "bytes_per_second": pairs_per_second * gpus * bytes_per_pair,
        "buffer_bytes": readers * shuffle_buffer * bytes_per_pair,
        "replay_bytes": corpus_bytes / readers,
    }


def describe_plan(plan: dict[str, float], pairs: int, pairs_per_second: float, bytes_per_pair: float) -> str:
    """The plan in words, inputs first."""
    sizes = f"{bytes_per_pair / 1e3:,g} kB a pair"
    inputs = f"{pairs:,} pairs; {pairs_per_second:,g} pairs/s on one GPU and {sizes}, as given"
    shards = f"{plan['shards']:,} of {plan['rows_per_shard']:,} rows, for {plan['readers']} loader processes"
    lines = [
        f"inputs:          {inputs}",
        f"corpus           {plan['corpus_bytes'] / 1e12:.2f} TB",
        f"shards           {shards}",
        f"steps            {plan['steps']:,}",
        f"time             {plan['hours']:.1f} hours, {plan['gpu_hours']:.1f} GPU-hours, evaluation not counted",
        f"reading          {plan['bytes_per_second'] / 1e6:,.0f} MB/s over all machines",
        f"shuffle buffers  {plan['buffer_bytes'] / 1e9:.1f} GB of memory over all machines",
        f"resume           each loader process reads at most {plan['replay_bytes'] / 1e9:.1f} GB again, undecoded",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input gets one sentence."""
    parser = argparse.ArgumentParser(
        "python -m training.benchmarks.corpus_plan", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--pairs", type=float, required=True, help="images with their captions, such as 100e6")
    parser.add_argument("--pairs-per-second", type=float, required=True, help="that one GPU trains on: measure it")
    parser.add_argument(
        "--bytes-per-pair", type=float, required=True, help="an encoded image with captions: measure it"
    )
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4096, help="of all GPUs together")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the corpus")
    parser.add_argument("--num-workers", type=int, default=8, help="loader processes of each GPU")
    parser.add_argument("--shard-bytes", type=float, default=1e9, help="wanted size of a shard")
    parser.add_argument("--shuffle-buffer", type=int, default=2000, help="rows that each loader process holds")
    values = vars(parser.parse_args(arguments))
    values["pairs"] = int(values["pairs"])
    with one_sentence():
        plan = make_plan(**values)
    print(describe_plan(plan, *(values[name] for name in ("pairs", "pairs_per_second", "bytes_per_pair"))))


if __name__ == "__main__":
    main()
