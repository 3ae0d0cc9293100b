"""An index of an archive: add images and scenes, search by sentence or image, keep it up to date.

    index = PIRIndex.create("archive.lance", load_encoder("org/pir-rsicd"))
    index.add("/data/archive")
    for hit in index.search("planes beside a terminal", k=5, where="date >= '2020'"):
        print(hit.similarity, hit.path, hit.window)

With lancedb (`pip install "modeling-pir[search]"`) an index is a Lance table, for any size; without it a SQLite file
that is searched exactly, for some hundred thousand rows. Both have the same columns and take the same SQL filters.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from ..hub.lock import holding, writer_lock
from ..inference.images import open_image
from .archive.places import common_folder, new_root
from .archive.scan import Scan, scan_files
from .commits import AddReport, apply_scan, fit_scan
from .embed_files import ChipOptions, EmbeddedFile, embed_files
from .export import export_rows
from .hit import Hit
from .questions.answer import answer, check_marks, find_rows, query_vectors, unit_vector
from .questions.bank import bank_embeds, bank_sentences
from .questions.doubts import doubts_about, shattered_below
from .questions.query import Query, as_query
from .questions.ranking import Sample, chance_level, hubness, prominence
from .rows import image_row
from .stores.columns import COLUMNS, FileState, Row
from .stores.files import WAIT_SECONDS, create_store, open_store
from .stores.store import is_address

if TYPE_CHECKING:
    import torch

    from ..inference.encoder import Encoder
    from ..inference.onnx_text import OnnxTextEncoder
    from ..modeling_pir import PIRModel
    from ..processing_pir import PIRProcessor
    from .stores.lance_store import LanceStore
    from .stores.sqlite_store import ExactStore


SAMPLE_ROWS = 1_000  # of the archive, for what a query gets from it at large
MIN_ROWS_OF_CHANCE = 200  # below, too few rows tell what stands out
CHIP_OPTIONS = {option.name for option in fields(ChipOptions)}
Source = str | Path | Sequence[str | Path] | Iterable[tuple[Image.Image, Mapping[str, object]]]


class PIRIndex:
    """A search index of images; made by [`PIRIndex.create`] or [`PIRIndex.open`].

    Args:
        store: rows and vectors.
        encoder: the model that made the index; needed to add images and to search by an image.

    Attributes:
        path: of the index.
        metadata: `model_id`, `revision`, `weights`, `dim` and `family` of its model, see `Encoder.describe`.
        text_encoder: embeds sentences in place of the encoder, see [`PIRIndex.use_text_encoder`].

    Example:
    ```python
    >>> from modeling_pir import PIRIndex, Query, load_encoder

    >>> index = PIRIndex.create(path, load_encoder("hub_configs/pir-small-rsicd"))  # "archive.lance", say
    >>> report = index.add(folder)  # of images and GeoTIFFs
    >>> hits = index.search(Query("planes", without="a terminal"), k=5)
    >>> best = hits[0].path, hits[0].similarity  # a cosine, -1 to 1
    ```
    """

    def __init__(self, store: LanceStore | ExactStore, encoder: Encoder | None = None) -> None:
        self.store = store
        self.encoder = encoder
        self.text_encoder: OnnxTextEncoder | None = None
        self._sample: tuple[int, Sample] | None = None
        self._chance: tuple[Sample, float] | None = None
        self._embedded: tuple[Sequence[str], np.ndarray] | None = None  # the sentences of the last question
        self._root: str | None = None
        self.path: str = store.path
        self.metadata: dict = store.metadata
        self._lock = None if is_address(store.path) else writer_lock(store.path)

    @classmethod
    def create(
        cls,
        path: str | Path,
        model: Encoder | PIRModel,
        processor: PIRProcessor | None = None,
        engine: Literal["lance", "exact"] | None = None,
    ) -> PIRIndex:
        """Create an empty index.

        Args:
            path: folder or object storage address of the Lance table, or file of the exact index; must not exist.
            model: an encoder of `load_encoder`, or a PIR model in evaluation mode.
            processor: of a PIR model.
            engine: "lance" or "exact"; None takes Lance if lancedb is installed.

        Returns:
            The index.

        Raises:
            ValueError: the path exists.
            ImportError: engine "lance", but lancedb is not installed.
            OSError: the path cannot be written.
        """
        encoder = _as_encoder(model, processor)
        return cls(create_store(path, encoder.describe(), engine), encoder)

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: Encoder | PIRModel | None = None,
        processor: PIRProcessor | None = None,
        root: str | Path | None = None,
    ) -> PIRIndex:
        """Open an index.

        Args:
            path: of the index.
            model: the encoder or PIR model that made it; None is enough to search by vectors, to delete and to export.
            processor: of a PIR model.
            root: where its archive is now, if it is neither in its old place nor beside the index.

        Returns:
            The index.

        Raises:
            ValueError: no index at the path, or one made by another model.
            ImportError: a Lance table, but lancedb is not installed.
        """
        index = cls(open_store(path))
        if root is not None:
            index.use_root(root)
        if model is not None:
            index.attach(model, processor)
        return index

    def attach(self, model: Encoder | PIRModel, processor: PIRProcessor | None = None) -> None:
        """Set the model of an index that was opened without one.

        Args:
            model: an encoder of `load_encoder`, or a PIR model in evaluation mode.
            processor: of a PIR model.

        Raises:
            ValueError: not the model that made the index.
        """
        encoder = _as_encoder(model, processor)
        given, own = encoder.describe(), self.metadata
        if given["weights"] != own["weights"]:
            raise ValueError(
                f"The index {self.path} was made by {_model_name(own)}, not by {_model_name(given)}, and "
                f"vectors of two models cannot be compared: load the former, or make a new index with: "
                f"pir index FOLDER --index NEW_INDEX --model {given['model_id'] or 'MODEL'}"
            )
        self.encoder = encoder

    def use_text_encoder(self) -> bool:
        """Embed sentences with the exported text side of the model if there is one: without torch, faster on a CPU.

        Returns:
            Whether there is one.
        """
        from ..inference.onnx_text import find_text_encoder

        self.text_encoder = find_text_encoder(self.metadata["weights"])
        return self.text_encoder is not None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer, from the scan to the last row; others wait. Rows that are there twice are dropped.

        Nothing locks an index in object storage: run one writer at a time.

        Raises:
            OSError: another process has been writing for too long, or the index cannot be written.
        """
        if self._lock is not None and self._lock.is_locked:  # by this thread, which is inside already
            yield
            return
        with holding(self._lock, WAIT_SECONDS) if self._lock else nullcontext():
            self.store.refresh()
            self.store.root = self._root or self.store.root
            self.store.add_columns(COLUMNS)  # that an index of an older version lacks
            self.store.drop_doubles()
            yield

    def __len__(self) -> int:
        return self.store.count()

    def scan(self, *sources: str | Path, recut: Mapping[str, object] | None = None) -> Scan:
        """Find out what [`PIRIndex.add`] would have to embed, without a model and without opening an image.

        Args:
            sources: folders and files.
            recut: options of how scenes are cut; one that was cut by others counts as changed.

        Returns:
            The files by what is to be done; `gone` only for a single folder.

        Raises:
            ValueError: a source does not exist.
        """
        places = [os.path.abspath(source) for source in sources]
        scan = scan_files(places, self.store.files(), self.path, self.store.root, recut)
        fit_scan(scan, self.store.columns)
        return scan

    def use_root(self, root: str | Path) -> None:
        """Look for the archive at another place than is remembered, as long as this index is open."""
        self._root = self.store.root = os.path.abspath(root)

    def settle(self, sources: Sequence[str | Path], root: str | Path | None = None) -> None:
        """Find out where the archive is: at the first sources, or where it has been moved to.

        Args:
            sources: folders and files that are about to be added.
            root: the folder that paths are to be relative to; None keeps it, or finds it.
        """
        places = [os.path.abspath(source) for source in sources if os.path.exists(source)]
        if root is not None:
            self.store.set_root(os.path.abspath(root))
        elif self.store.state.get("root") is None:
            if places and not len(self):
                self.store.set_root(common_folder(places))
        elif places and (moved_to := new_root(self.store.root, self.store.files(), places)):
            self.store.set_root(moved_to)
        elif self.store.root != self.store.state["root"]:  # both were moved
            self.store.set_root(self.store.root)

    @property
    def cut_bands(self) -> tuple[int, int, int] | None:
        """Numbers of the red, green and blue band that scenes were last cut with; None where each file says it."""
        return tuple(self.store.state.get("chips", {}).get("bands") or ()) or None

    def cut_options(self, asked: Mapping[str, object] | None = None) -> ChipOptions:
        """How scenes are cut: as is asked for, else as the last ones were."""
        known = {name: value for name, value in self.store.state.get("chips", {}).items() if name in CHIP_OPTIONS}
        options = known | {name: value for name, value in (asked or {}).items() if value is not None}
        if options.get("bands"):
            options["bands"] = tuple(options["bands"])
        chips = ChipOptions(**options)
        if chips.given() != self.store.state.get("chips"):
            self.store.write_state(chips=chips.given())
        return chips

    def add(
        self,
        source: Source,
        batch_size: int = 64,
        chips: ChipOptions | None = None,
        progress: bool = False,
    ) -> AddReport:
        """Embed what is new or changed, and write it in commits that a crash does not undo.

        Args:
            source: a folder, files, or pairs of an image and its metadata (see [`image_row`]). Of a
                folder, hidden files are passed over, and a `metadata.jsonl` beside the images gives scene, date,
                sensor and other columns.
            batch_size: images encoded at once.
            chips: how scenes are cut; those that were cut otherwise are cut anew. None cuts as the last ones were.
            progress: whether to show a progress bar.

        Returns:
            What was done; a file that cannot be read is reported there and costs no other.

        Raises:
            ValueError: no model, or a source that does not exist.
            OSError: the index cannot be written.
        """
        return self._bring_in(source, batch_size, chips, progress, delete_gone=False)

    def update(
        self,
        folder: str | Path,
        batch_size: int = 64,
        chips: ChipOptions | None = None,
        progress: bool = False,
        force: bool = False,
    ) -> AddReport:
        """Bring the index to the state of a folder: as [`PIRIndex.add`], and rows of files that are gone are deleted.

        Rows from a folder below that is empty or cannot be listed are kept and reported, unless `force` is set: its
        disk may not be mounted.

        Raises:
            ValueError: no model, or no folder.
            OSError: the index cannot be written.
        """
        if not os.path.isdir(folder):
            raise ValueError(f"{folder} is not a folder: name the folder that the index is of.")
        return self._bring_in(folder, batch_size, chips, progress, delete_gone=True, force=force)

    def _bring_in(
        self,
        source: Source,
        batch_size: int,
        chips: ChipOptions | None,
        progress: bool,
        delete_gone: bool,
        force: bool = False,
    ) -> AddReport:
        """Scan and embed, or embed what is in memory."""
        self._need_model()
        sources = [source] if isinstance(source, str | Path) else source
        first, *_ = sources if isinstance(sources, Sequence) and len(sources) else [None]
        with self.writing():
            if not isinstance(first, str | Path):
                return self._add_images(sources, batch_size)
            self.settle(sources)
            asked = chips.given() if chips else {}
            scan = self.scan(*sources, recut=asked)
            remembered = self.cut_options(asked)
            files = embed_files(
                self.encoder, scan.new + scan.changed, chips or remembered, scan.labels, batch_size, progress
            )
            return self.write(files, scan, delete_gone, force)

    def _add_images(self, images: Iterable[tuple[Image.Image, Mapping[str, object]]], batch_size: int) -> AddReport:
        """Embed images in memory; each is a file of one row."""
        known = self.store.files()
        scan = Scan()
        return self.write(self._embed_images(images, known, scan, batch_size), scan)

    def _embed_images(
        self, images: Iterable[tuple[Image.Image, Mapping[str, object]]], known: dict, scan: Scan, batch_size: int
    ) -> Iterator[EmbeddedFile]:
        """Embed those that are not known; what becomes of the others is noted in the scan."""
        from ..inference.embed import batched

        rows = ((image, image_row(image, metadata)) for image, metadata in images)
        for batch in batched(rows, batch_size):
            wanted = []
            for image, row in batch:
                state = known.get(row["path"])
                if state is not None and state.hash == row["hash"]:
                    scan.num_unchanged += 1
                    continue
                if state is not None:
                    scan.changed.append(row["path"])
                known[row["path"]] = FileState(None, None, row["hash"])  # it may come once more
                wanted.append((open_image(image), row))
            embeddings = self.encoder.embed_images([image for image, _ in wanted], batch_size).numpy()
            for (_, row), vector in zip(wanted, embeddings, strict=True):
                yield EmbeddedFile(row["path"], [row], vector[None])

    def write(
        self, files: Iterable[EmbeddedFile], scan: Scan, delete_gone: bool = False, force: bool = False
    ) -> AddReport:
        """Write embedded files as they come, all rows of a file in one commit, and do what else a scan has found.

        Args:
            files: from [`embed_files`], here or on other machines.
            scan: which of them replace older rows, and what else is to be done and reported.
            delete_gone: whether rows of files that are gone are deleted.
            force: whether also of folders that are empty or cannot be read, as a disk is that is not mounted.

        Returns:
            What was done.

        Raises:
            OSError: the index cannot be written; earlier commits are kept.
        """
        with self.writing():
            report = apply_scan(self.store, files, scan, self._note_hubness, delete_gone, force)
            self.store.maintain()
        return report

    def _note_hubness(self, rows: Sequence[Row], embeddings: np.ndarray) -> None:
        """Put the rows' hubness into them, where the model is at hand and scales its cosines."""
        if self.encoder is None or self.encoder.logit_scale is None:
            return
        offsets = hubness(embeddings, bank_embeds(self.encoder, self.metadata["weights"]), self.encoder.logit_scale)
        for row, offset in zip(rows, offsets.tolist(), strict=True):
            row["hubness"] = offset

    def search(
        self,
        query: str | Image.Image | torch.Tensor | np.ndarray | Query,
        k: int = 10,
        where: str | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """Search the index.

        Args:
            query: a sentence, an image of any mode, a vector (dim,) of any norm, or a [`Query`] of several parts.
            k: maximum number of hits.
            where: SQL over the columns of the index (`stores.columns.COLUMNS`), such as "scene = 'airport'".
            exact: compare all vectors even if there is an approximate index.

        Returns:
            Hits, best first: ranked by cosine, for sentences minus half of the row's hubness.

        Raises:
            ValueError: an invalid query, k below 1, an invalid filter or area, an unknown row, or no model.
            ImportError: an area, but shapely is not installed.
        """
        if k < 1:
            raise ValueError(f"k is {k}, but it has to be at least 1.")
        if where is not None and not where.strip():
            raise ValueError("The filter is empty: leave it out, or write SQL such as \"scene = 'airport'\".")
        query = as_query(query)
        right, wrong = (find_rows(self.store, names) for names in (query.like, query.unlike))
        check_marks(right, wrong)
        vectors = self._query_vectors(query, right, wrong)
        marked = frozenset(right) | frozenset(wrong)
        found = answer(self.store, query, vectors, marked, self.sample(), k, where, exact)
        return [Hit.from_row(one.row, one.similarity, one.relevance, one.others) for one in found]

    def _query_vectors(self, query: Query, right: Mapping[str, np.ndarray], wrong: Mapping) -> np.ndarray:
        """(vectors, dim) float32, unit norm."""
        dim = self.metadata["dim"]
        given = [unit_vector(vector, dim) for vector in query.vectors]
        if query.images:
            self._need_model()
            given += list(self.encoder.embed_images([open_image(image) for image in query.images]).numpy())
        parts = (self._embed_texts(query.sentences), self._embed_texts(query.without), given)
        rows = (list(right.values()), list(wrong.values()))
        return query_vectors(query, *(np.reshape(part, (len(part), dim)) for part in (*parts, *rows)))

    def _embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dim) float32, unit norm."""
        if not texts:
            return np.empty((0, self.metadata["dim"]), dtype=np.float32)
        if (known := self._embedded) is not None and known[0] == texts:  # doubts follow the search
            return known[1]
        if self.text_encoder is not None:
            vectors = self.text_encoder.embed_texts(texts)
        else:
            self._need_model()
            vectors = self.encoder.embed_texts(list(texts)).numpy()
        self._embedded = texts, vectors
        return vectors

    def sample(self) -> Sample:
        """Rows of the archive at random, at most `SAMPLE_ROWS`."""
        num_rows = len(self)
        if self._sample is None or self._sample[0] != num_rows:
            chosen = np.random.default_rng(0).permutation(num_rows)[:SAMPLE_ROWS]
            nothing = [], np.empty((0, self.metadata["dim"]), dtype=np.float32)
            rows, vectors = self.store.rows_at(np.sort(chosen)) if num_rows else nothing
            self._sample = num_rows, Sample(vectors, [row["hubness"] for row in rows])
        return self._sample[1]

    def doubts(self, query: str | Query) -> list[str]:
        """Report what is doubtful about the sentences of a query: unknown or cut words, or nothing found.

        Args:
            query: a sentence, or a [`Query`], of which the sentences are judged.

        Returns:
            Sentences for the user; none where there is no doubt, or where the model's tokenizer cannot be asked.

        Raises:
            ValueError: no model.
        """
        source = self.encoder or self.text_encoder
        if source is None:
            self._need_model()
        if source.reading is None:
            return []
        threshold = shattered_below(bank_sentences(), source.reading.tokenizer)
        found = []
        for text in as_query(query).sentences:
            doubts = doubts_about(text, source.reading, threshold)
            if not doubts and self._is_chance(text):
                doubts = [f"No row of the index stands out for {text!r}: the hits may be chance."]
            found += doubts
        return found

    def _is_chance(self, text: str) -> bool:
        """Whether no row of the index stands out for a sentence; never where there are too few rows to tell."""
        sample = self.sample()
        if len(sample.vectors) < MIN_ROWS_OF_CHANCE:
            return False
        return bool(prominence(self._embed_texts((text,)), sample.vectors)[0] < self._chance_level(sample))

    def _chance_level(self, sample: Sample) -> float:
        """See [`chance_level`]; computed once for a sample."""
        if self._chance is None or self._chance[0] is not sample:
            source = self.encoder or self.text_encoder
            bank = self.text_encoder.bank if self.text_encoder else bank_embeds(source, self.metadata["weights"])
            self._chance = sample, chance_level(sample.vectors, bank)
        return self._chance[1]

    def _need_model(self) -> None:
        """Refuse what needs a model where there is none."""
        if self.encoder is None:
            raise ValueError(
                f"The index {self.path} was opened without a model: open it with {_model_name(self.metadata)}."
            )

    def delete(self, where: str | None = None, paths: Sequence[str | Path] | None = None) -> int:
        """Delete rows.

        Args:
            where: SQL, see [`PIRIndex.search`]; or
            paths: of files.

        Returns:
            The number of rows deleted.

        Raises:
            ValueError: neither or both are given, or a filter that cannot be understood.
        """
        if (where is None) == (paths is None):
            raise ValueError("Give either where=... or paths=...: the rows to delete.")
        with self.writing():
            if where is not None:
                return self.store.delete(where)
            # An image in memory is called what its metadata says, a file by its absolute path.
            return self.store.delete_files(
                sorted({name for path in paths for name in (str(path), os.path.abspath(path))})
            )

    def export(self, path: str | Path, where: str | None = None) -> int:
        """Write rows to a file, in the format of its suffix.

        Args:
            path: `.geojson`: footprints and properties, without vectors. `.parquet`: all columns with the vectors,
                footprints as GeoParquet geometry; Milvus, Qdrant and DuckDB read it too.
            where: only rows that a filter leaves.

        Returns:
            The number of rows written.

        Raises:
            ValueError: another suffix, or a filter that cannot be understood.
        """
        return export_rows(path, self.store.rows(where), self.metadata, self.store.columns)

    def check(self, num_queries: int = 100, k: int = 10, where: str | None = None, seed: int = 0) -> float:
        """Recall of the search against an exact one, for vectors of the index as queries.

        Args:
            num_queries: at most; taken at random.
            k: neighbours; the query itself is not counted.
            where: filter of the searches.
            seed: of the choice.

        Returns:
            The share of the k exact neighbours that are found, 0 to 1.

        Raises:
            ValueError: the index is empty, or fewer than one query.
        """
        if num_queries < 1 or not len(self):
            raise ValueError(f"{num_queries} queries on {len(self)} rows leave nothing to check: add images first.")
        chosen = np.random.default_rng(seed).permutation(len(self))[:num_queries]
        shares = []
        for vector in self.store.rows_at(np.sort(chosen))[1]:
            found, true = (self.store.nearest(vector, k + 1, where, exact) for exact in (False, True))
            true_ids = {row["id"] for row, _ in true[1:]} or {row["id"] for row, _ in true}
            if true_ids:
                shares.append(len(true_ids & {row["id"] for row, _ in found}) / len(true_ids))
        return float(np.mean(shares))


def _as_encoder(model: Encoder | PIRModel, processor: PIRProcessor | None) -> Encoder:
    """An encoder as it is, or PIR with its processor as one."""
    from ..inference.encoder import Encoder, PIREncoder

    return model if isinstance(model, Encoder) else PIREncoder(model, processor)


def _model_name(description: Mapping[str, str | None]) -> str:
    """A model in words: its id and revision, or the beginning of its weights' hash."""
    name = description["model_id"] or "a model without a name"
    detail = (
        f"revision {description['revision']}" if description["revision"] else f"weights {description['weights'][:8]}"
    )
    return f"{name} ({detail})"
