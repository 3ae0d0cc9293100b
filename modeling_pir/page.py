"""The search page: images for a sentence or an image, where they lie, what the model looks at; sentences for an image.

Works without a network. Needs gradio (`pip install "modeling-pir[demo]"`); everything but the last two functions
does without it.
"""

import html
import math
from collections.abc import Callable, Sequence
from datetime import date
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from .embed import embed_images, embed_texts
from .explain import belief_map, belief_overlay
from .images import open_image, to_rgb
from .modeling_pir import PIRModel
from .processing_pir import PIRProcessor
from .scenes import Bounds, is_georaster, read_window

if TYPE_CHECKING:
    import gradio

    from .index import Hit, PIRIndex

MAX_HITS = 48  # pictures on one page
THUMBNAIL_SIZE = 512  # pixels, longer side
MAP_SIZE = (480, 340)  # pixels, about what the page gives it
MAP_MARGIN = 0.15  # of the hits' extent, left free on each side
MIN_MAP_EXTENT = 0.0005  # degrees, about 50 m: a single chip is not blown up further
GRID_STEPS = (
    60,
    30,
    20,
    10,
    5,
    2,
    1,
    0.5,
    0.2,
    0.1,
    0.05,
    0.02,
    0.01,
    0.005,
    0.002,
    0.001,
    0.0005,
    0.0002,
    0.0001,
)  # degrees
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's: told apart by colour-blind readers

SOURCES = ["upload", "clipboard"]  # of images
BUTTONS = ["download", "fullscreen"]  # of pictures; gradio's own list has one that uploads them elsewhere
HIT_COLUMNS = ("rank", "similarity", "path", "window", "date", "sensor", "scene", "box")


def filter_clause(scene: str = "", date_from: str = "", date_to: str = "", box: str = "") -> str | None:
    """The `where` of [`PIRIndex.search`] for what the page's filter fields hold.

    Args:
        scene: a scene label; empty for any, as all fields.
        date_from: "YYYY-MM-DD", or less of it such as "2019"; images without a date are left out.
        date_to: likewise, itself included.
        box: "west, south, east, north" in degrees; west may be larger than east, across the antimeridian. Images
            that the box touches are kept, those without a place are left out.

    Returns:
        SQL, or None where nothing is filtered.

    Raises:
        ValueError: a field that cannot be read.
    """
    clauses = []
    if scene.strip():
        quoted = scene.strip().replace("'", "''")
        clauses.append(f"scene = '{quoted}'")
    if date_from.strip():
        clauses.append(f"date >= '{_check_date(date_from)}'")
    if date_to.strip():
        clauses.append(f"date <= '{_check_date(date_to)}~'")  # ~ sorts behind digits: "2019~" takes in all of 2019
    if box.strip():
        clauses.append(_box_clause(*_parse_box(box)))
    return " AND ".join(clauses) or None


