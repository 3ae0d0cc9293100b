"""The result of `training.evaluate` as a table for the terminal and as a Markdown report."""

from typing import Any

from training.evaluation.bootstrap import NUM_RESAMPLES
from training.evaluation.metrics import METRICS
from training.report.published import PublishedResult, load_published
from training.report.tables import HEADER, markdown_table

BENCHMARKS = {"rsicd": "RSICD", "rsitmd": "RSITMD", "ucm": "UCM-Captions"}
PROTOCOL = (
    "Every image and every distinct caption is embedded once, each by the model's own processor, and compared by "
    "cosine similarity with all of the split's captions or images. Nothing is re-ranked.",
    "**Recall** (R@k, mR): only the image that a caption was written for is right; an image is found by the first of "
    "its own captions. Ties are ranked against the model. mR is the mean of the six.",
    "**Merged recall**: an identical caption (word for word) of another image, and another image with the identical "
    "caption, also count as right. It cannot be compared with published numbers.",
    "**Ceiling**: the best possible score given identical captions. A caption of several images can rank only one of "
    "them first; an image that shares a caption with another one meets a tie.",
    f"**Intervals**: 95 %, from {NUM_RESAMPLES:,} resamplings of the split's images with their captions; the "
    "candidates stay. They show how much a result depends on this test split, not on the training seed.",
    "**mAP**: mean average precision over an image's own captions, and mean reciprocal rank of a caption's image.",
)


