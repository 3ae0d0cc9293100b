"""The search page: images for a sentence or an image, where they lie, what the model looks at; sentences for an image.

Works without a network. Needs gradio (`pip install "modeling-pir[demo]"`); everything but the last two functions
does without it.
"""

import html
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import need
from ..index.filters import filter_clause
from ..index.hit_pictures import THUMBNAIL_SIZE, gallery_items, hit_image
from ..inference.belief import belief_map, belief_overlay
from ..inference.classify import rank_sentences
from ..inference.encoder import Encoder, PIREncoder
from ..inference.images import open_image
from .map import draw_map

if TYPE_CHECKING:
    import gradio

    from ..index.hit import Hit
    from ..index.pir_index import PIRIndex


MAX_HITS = 48  # pictures on one page
SOURCES = ["upload", "clipboard"]  # of images
BUTTONS = ["download", "fullscreen"]  # of pictures; gradio's own list has one that uploads them elsewhere
HIT_COLUMNS = ("rank", "similarity", "path", "window", "date", "sensor", "scene", "box")


def find(index: "PIRIndex", query: str | Image.Image | None, k: int = 12, where: str | None = None) -> list["Hit"]:
    """Search the index, refusing an empty query.

    Args:
        index: what to search.
        query: a sentence or an image of any mode.
        k: hits at most, up to `MAX_HITS`.
        where: see [`filter_clause`].

    Returns:
        Hits, most similar first.

    Raises:
        ValueError: no query, or what [`PIRIndex.search`] refuses.
    """
    if query is None or (isinstance(query, str) and not query.strip()):
        raise ValueError("There is nothing to search for: write a sentence or choose an image.")
    query = query.strip() if isinstance(query, str) else open_image(query)
    return index.search(query, k=min(int(k), MAX_HITS), where=where)


def hit_rows(hits: Sequence["Hit"]) -> list[list]:
    """One row of `HIT_COLUMNS` per hit; what is not known is empty. The box can be put in the filter as it is."""
    rows = []
    for rank, hit in enumerate(hits, start=1):
        window = "" if hit.window is None else " ".join(map(str, hit.window))
        box = "" if hit.bounds is None else ", ".join(f"{degrees:.6f}" for degrees in hit.bounds)
        known = (value or "" for value in (hit.date, hit.sensor, hit.scene))
        rows.append([rank, round(hit.similarity, 4), str(hit.path), window, *known, box])
    return rows


def explain_hit(encoder: Encoder, hit: "Hit") -> tuple[Image.Image, str]:
    """What the model looks at in a hit.

    Args:
        encoder: a PIR with an instruction.
        hit: of a search.

    Returns:
        The picture with the filtered parts greyed and hatched, and a line of text.

    Raises:
        ValueError: the file is gone, or the model has no instruction.
    """
    if not isinstance(encoder, PIREncoder):
        raise ValueError(f"A {type(encoder.model).__name__} has no belief to show: that is a part of PIR.")
    image = hit_image(hit)
    belief = belief_map(encoder.model, encoder.processor, image)
    text = (
        f"**{html.escape(Path(hit.path).name)}**, similarity {hit.similarity:.3f}: the model keeps "
        f"{int(belief.kept.sum())} of {belief.kept.size} patches; those it believes least are greyed and hatched."
    )
    scale = THUMBNAIL_SIZE / max(image.size)
    return belief_overlay(image, belief, (round(image.width * scale), round(image.height * scale))), text