def _check_date(text: str) -> str:
    """A date as typed if it is one; months and days may be missing."""
    text = text.strip()
    try:
        date.fromisoformat((text + "-01-01")[:10] if len(text) in (4, 7) else text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no date: write it as 2019-09-04, 2019-09 or 2019.") from error
    return text


def _parse_box(text: str) -> Bounds:
    """(west, south, east, north) in degrees."""
    try:
        west, south, east, north = (float(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"{text!r} is no box: write west, south, east, north in degrees.") from error
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
        raise ValueError(
            f"The box {text!r} is not on the globe: longitudes go from -180 to 180, latitudes from -90 to 90, and "
            "south is not above north."
        )
    return west, south, east, north


def _box_clause(west: float, south: float, east: float, north: float) -> str:
    """SQL for bounds that touch a box; bounds and box may each cross the antimeridian (west above east)."""
    if west > east:
        longitude = f"(minx > maxx OR maxx >= {west} OR minx <= {east})"
    else:
        longitude = f"((minx <= {east} AND maxx >= {west}) OR (minx > maxx AND (minx <= {east} OR maxx >= {west})))"
    return f"{longitude} AND miny <= {north} AND maxy >= {south}"


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
    query = query.strip() if isinstance(query, str) else to_rgb(query)
    return index.search(query, k=min(int(k), MAX_HITS), where=where)


def hit_image(hit: "Hit") -> Image.Image:
    """The picture of a hit: its window of a scene, or the whole image.

    Raises:
        ValueError: the file is gone or broken.
        ImportError: a scene, and rasterio is missing.
    """
    if is_georaster(hit.path):
        return read_window(hit.path, hit.window, THUMBNAIL_SIZE)
    image = open_image(hit.path)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return image


def gallery_items(hits: Sequence["Hit"]) -> list[tuple[Image.Image, str]]:
    """Pictures with rank, similarity, date and file; a file that is gone becomes a tile that says so."""
    items = []
    for rank, hit in enumerate(hits, start=1):
        try:
            image = hit_image(hit)
        except ValueError as error:
            image = Image.new("RGB", (256, 256), "#333333")
            ImageDraw.Draw(image).multiline_text((8, 8), _wrap(str(error), 36), fill="white")
        known = (f"{hit.similarity:.3f}", hit.date, Path(hit.path).name)
        items.append((image, " · ".join([str(rank), *(text for text in known if text)])))
    return items


def _wrap(text: str, width: int) -> str:
    """Break a text, which may be a path without spaces, into lines."""
    return "\n".join(text[start : start + width] for start in range(0, len(text), width))


def hit_rows(hits: Sequence["Hit"]) -> list[list]:
    """One row of `HIT_COLUMNS` per hit; what is not known is empty. The box can be put in the filter as it is."""
    rows = []
    for rank, hit in enumerate(hits, start=1):
        window = "" if hit.window is None else " ".join(map(str, hit.window))
        box = "" if hit.bounds is None else ", ".join(f"{degrees:.6f}" for degrees in hit.bounds)
        known = (value or "" for value in (hit.date, hit.sensor, hit.scene))
        rows.append([rank, round(hit.similarity, 4), str(hit.path), window, *known, box])
    return rows


def explain_hit(model: PIRModel, processor: PIRProcessor, hit: "Hit") -> tuple[Image.Image, str]:
    """What the model looks at in a hit.

    Args:
        model: with an instruction.
        processor: its processor.
        hit: of a search.

    Returns:
        The picture with the filtered parts greyed and hatched, and a line of text.

    Raises:
        ValueError: the file is gone, or the model has no instruction.
    """
    image = hit_image(hit)
    belief = belief_map(model, processor, image)
    text = (
        f"**{html.escape(Path(hit.path).name)}**, similarity {hit.similarity:.3f}: the model keeps "
        f"{int(belief.kept.sum())} of {belief.kept.size} patches; those it believes least are greyed and hatched."
    )
    scale = THUMBNAIL_SIZE / max(image.size)
    return belief_overlay(image, belief, (round(image.width * scale), round(image.height * scale))), text


def rank_sentences(
    model: PIRModel, processor: PIRProcessor, image: Image.Image | None, sentences: str
) -> list[tuple[int, float, str]]:
    """The other way round: which of the given sentences fits an image best.

    Args:
        model: in evaluation mode.
        processor: its processor.
        image: of any mode.
        sentences: one per line; empty lines are passed over, and one that is there twice is ranked once.

    Returns:
        (rank, similarity, sentence), the best first; similarity is the cosine, in [-1, 1].

    Raises:
        ValueError: no image or no sentence.
    """
    texts = list(dict.fromkeys(line.strip() for line in sentences.splitlines() if line.strip()))
    if image is None or not texts:
        missing = "image" if image is None else "sentence"
        raise ValueError(f"There is no {missing}: choose an image, and write sentences, one per line.")
    image_embeds = embed_images(model, processor, [to_rgb(image)])
    similarity = (embed_texts(model, processor, texts) @ image_embeds.T)[:, 0].tolist()  # (texts,)
    ranked = sorted(zip(similarity, texts, strict=True), key=lambda pair: -pair[0])
    return [(rank, round(value, 4), text) for rank, (value, text) in enumerate(ranked, start=1)]


def draw_map(hits: Sequence["Hit"]) -> str:
    """A map of the hits: footprints with their ranks on a grid of degrees, with no background from elsewhere.

    Args:
        hits: of a search; those without a place are counted below the map.

    Returns:
        HTML with an inline SVG. North is up; distances are true to scale in the middle of the map.
    """
    placed = [(rank, hit) for rank, hit in enumerate(hits, start=1) if hit.bounds is not None]
    if not placed:
        return "<p>None of these images has a place on the ground.</p>"
    turn = _map_turn([hit.bounds for _, hit in placed])
    boxes = [_unwrap(hit.bounds, turn) for _, hit in placed]
    project, (west, south, east, north) = _projection(boxes)
    width, height = MAP_SIZE
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="map of the hits" '
        'style="width:100%;background:white;border:1px solid #999" xmlns="http://www.w3.org/2000/svg">',
        *_grid_lines(project, west, south, east, north),
        *(_marker(project, rank, hit, box) for (rank, hit), box in reversed(list(zip(placed, boxes, strict=True)))),
        "</svg>",
    ]
    if len(placed) < len(hits):
        parts.append(f"<p>{len(hits) - len(placed)} of {len(hits)} images have no place on the ground.</p>")
    return "\n".join(parts)


def _map_turn(boxes: Sequence[Bounds]) -> float:
    """Longitude at which the map is cut open: -180, or 0 where that keeps the hits closer together."""
    spans = []
    for turn in (-180.0, 0.0):
        unwrapped = [_unwrap(box, turn) for box in boxes]
        spans.append(max(box[2] for box in unwrapped) - min(box[0] for box in unwrapped))
    return 0.0 if spans[1] < spans[0] else -180.0


def _unwrap(box: Bounds, turn: float) -> Bounds:
    """Bounds with west in [turn, turn + 360) and east not below it."""
    west, south, east, north = box
    shifted = turn + (west - turn) % 360
    return shifted, south, shifted + (east - west) % 360, north


def _projection(boxes: Sequence[Bounds]) -> tuple[Callable[[float, float], tuple[float, float]], Bounds]:
    """From degrees to the map's pixels, and the degrees that the map's edges show."""
    wests, souths, easts, norths = zip(*boxes, strict=True)
    lon, lat = (min(wests) + max(easts)) / 2, (min(souths) + max(norths)) / 2
    squeeze = max(0.05, math.cos(math.radians(lat)))  # a degree of longitude against one of latitude
    width, height = MAP_SIZE
    extent_x = max(MIN_MAP_EXTENT, max(easts) - min(wests)) * squeeze * (1 + 2 * MAP_MARGIN)
    extent_y = max(MIN_MAP_EXTENT, max(norths) - min(souths)) * (1 + 2 * MAP_MARGIN)
    scale = min(width / extent_x, height / extent_y)  # pixels per degree of latitude

    def project(x: float, y: float) -> tuple[float, float]:
        return width / 2 + (x - lon) * squeeze * scale, height / 2 - (y - lat) * scale

    half_x, half_y = width / 2 / (squeeze * scale), height / 2 / scale
    return project, (lon - half_x, lat - half_y, lon + half_x, lat + half_y)


def _grid_lines(
    project: Callable[[float, float], tuple[float, float]], west: float, south: float, east: float, north: float
) -> list[str]:
    """Meridians and parallels at round degrees, three to about eight of each, with their names."""
    step = next((step for step in GRID_STEPS if min(east - west, north - south) / step >= 2), GRID_STEPS[-1])
    lines = []
    for axis, (low, high) in enumerate(((west, east), (south, north))):
        for number in range(math.ceil(low / step), math.floor(high / step) + 1):
            degrees = round(number * step, 6)
            x, y = project(degrees if axis == 0 else west, degrees if axis == 1 else south)
            end = f'x2="{x:.1f}" y2="0"' if axis == 0 else f'x2="{MAP_SIZE[0]}" y2="{y:.1f}"'
            start = f'x1="{x:.1f}" y1="{MAP_SIZE[1]}"' if axis == 0 else f'x1="0" y1="{y:.1f}"'
            lines.append(f'<line {start} {end} stroke="#ddd"/>')
            place = f'x="{x + 3:.1f}" y="{MAP_SIZE[1] - 4}"' if axis == 0 else f'x="3" y="{y - 3:.1f}"'
            lines.append(f'<text {place} font-size="11" fill="#666">{_degrees_text(degrees, axis)}</text>')
    return lines


def _degrees_text(degrees: float, axis: int) -> str:
    """Such as 99.5° W."""
    if axis == 0:
        degrees = (degrees + 180) % 360 - 180
    letter = ("E" if degrees >= 0 else "W", "N" if degrees >= 0 else "S")[axis]
    return f"{round(abs(degrees), 6):g}° {letter}"


def _marker(project: Callable[[float, float], tuple[float, float]], rank: int, hit: "Hit", box: Bounds) -> str:
    """A hit's footprint, at least a few pixels wide, with its rank; pointing at it shows its file."""
    polygons = _rings(hit, box)
    paths = "".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (project(*p) for p in ring)) + "Z" for ring in polygons
    )
    x, y = project((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    color = ORANGE if rank == 1 else BLUE
    title = html.escape(f"{rank}: {hit.path}, similarity {hit.similarity:.3f}" + (f", {hit.date}" if hit.date else ""))
    return (
        f'<g><title>{title}</title><path d="{paths}" fill="{color}" fill-opacity="0.2" stroke="{color}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="{color}"/><text x="{x:.1f}" y="{y + 4:.1f}" font-size="11" '
        f'font-weight="bold" fill="white" text-anchor="middle">{rank}</text></g>'
    )


def _rings(hit: "Hit", box: Bounds) -> list[list[tuple[float, float]]]:
    """The outlines of a hit, on the map's turn of longitude."""
    west, south, east, north = box
    if hit.footprint is None:
        return [[(west, south), (east, south), (east, north), (west, north)]]
    polygons = hit.footprint["coordinates"]
    if hit.footprint["type"] == "Polygon":
        polygons = [polygons]
    middle = (west + east) / 2
    return [[(middle + (x - middle + 180) % 360 - 180, y) for x, y, *_ in polygon[0]] for polygon in polygons]


def build_page(index: "PIRIndex", model: PIRModel, processor: PIRProcessor) -> "gradio.Blocks":
    """The page, not yet served.

    Args:
        index: what to search, made by this model.
        model: in evaluation mode.
        processor: its processor.

    Raises:
        ImportError: gradio is missing.
    """
    gr = _import_gradio()
    said = _as_messages(gr)
    with gr.Blocks(title="PIR: search satellite images") as page:
        gr.Markdown(f"# Search {len(index):,} satellite images")
        with gr.Tab("Find images"):
            _build_search(gr, said, index, model, processor)
        with gr.Tab("Rank sentences for an image"), gr.Row():
            with gr.Column():
                image = gr.Image(label="Image", type="pil", image_mode=None, height=320, sources=SOURCES)
                sentences = gr.Textbox("", label="Sentences, one per line", lines=6)
                button = gr.Button("Rank sentences", variant="primary")
            table = gr.Dataframe(headers=["rank", "similarity", "sentence"], interactive=False, wrap=True)

            @said
            def rank(image: Image.Image | None, sentences: str) -> list[list]:
                return [list(row) for row in rank_sentences(model, processor, image, sentences)]

            button.click(rank, [image, sentences], table)
    return page


def _build_search(gr: object, said: Callable, index: "PIRIndex", model: PIRModel, processor: PIRProcessor) -> None:
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
        return explain_hit(model, processor, hits[event.index])

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


def launch(
    index: "PIRIndex", model: PIRModel, processor: PIRProcessor, host: str = "127.0.0.1", port: int = 7860
) -> None:
    """Serve the page until interrupted.

    Args:
        index: what to search, made by this model.
        model: in evaluation mode.
        processor: its processor.
        host: address to listen on; "0.0.0.0" lets other machines in.
        port: to listen on.

    Raises:
        ImportError: gradio is missing.
        OSError: the port is taken.
    """
    build_page(index, model, processor).launch(server_name=host, server_port=port)


def _import_gradio() -> object:
    """The gradio package, or which extra brings it."""
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The page needs gradio: pip install 'modeling-pir[demo]'.") from error
    return gradio
