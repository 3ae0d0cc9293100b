"""The HTTP API and the page, as one FastAPI application."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote

from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from .. import __version__
from ..index.export import HIT_FORMATS
from ..index.hit_pictures import hit_image
from .access import Access, Guard
from .archive import Archive
from .pictures import as_jpeg, as_png
from .questions import MAX_TEXT, Format, Question, Ranking

if TYPE_CHECKING:
    from ..index.hit import Hit

DESCRIPTION = (
    "Search the images of an archive by sentences, images, or rows marked right and wrong. Answers are JSON; search "
    'also gives GeoJSON, CSV and GeoParquet with `format=`. Errors are one sentence, `{"error": ...}`.'
)
STATIC = Path(__file__).parent / "static"
DOWNLOAD_SIZE = 4096  # pixels of the longer side
KEPT = {"cache-control": "private, max-age=3600"}  # a row's id names its window, and its file as it was indexed
log = logging.getLogger(__name__)


def build_app(archive: Archive, access: Access = Access()) -> FastAPI:  # noqa: B008 - immutable
    """The application, not yet served.

    Args:
        archive: what is searched.
        access: who may ask.
    """
    app = FastAPIOffline(title="PIR search", version=__version__, description=DESCRIPTION, redoc_url=None)
    app.add_middleware(Guard, access=access)
    _add_errors(app)
    _add_search(app, archive)
    _add_pictures(app, archive)
    _add_rows(app, archive)
    app.mount("/", StaticFiles(directory=STATIC, html=True), name="page")
    return app


def _add_errors(app: FastAPI) -> None:
    """Every refusal is one sentence, as `{"error": ...}`."""

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": _sentence(error)}, 422)

    @app.exception_handler(ValueError)
    @app.exception_handler(ImportError)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(KeyError)
    async def gone(request: Request, error: KeyError) -> JSONResponse:
        return JSONResponse({"error": "This image is not in the index any more: search again."}, 404)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse({"error": "The server failed at this; its log says why."}, 500)


def _sentence(error: RequestValidationError) -> str:
    """What is wrong with a question, in one sentence."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    reason = first["msg"].removeprefix("Value error, ")
    return f"{field}: {reason}." if field else f"The question cannot be read: {reason}."


def _add_search(app: FastAPI, archive: Archive) -> None:
    """What the archive holds, and searches."""

    @app.get("/api/archive", summary="Overview of the archive")
    def overview() -> dict:
        found = archive.overview()
        return {
            "name": archive.name,
            "images": found.num_rows,
            "files": found.num_files,
            "scenes": _counted(found.scenes),
            "sensors": _counted(found.sensors),
            "others": {name: _counted(values) for name, values in found.others.items()},
            "dates": found.dates,
            "placed": found.num_placed,
            "places": found.places,
            "examples": found.examples,
            "sample": _shown(archive, archive.hits(found.sample)),
            "model": Path(str(archive.index.metadata["model_id"] or "")).name,
            "has_belief": archive.has_belief,
        }

    @app.get("/api/search", summary="Search by URL, which a GIS can open as GeoJSON")
    def search_by_address(question: Annotated[Question, Query()], format: Format = "json") -> Response:  # noqa: A002
        return _answer(archive, question, format)

    @app.post("/api/search", summary="Search")
    def search(question: Question, format: Format = "json") -> Response:  # noqa: A002
        return _answer(archive, question, format)

    @app.post("/api/rank", summary="Rank sentences for an image")
    def rank(ranking: Ranking) -> list[dict]:
        return [{"rank": n, "similarity": value, "sentence": text} for n, value, text in archive.rank(ranking)]


def _counted(values: Iterable[tuple[str, int]]) -> list[dict]:
    """Values with their counts."""
    return [{"name": name, "count": count} for name, count in values]


def _answer(archive: Archive, question: Question, format_name: str) -> Response:
    """The hits in the format that is wanted."""
    found = archive.search(question)
    if format_name == "json":
        answer = {"total": found.total, "doubts": found.doubts, "hits": _shown(archive, found.hits)}
        return JSONResponse(answer)
    shown = [replace(hit, path=archive.shown_path(hit.path)) for hit in found.hits]
    kind, write = HIT_FORMATS[format_name]
    headers = {"content-disposition": f'attachment; filename="hits.{format_name}"'}
    return Response(write(shown, archive.index.metadata), media_type=kind, headers=headers)


def _shown(archive: Archive, hits: Iterable[Hit]) -> list[dict]:
    """Hits as the page gets them."""
    return [
        {
            "rank": rank,
            "id": hit.id,
            "path": archive.shown_path(hit.path),
            "similarity": None if math.isnan(hit.similarity) else round(hit.similarity, 4),
            "relevance": None if hit.relevance is None else round(hit.relevance, 2),
            "others": hit.others,
            "date": hit.date,
            "sensor": hit.sensor,
            "scene": hit.scene,
            "labels": hit.labels,
            "window": hit.window,
            "bounds": hit.bounds,
            "footprint": hit.footprint,
        }
        for rank, hit in enumerate(hits, start=1)
    ]


def _add_pictures(app: FastAPI, archive: Archive) -> None:
    """Pictures to ask with."""

    @app.post("/api/pictures", summary="Upload a query image as the body; it is kept in memory only")
    async def keep(request: Request) -> dict:
        content = await request.body()
        return {"picture": await run_in_threadpool(archive.queries.keep, content)}

    @app.get("/api/pictures/{name}", summary="An uploaded image, at most 512 pixels wide")
    def kept(name: str) -> Response:
        return Response(as_jpeg(archive.queries.get(name)), media_type="image/jpeg", headers=KEPT)


def _add_rows(app: FastAPI, archive: Archive) -> None:
    """Pictures of rows, and what the model looks at in them."""

    @app.get("/api/rows/{row_id}/{size}.jpg", summary="A row's image, small (320 pixels) or large (1280)")
    def picture(row_id: str, size: Literal["small", "large"]) -> Response:
        return Response(archive.pictures.jpeg(archive.hit(row_id), size), media_type="image/jpeg", headers=KEPT)

    @app.get("/api/rows/{row_id}/image.png", summary="A row's image for download, lossless up to 4096 pixels")
    def download(row_id: str) -> Response:
        hit = archive.hit(row_id)
        name = quote(f"{Path(hit.path).stem}.png")
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{name}"}
        return Response(as_png(hit_image(hit, DOWNLOAD_SIZE)), media_type="image/png", headers=headers)

    @app.get("/api/rows/{row_id}/belief", summary="Which patches of a row's image the model keeps")
    def belief(row_id: str) -> dict:
        return archive.belief(archive.hit(row_id))

    @app.get("/api/rows/{row_id}/occlusion", summary="Which tiles of a row's image make it fit a sentence")
    def occlusion(row_id: str, text: Annotated[str, Query(max_length=MAX_TEXT)]) -> dict:
        return archive.occlusion(archive.hit(row_id), text)
