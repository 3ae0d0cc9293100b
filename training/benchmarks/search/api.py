"""Latency of a query through `pir serve` over a million rows, with its parts and exact search beside it.

    python -m training.benchmarks.search.api --embeddings rsicd.safetensors --model hub_configs/pir-small-rsicd

The rows are grown as in `training.benchmarks.search.table`, from embeddings of the same model. The server is a process
of its own; one client asks it one sentence after another, so that nothing waits for another question.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from itertools import islice, product
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from safetensors.numpy import load_file

from modeling_pir import Query, load_encoder
from modeling_pir.cli.index import export_text_side
from modeling_pir.errors import one_sentence
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.index.stores.lance_store import LanceStore
from training.benchmarks.search.table import fill

THINGS = ("planes", "a river", "a bridge", "storage tanks", "boats", "houses", "a stadium", "trees", "a road", "a pond")
PLACES = ("near the sea", "in farmland", "in a city", "in the desert", "beside a forest", "in snow")
NUM_EXACT = 5  # questions of the exact search, each of which takes half a second at a million rows
WARM_UP = 3
COMMAND = "import sys; from modeling_pir.cli.main import main; sys.exit(main())"


def sentences(count: int) -> list[str]:
    """Different questions.

    Raises:
        ValueError: more than there are.
    """
    found = [f"{thing} {place}" for place, thing in product(PLACES, THINGS)]
    if not 0 < count <= len(found):
        raise ValueError(f"{count} questions cannot be asked: between 1 and {len(found)} are known.")
    return list(islice(found, count))


def milliseconds(ask: Callable[[str], object], questions: Sequence[str]) -> list[float]:
    """Time of each question, after a few that warm up."""
    for question in questions[:WARM_UP]:
        ask(question)
    times = []
    for question in questions:
        started = time.perf_counter()
        ask(question)
        times.append(1e3 * (time.perf_counter() - started))
    return times


def ask_server(folder: Path, model: str, questions: Sequence[str], k: int) -> list[float]:
    """Milliseconds of questions to `pir serve`, in a process of its own.

    Raises:
        OSError: the server does not start, or does not answer.
    """
    options = ["serve", "--index", str(folder), "--model", model, "--port", "0"]
    with subprocess.Popen([sys.executable, "-c", COMMAND, *options], stdout=subprocess.PIPE, text=True) as server:
        try:
            line = next((line for line in server.stdout if line.startswith("Open http")), None)
            if line is None:
                raise OSError("pir serve has ended before it listened: its message stands above.")
            address = urlsplit(line.split()[1])
            connection = HTTPConnection(address.hostname, address.port, timeout=60)

            def ask(question: str) -> None:
                body = json.dumps({"text": question, "k": k})
                connection.request("POST", "/api/search", body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                if reply.status != 200 or len(json.load(reply)["hits"]) != k:
                    raise OSError(f"pir serve has not answered {question!r} with {k} hits (status {reply.status}).")

            return milliseconds(ask, questions)
        finally:
            server.terminate()


def measure(folder: Path, model: str, questions: Sequence[str], k: int) -> dict[str, list[float]]:
    """Milliseconds of a question as a whole and of its parts, by name."""
    index = PIRIndex.open(folder, load_encoder(model))
    export_text_side(index)  # as pir index does
    index.use_text_encoder()
    reader = index.text_encoder or index.encoder
    vectors = {question: np.asarray(reader.embed_texts([question])[0]) for question in questions}
    return {
        "request to pir serve": ask_server(folder, model, questions, k),
        "its sentence, embedded": milliseconds(lambda question: reader.embed_texts([question]), questions),
        "its search, in Python": milliseconds(lambda question: index.search(Query(question), k), questions),
        f"the table's {k} nearest": milliseconds(lambda question: index.store.nearest(vectors[question], k), questions),
        f"the table's {k} nearest, exact": milliseconds(
            lambda question: index.store.nearest(vectors[question], k, exact=True), questions[:NUM_EXACT]
        ),
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m training.benchmarks.search.api", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--embeddings", type=Path, required=True, help="what training.benchmarks.search.table --save wrote"
    )
    parser.add_argument("--model", required=True, help="that made them: Hub id or folder")
    parser.add_argument("--rows", type=int, default=1_000_000, help="(default: 1,000,000)")
    parser.add_argument("--questions", type=int, default=60, help="(default: %(default)s, which are all)")
    parser.add_argument("--k", type=int, default=10, help="hits of each (default: %(default)s)")
    args = parser.parse_args(arguments)
    with one_sentence():
        questions, images = sentences(args.questions), load_file(args.embeddings)["image_embeds"]
        encoder = load_encoder(args.model)
        if images.shape[1] != encoder.dim:
            raise ValueError(
                f"{args.embeddings} has vectors of {images.shape[1]} values, {args.model} of {encoder.dim}."
            )
    with tempfile.TemporaryDirectory(prefix="benchmark_api_") as name:
        folder = Path(name, "index")
        store = LanceStore.create(str(folder), encoder.describe())
        fill(store, images, args.rows)
        store.maintain()
        found = measure(folder, args.model, questions, args.k)
    print(f"{args.rows:,} rows of {encoder.dim} values, {len(questions)} sentences one at a time, {args.k} hits each")
    print(f"{'p50 ms':>8} {'p95 ms':>8}")
    for part, times in found.items():
        p50, p95 = np.percentile(times, (50, 95))
        print(f"{p50:8.1f} {p95:8.1f}  {part}")


if __name__ == "__main__":
    main()