def build_page(index: "PIRIndex") -> "gradio.Blocks":
    """The page, not yet served.

    Args:
        index: what to search, with its encoder.

    Raises:
        ImportError: gradio is missing.
    """
    gr = need("gradio", "demo", "The page needs")
    said = _as_messages(gr)
    with gr.Blocks(title="PIR: search satellite images") as page:
        gr.Markdown(f"# Search {len(index):,} satellite images")
        with gr.Tab("Find images"):
            _build_search(gr, said, index)
        with gr.Tab("Rank sentences for an image"), gr.Row():
            with gr.Column():
                image = gr.Image(label="Image", type="pil", image_mode=None, height=320, sources=SOURCES)
                sentences = gr.Textbox("", label="Sentences, one per line", lines=6)
                button = gr.Button("Rank sentences", variant="primary")
            table = gr.Dataframe(headers=["rank", "similarity", "sentence"], interactive=False, wrap=True)

            @said
            def rank(image: Image.Image | None, sentences: str) -> list[list]:
                return [list(row) for row in rank_sentences(index.encoder, image, sentences)]

            button.click(rank, [image, sentences], table)
    return page


def _build_search(gr: object, said: Callable, index: "PIRIndex") -> None:
    """The page's first tab: query and filter on the left, hits, belief and map on the right."""
    with gr.Row():
        with gr.Column(scale=1):
            sentence = gr.Textbox("", label="Sentence", placeholder="planes parked beside a terminal")
            by_sentence = gr.Button("Search by sentence", variant="primary")
            image = gr.Image(label="Or an image", type="pil", image_mode=None, height=200, sources=SOURCES)
            by_image = gr.Button("Search by image")
            num_hits = gr.Slider(1, MAX_HITS, value=12, step=1, label="Images shown")
            with gr.Accordion("Filter", open=False):
                scene = gr.Textbox("", label="Scene", placeholder="airport")
                date_from = gr.Textbox("", label="From", placeholder="2019-01-01 or 2019")
                date_to = gr.Textbox("", label="To", placeholder="2020-12-31 or 2020")
                box = gr.Textbox("", label="Box: west, south, east, north", placeholder="-99.2, 47.0, -99.1, 47.1")
        with gr.Column(scale=3):
            gallery = gr.Gallery(label="Images, most similar first: click one", columns=4, object_fit="contain",
                                 height=460, format="jpeg", allow_preview=False, interactive=False,
                                 buttons=BUTTONS)  # fmt: skip
            with gr.Row():
                overlay = gr.Image(label="What the model looks at", interactive=False, height=400, buttons=BUTTONS)
                with gr.Column():
                    map_html = gr.HTML(label="Map")
                    explanation = gr.Markdown()
            with gr.Accordion("Table", open=False):
                table = gr.Dataframe(headers=list(HIT_COLUMNS), interactive=False)
    hits_state = gr.State([])

    @said
    def search(query: str | Image.Image | None, k: int, *fields: str) -> tuple:
        hits = find(index, query, k, filter_clause(*fields))
        found = f"{len(hits)} images found." if hits else "No image passes the filter."
        return hits, gallery_items(hits), draw_map(hits) if hits else "", hit_rows(hits), None, found

    @said
    def explain(hits: list, event: gr.SelectData) -> tuple[Image.Image, str]:
        return explain_hit(index.encoder, hits[event.index])

    options = [num_hits, scene, date_from, date_to, box]
    outputs = [hits_state, gallery, map_html, table, overlay, explanation]
    gr.on([by_sentence.click, sentence.submit], search, [sentence, *options], outputs)
    by_image.click(search, [image, *options], outputs)
    gallery.select(explain, hits_state, [overlay, explanation])


def _as_messages(gr: object) -> Callable[[Callable], Callable]:
    """A decorator by which what a user gave wrongly is said on the page, which else stays as it is."""

    def said(function: Callable) -> Callable:
        @wraps(function)
        def wrapper(*arguments: object) -> object:
            try:
                return function(*arguments)
            except (ValueError, ImportError) as error:
                gr.Warning(html.escape(str(error)))
                return gr.skip()

        return wrapper

    return said


def launch(index: "PIRIndex", host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until interrupted.

    Args:
        index: what to search, with its encoder.
        host: address to listen on; "0.0.0.0" lets other machines in.
        port: to listen on.

    Raises:
        ImportError: gradio is missing.
        OSError: the port is taken.
    """
    build_page(index).launch(server_name=host, server_port=port)