def terminal_table(label: str, data: dict[str, Any]) -> str:
    """Recall of all models on one split, chance and ceiling below.

    Args:
        label: of the data.
        data: of `training.evaluate.compare_on`, with `split`.

    Returns:
        Lines of equal width.
    """
    named = {name: measured["recall"] for name, measured in data["models"].items()}
    rows = [["", *METRICS, "95 %", "merged mR"]]
    for name, recall in (named | {"chance": data["chance"], "ceiling": data["ceiling"]}).items():
        cells = [name, *(f"{recall[key]:.2f}" for key in METRICS)]
        if name in named:
            low, high = data["models"][name]["intervals"]["recall"]["mR"]
            cells += [f"{low:.2f}-{high:.2f}", f"{data['models'][name]['merged_recall']['mR']:.2f}"]
        rows.append([*cells, *[""] * (len(rows[0]) - len(cells))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    title = f"{label}, {data['split']}: {data['images']} images, {data['captions']} captions; percent"
    lines = [
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(row))
        for row in (list(zip(cells, widths, strict=True)) for cells in rows)
    ]
    return "\n".join([title, *lines])


def write_report(result: dict[str, Any]) -> str:
    """The report of an evaluation as Markdown.

    Args:
        result: what is in metrics.json.

    Returns:
        The text; every number is one of metrics.json, rounded, or a published one with its source.
    """
    sections = ["# Evaluation", _models_section(result)]
    for label, data in result["data"].items():
        sections += _data_sections(label, data)
    sections += ["## Protocol", "\n".join(f"- {line}" for line in PROTOCOL), "## Where and how long"]
    return "\n\n".join([*sections, _environment_section(result)]) + "\n"


def _models_section(result: dict[str, Any]) -> str:
    rows = []
    for label, facts in result["models"].items():
        cleaning = {True: "cleaned", False: "as they are", None: "its processor's"}[facts["caption_cleaning"]]
        size = f"{facts['parameters'] / 1e6:.1f} M"
        rows.append(
            [f"`{label}`", f"{facts['class']} ({facts['family']})", _training(facts["training"]), cleaning, size]
        )
    return markdown_table(
        ["model", "kind", "trained on, checkpoint chosen", "captions", "parameters"], rows, num_left=4
    )


def _training(training: dict[str, Any] | None) -> str:
    if training is None:
        return "not known to this command"
    split = f", splits of {training['split_list']}" if training["split_list"] else ""
    start = training["init_from"] or ("pretrained towers" if training["backbones"] else "random weights")
    return (
        f"`{training['data']}`{split}, from {start}, seed {training['seed']}; epoch {training['epoch']} of "
        f"{training['epochs']}, by validation mR"
    )


def _data_sections(label: str, data: dict[str, Any]) -> list[str]:
    """The part of the report that is about one split."""
    name = BENCHMARKS.get(data["benchmark"], label)
    note = " This is the published test split, image by image." if data["benchmark"] else ""
    sections = [
        f"## {name}, {data['split']}",
        f"`{label}`: {data['images']} images, {data['captions']} captions of which {data['distinct_captions']} are "
        f"distinct; {data['shared_captions']} are also, word for word, captions of another image. "
        f"Fingerprint of names and captions: `{data['fingerprint']}`.{note}",
        _recall_table(data),
        _more_table(data),
        *_differences(data),
        "Zero-shot: the scene whose name, in five sentences, is nearest to the image. Percent, except median ranks."
        if _has_zero_shot(data)
        else "Percent, except median ranks.",
    ]
    if data["benchmark"]:
        sections += _published_sections(data, name)
    if any(measured["scenes"] for measured in data["models"].values()):
        sections += [f"### {name} by scene", "Queries of the scene's images among all candidates.", _scene_table(data)]
    folder = label.replace("/", "_")
    if data["pictures"]:
        sections += [f"### {name} in pictures", f"![recall at k]({folder}/recall_at_k.png)"]
    for model, pictures in data["pictures"].items():
        sections.append(f"`{model}`\n\n" + "\n\n".join(f"![{path}]({folder}/{path})" for path in pictures))
    return sections


def _recall_table(data: dict[str, Any]) -> str:
    rows = []
    for model, measured in data["models"].items():
        low, high = measured["intervals"]["recall"]["mR"]
        rows.append([f"`{model}`", *_cells(measured["recall"]), f"{low:.2f} to {high:.2f}"])
    rows += [[name, *_cells(data[name]), ""] for name in ("chance", "ceiling")]
    return markdown_table(["percent", *HEADER.values(), "mR, 95 %"], rows)


def _cells(recall: dict[str, float]) -> list[str]:
    return [f"{recall[key]:.2f}" for key in METRICS]


def _more_table(data: dict[str, Any]) -> str:
    header = ["", "merged R@1 image to text", "text to image", "merged mR", "mAP image to text", "text to image"]
    header += ["median rank image to text", "text to image"]
    header += ["zero-shot accuracy", "mean over scenes", "chance"] if _has_zero_shot(data) else []
    rows = []
    for model, measured in data["models"].items():
        merged, interval = measured["merged_recall"], measured["intervals"]["merged_recall"]["mR"]
        cells = [f"`{model}`", f"{merged['i2t_R@1']:.2f}", f"{merged['t2i_R@1']:.2f}"]
        cells.append(f"{merged['mR']:.2f} ({interval[0]:.2f} to {interval[1]:.2f})")
        cells += [f"{measured['mAP'][way]:.2f}" for way in ("i2t", "t2i")]
        cells += [f"{measured['median_rank'][way]:g}" for way in ("i2t", "t2i")]
        if _has_zero_shot(data):
            cells += [f"{measured['zero_shot'][name]:.1f}" for name in ("accuracy", "mean_accuracy", "chance")]
        rows.append(cells)
    return markdown_table(header, rows)


def _has_zero_shot(data: dict[str, Any]) -> bool:
    return all(measured["zero_shot"] for measured in data["models"].values())


def _differences(data: dict[str, Any]) -> list[str]:
    if not data["differences"]:
        return []
    lines = []
    for line in data["differences"]:
        metric = {"recall/mR": "mR", "merged_recall/mR": "merged mR"}[line["metric"]]
        low, high = line["interval"]
        lines.append(
            f"- `{line['second']}` against `{line['first']}`: {metric} {line['difference']:+.2f} points, 95 % "
            f"{low:+.2f} to {high:+.2f} (p {_p_value(line['p'])}; paired, the same images resampled for both)"
        )
    return ["\n".join(lines)]


def _p_value(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"= {p:.3f}"


def _published_sections(data: dict[str, Any], name: str) -> list[str]:
    """Our models among published ones, lowest mR first, and how their protocols differ."""
    published = load_published(data["benchmark"])
    if not published:
        return []
    notes: dict[str, int] = {}
    rows = [(result.mR, _published_row(result, notes)) for result in published]
    for model, measured in data["models"].items():
        recall = measured["recall"]
        cells = [
            f"**`{model}`**",
            "",
            "",
            "",
            f"**{recall['mR']:.2f}**",
            *(f"{recall[key]:.2f}" for key in METRICS[:-1]),
        ]
        rows.append((recall["mR"], [*cells, "see above", "1", "this report"]))
    header = ["method", "towers", "seen before", "trained on", "mR", *list(HEADER.values())[:-1], "chosen on", "runs"]
    table = markdown_table(
        [*header, "read in"], [cells for _, cells in sorted(rows, key=lambda row: row[0])], num_left=4
    )
    differences = (
        "How the published protocols differ from the one below, as far as known. *Chosen on* test means that the "
        "epoch with the best test recall was kept, so that the number is a maximum, not an estimate. *Runs*: a single "
        "number has an unknown spread over seeds. Published code orders ties by position or at random; here they count "
        "against the model. Cleaning of captions, their length in tokens and the resizing of images are each method's "
        "own. Towers that had seen image-text pairs, or remote-sensing ones, before are not like those that had not."
    )
    footnotes = "\n".join(f"{number}. {note}" for note, number in notes.items())
    return [f"### {name} among published results", table, differences, footnotes]


def _published_row(result: PublishedResult, notes: dict[str, int]) -> list[str]:
    mark = f" [{notes.setdefault(result.notes, len(notes) + 1)}]" if result.notes else ""
    recalls = [f"{result.recalls[key]:.2f}" if result.recalls else "" for key in METRICS[:-1]]
    spread = f" ± {result.mR_sd:.2f}" if result.mR_sd is not None else ""
    year = f" ({result.year})" if result.year else ""
    cells = [
        f"{result.method}{year}{mark}",
        result.backbones,
        result.group,
        result.training_data,
        f"{result.mR:.2f}{spread}",
        *recalls,
    ]
    return [*cells, result.selection, result.runs, result.source]


def _scene_table(data: dict[str, Any]) -> str:
    models = data["models"]
    with_zero_shot = _has_zero_shot(data)
    header = ["scene", "images", *(f"`{model}` mR" for model in models)]
    header += [f"`{model}` zero-shot" for model in models] if with_zero_shot else []
    first = next(iter(models.values()))["scenes"]
    rows = []
    for scene, facts in sorted(first.items(), key=lambda item: -item[1]["mR"]):
        cells = [
            scene,
            str(facts["images"]),
            *(f"{measured['scenes'][scene]['mR']:.1f}" for measured in models.values()),
        ]
        if with_zero_shot:
            cells += [f"{measured['zero_shot']['scenes'][scene]:.1f}" for measured in models.values()]
        rows.append(cells)
    return markdown_table(header, rows)


def _environment_section(result: dict[str, Any]) -> str:
    changed = " with uncommitted changes" if result["uncommitted_changes"] else ""
    packages = ", ".join(f"{name} {value}" for name, value in result["packages"].items() if value is not None)
    lines = [
        f"- {result['device']}, {result['torch_threads']} threads, {result['precision']}, batches of "
        f"{result['batch_size']}; {result['evaluated']}",
        f"- commit {result['commit'] or 'unknown'}{changed}",
        f"- Python {result['python']}, {packages}",
    ]
    for label, data in result["data"].items():
        for model, measured in data["models"].items():
            seconds = measured["seconds"]
            lines.append(
                f"- `{model}` on `{label}`: images {seconds['images']:.1f} s, {data['distinct_captions']} distinct "
                f"captions {seconds['texts']:.1f} s, all statistics {seconds['statistics']:.2f} s"
            )
    return "\n".join(lines)
