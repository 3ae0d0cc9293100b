"""The same 8 images and 40 captions load as equal rows from every format and spelling; broken ones are named."""

import csv
import io
import json
import re
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from training.data.rows import join_captions
from training.data.sources import load_image_captions

NAMES = [f"{number:04d}.png" for number in range(8)]
SCENES = {name: str(number % 3) for number, name in enumerate(NAMES)}  # a scene may be a number
CAPTIONS = {
    name: [f"caption {number} of {name}: a field, a «café» \u2028 and 农田" for number in range(5)] for name in NAMES
}
LATIN = {name: [f"caption {number}, ein Feld für Öhrlinge bei {name}" for number in range(5)] for name in NAMES}
PAIRS = [(name, caption) for name in NAMES for caption in CAPTIONS[name]]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (8, 8), (number * 20, 90, 200)).save(tmp_path / "images" / name)
    return tmp_path


def delimited(separator=",", head=("file_name", "caption", "scene", "split"), captions=CAPTIONS, **options):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, **options)
    writer.writerow(head)
    writer.writerows((f"images/{name}", text, SCENES[name], "train") for name in NAMES for text in captions[name])
    return stream.getvalue()


def lines(*rows, ascii_only=False):
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)


def image_rows(**fields):
    return [
        {"file_name": f"images/{name}", "captions": CAPTIONS[name], "scene": SCENES[name], "split": "train"} | fields
        for name in NAMES
    ]


def caption_rows(name_column="path", text_column="caption"):
    return [
        {name_column: f"images/{name}", text_column: text, "scene": int(SCENES[name]), "split": "Train "}
        for name, text in PAIRS
    ]


def coco():
    images = [
        {"id": 7 + place, "file_name": name, "scene": SCENES[name], "split": "train"}
        for place, name in enumerate(NAMES)
    ]
    notes = [
        {"id": place, "image_id": 7 + NAMES.index(name), "caption": text} for place, (name, text) in enumerate(PAIRS)
    ]
    return json.dumps({"info": {}, "images": images, "annotations": notes})


def karpathy(**fields):
    images = [
        {
            "filename": name,
            "split": "restval",
            "class": SCENES[name],
            "sentences": [{"raw": text, "tokens": []} for text in CAPTIONS[name]],
        }
        | fields
        for name in NAMES
    ]
    return json.dumps({"dataset": "own", "images": images})


def wide(num_columns=5, empty=()):
    """A column for each caption; an image that has fewer leaves cells empty, as programs write them."""
    head = ["file_name", *(f"Caption {number + 1}" for number in range(num_columns)), "scene", "split"]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(head)
    for number, name in enumerate(NAMES):
        spare = [empty[number % len(empty)]] if num_columns > 5 else []
        writer.writerow((f"images/{name}", *CAPTIONS[name], *spare, SCENES[name], "train"))
    return stream.getvalue()


def reordered():
    """As a table of a labelling tool: a number first, the caption in front of the name, a date behind."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["id", "Caption", "Scene", "split", "File", "created"])
    writer.writerows(
        (number, text, SCENES[name], "TRAIN", f"images/{name}", "2026-01-02")
        for number, (name, text) in enumerate(PAIRS)
    )
    return stream.getvalue()


def listed(as_text):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["file_name", "captions", "scene", "split"])
    writer.writerows((f"images/{name}", as_text(CAPTIONS[name]), SCENES[name], "train") for name in NAMES)
    return stream.getvalue()


TEXTS = {
    "commas": ("captions.csv", delimited()),
    "semicolons": ("captions.csv", delimited(";")),
    "tabs": ("captions.tsv", delimited("\t")),
    "tabs in a text file": ("captions.txt", delimited("\t")),
    "bars": ("captions.csv", delimited("|")),
    "all in quotes": ("captions.csv", delimited(quoting=csv.QUOTE_ALL)),
    "line ends of Unix": ("captions.csv", delimited(lineterminator="\n")),
    "Excel's word for the separator": ("captions.csv", "sep=;\r\n" + delimited(";")),
    "empty cells and lines at the end": (
        "captions.csv",
        delimited().replace("train\r\n", "train,,\r\n") + "\r\n,,,\r\n",
    ),
    "other names of columns": ("captions.csv", delimited(head=("Image Path", " Sentence", "Class", "Split"))),
    "names of columns in capitals": ("CAPTIONS.CSV", delimited(head=("FILE NAME", "CAPTION", "CLASS", "SPLIT"))),
    "columns in another order, others between": ("captions.csv", reordered()),
    "paths of Windows": ("captions.csv", delimited().replace("images/", "images\\")),
    "names without their folder": ("captions.csv", delimited().replace("images/", "")),
    "names without their end": ("captions.csv", delimited().replace(".png,", ",")),
    "numbered captions of Flickr": ("captions.csv", delimited().replace(".png,", ".png#1,")),
    "a column for each caption": ("captions.csv", wide()),
    "columns from 1 on, some empty or NaN": ("captions.csv", wide(6, ("", "NaN"))),
    "lists as JSON in cells": ("captions.csv", listed(json.dumps)),
    "lists as Python in cells": ("captions.csv", listed(str)),
    "UTF-8 with a mark": ("captions.csv", ("utf-8-sig", delimited())),
    "UTF-16": ("captions.csv", ("utf-16", delimited())),
    "UTF-16 without a mark": ("captions.csv", ("utf-16-le", delimited())),
    "JSON lines": ("metadata.jsonl", lines(*image_rows())),
    "JSON lines in ASCII": ("metadata.jsonl", lines(*image_rows(), ascii_only=True)),
    "JSON lines with a mark": ("metadata.jsonl", ("utf-8-sig", lines(*image_rows()))),
    "JSON lines, one a caption": ("captions.jsonl", lines(*caption_rows())),
    "JSON lines called .json": ("captions.json", lines(*caption_rows("image", "text"))),
    "a list in JSON": ("captions.json", json.dumps(caption_rows("image"), indent=1)),
    "line ends of Windows, converted twice": ("captions.csv", delimited(lineterminator="\r\r\n")),
    "line ends of an old Mac": ("captions.csv", delimited(lineterminator="\r")),
    "JSON lines with line ends of an old Mac": ("metadata.jsonl", lines(*image_rows()).replace("\n", "\r")),
    "a space after each comma": ("captions.csv", delimited(quoting=csv.QUOTE_ALL).replace('","', '", "')),
    "Excel's word for the separator, in quotes": ("captions.csv", '"sep=;"\r\n' + delimited(";")),
    "addresses of files": ("captions.csv", delimited().replace("images/", "file:///C:/my%20data/images/")),
    "names in capitals": ("captions.csv", delimited().replace(".png,", ".PNG,")),
    "scenes as pandas writes numbers": ("captions.csv", re.sub(r",(\d),train", r",\1.0,train", delimited())),
    "captions of a language": ("captions.csv", delimited(head=("file_name", "captions_en", "scene", "split"))),
    "one column's name for all captions": ("captions.csv", re.sub(r"Caption \d", "Caption", wide())),
    "names of columns as pandas makes them distinct": (
        "captions.csv",
        re.sub(r"Caption (\d)", lambda found: f"caption.{int(found[1]) - 1}", wide()).replace("caption.0", "caption"),
    ),
    "COCO with ids as text in annotations, these first": (
        "captions_train.json",
        json.dumps(dict(reversed(json.loads(re.sub(r'("image_id": )(\d+)', r'\1"\2"', coco())).items()))),
    ),
    "COCO": ("captions_train2017.json", coco()),
    "Karpathy": ("dataset_own.json", karpathy()),
    "Karpathy with folders": ("dataset_own.json", karpathy(filepath="images")),
}


def write(path, text):
    encoding, text = ("utf-8", text) if isinstance(text, str) else text
    path.write_bytes(text.encode(encoding))
    return path


def contents(rows):
    return list(zip(rows["filename"], rows["captions"], rows["scene"], strict=True))


EXPECTED = [(f"images/{name}", CAPTIONS[name], SCENES[name]) for name in NAMES]


@pytest.mark.parametrize("given", ["the table", "its folder"])
@pytest.mark.parametrize("spelling", TEXTS)
def test_every_spelling_of_a_table_gives_the_same_rows(folder, spelling, given):
    name, text = TEXTS[spelling]
    table = write(folder / name, text)
    assert contents(load_image_captions(str(table if given == "the table" else folder), "train")) == EXPECTED


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp1250", "utf-8"])
def test_a_table_of_excel_in_the_encoding_of_its_windows_is_read(folder, encoding):
    table = write(folder / "captions.csv", (encoding, delimited(";", captions=LATIN)))
    assert load_image_captions(str(table), "train")["captions"] == list(LATIN.values())


@pytest.mark.parametrize("encoding", ["gb18030", "cp1251"])
def test_a_table_in_an_encoding_of_the_east_is_read(folder, encoding):
    sentence = {"gb18030": "左边是农田右边是道路和一个机场", "cp1251": "большое поле рядом с рекой и лесом"}[encoding]
    table = write(folder / "captions.csv", (encoding, delimited(captions={name: [sentence] * 5 for name in NAMES})))
    assert load_image_captions(str(table), "train")["captions"] == [[sentence] * 5] * 8


def parquet(folder, columns, features=None):
    Dataset.from_dict(columns, features=features and Features(features)).to_parquet(folder / "train.parquet")
    return folder


def image_bytes(folder, names):
    return [{"bytes": (folder / "images" / name).read_bytes(), "path": None} for name in names]


@pytest.mark.parametrize(
    "shape", ["one row an image", "one row a caption", "without file names", "sentences as captions"]
)
def test_parquet_with_images_gives_the_same_rows(folder, shape):
    names = NAMES if shape == "one row an image" else [name for name, _ in PAIRS]
    captions = [CAPTIONS[name] for name in NAMES] if shape == "one row an image" else [text for _, text in PAIRS]
    text_column = "captions" if shape in ("one row an image", "sentences as captions") else "caption"
    columns = {
        "image": image_bytes(folder, names),
        text_column: captions,
        "scene": [int(SCENES[name]) for name in names],
    }
    if shape != "without file names":
        columns["filename"] = [f"images/{name}" for name in names]
    rows = load_image_captions(str(parquet(folder, columns)), "train")
    assert (rows["captions"], rows["scene"]) == ([CAPTIONS[name] for name in NAMES], list(SCENES.values()))
    if shape != "without file names":
        assert contents(rows) == EXPECTED


def test_parquet_as_a_table_of_file_names_gives_the_same_rows(folder):
    columns = {"path": [f"images/{name}" for name, _ in PAIRS], "caption": [text for _, text in PAIRS]}
    columns["scene"] = [float(SCENES[name]) for name, _ in PAIRS]
    assert contents(load_image_captions(str(parquet(folder, columns)), "train")) == EXPECTED


@pytest.mark.parametrize("name", ["captions.parquet", "TRAIN.PARQUET"])
def test_parquet_of_any_name_and_kind_of_text_gives_the_same_rows(folder, name):
    (inner := folder / "a [1]*").mkdir()  # signs that a pattern of names would read
    columns = {
        "image": pa.array([{"bytes": None, "path": f"../images/{name}"} for name in NAMES]),  # as datasets writes files
        "captions": pa.array([CAPTIONS[name] for name in NAMES], pa.large_list(pa.large_string())),
        "scene": pa.array([SCENES[name] for name in NAMES]).dictionary_encode(),
        "split": pa.array(["train"] * len(NAMES)).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), inner / name)
    rows = load_image_captions(str(inner), "train")
    assert (rows["captions"], rows["scene"]) == (list(CAPTIONS.values()), list(SCENES.values()))


def test_images_of_parquet_are_called_as_they_are_stored(folder):
    images = [row | {"path": name} for row, name in zip(image_bytes(folder, NAMES), NAMES, strict=True)]
    pq.write_table(pa.table({"jpg": images, "txt": [CAPTIONS[name] for name in NAMES]}), folder / "train-0.parquet")
    rows = load_image_captions(str(folder), "train")
    assert (rows["filename"], rows["captions"]) == (NAMES, list(CAPTIONS.values()))


def test_a_row_without_an_image_is_named_and_can_be_left_out(folder):
    images = image_bytes(folder, NAMES[:1])
    pq.write_table(pa.table({"image": [*images, None], "caption": ["a", "b"]}), folder / "train.parquet")
    with pytest.raises(ValueError, match="train_1 is not a readable image.*--skip-bad-images"):
        load_image_captions(str(folder), "train")
    assert load_image_captions(str(folder), "train", skip_bad_images=True)["captions"] == [["a"]]


def test_some_images_by_their_path_alone_are_refused(folder):
    images = [*image_bytes(folder, NAMES[:1]), {"bytes": None, "path": "images/0001.png"}]
    pq.write_table(pa.table({"image": images, "caption": ["a", "b"]}), folder / "train.parquet")
    with pytest.raises(ValueError, match="of row 2 only its path 'images/0001.png': store"):
        load_image_captions(str(folder), "train")


def test_a_file_that_is_missing_from_its_folder_is_not_that_of_another(folder):
    (folder / "more").mkdir()
    table = write(folder / "captions.csv", "file_name,caption\nmore/0000.png,a\n")
    with pytest.raises(ValueError, match="names 'more/0000.png', which does not exist"):
        load_image_captions(str(table), "train")


def test_a_name_is_found_however_its_accents_are_written(folder):
    (folder / "images/0000.png").rename(folder / "images/cafe\u0301.png")  # as macOS stores what was typed
    table = write(folder / "captions.csv", "file_name,caption,split\ncaf\u00e9.png,a,train\n")
    assert load_image_captions(str(table), "train")["filename"] == ["images/cafe\u0301.png"]


TARS = {
    "a name twice": ([("0.png", 0), ("0.txt", b"a"), ("0.png", 1), ("0.txt", b"b")], [["a"], ["b"]]),
    "names with dots": ([("t.1m.png", 0), ("t.1m.txt", b"a"), ("t.2m.png", 1), ("t.2m.txt", b"b")], [["a"], ["b"]]),
    "a mask beside the image": ([("0.png", 0), ("0.mask.png", 1), ("0.txt", b"a")], [["a"]]),
    "what macOS adds": ([("._0.png", b"x"), ("0.png", 0), ("._0.txt", b"x"), ("0.txt", b"a")], [["a"]]),
    "other encodings": (
        [("0.png", 0), ("0.txt", "Öl".encode("cp1252")), ("1.png", 1), ("1.txt", "Öl".encode("utf-16"))],
        [["Öl"], ["Öl"]],
    ),
    "a list as JSON": ([("0.png", 0), ("0.json", b'["a", "b"]')], [["a", "b"]]),
}


@pytest.mark.parametrize("archive", ["train.tar", "train-0.tar.gz"])
@pytest.mark.parametrize("members", TARS)
def test_tars_as_people_pack_them_lose_and_join_no_image(folder, members, archive):
    content, captions = TARS[members]
    with tarfile.open(folder / archive, "w:gz" if archive.endswith("gz") else "w") as tar:
        for name, part in content:
            part = part if isinstance(part, bytes) else (folder / "images" / NAMES[part]).read_bytes()
            (member := tarfile.TarInfo(name)).size = len(part)
            tar.addfile(member, io.BytesIO(part))
    assert load_image_captions(str(folder), "train")["captions"] == captions


def test_captions_of_a_tar_that_cannot_be_read_are_refused_by_their_name(folder):
    with tarfile.open(folder / "train.tar", "w") as tar:
        (member := tarfile.TarInfo("sub/0.json")).size = 1
        tar.addfile(member, io.BytesIO(b"{"))
    with pytest.raises(ValueError, match="'sub/0' in .*train.tar' has captions that cannot be read .*: pack it again"):
        load_image_captions(str(folder), "train")


@pytest.mark.parametrize("captions_in", ["txt", "json"])
def test_tar_files_give_the_same_rows(folder, captions_in):
    with tarfile.open(folder / "train-0.tar", "w") as archive:
        for name in NAMES:
            content = {"png": (folder / "images" / name).read_bytes(), "cls": SCENES[name].encode()}
            content[captions_in] = "\n".join(CAPTIONS[name]).encode()
            if captions_in == "json":
                content["json"] = json.dumps({"captions": CAPTIONS[name]}).encode()
            for end, part in content.items():
                member = tarfile.TarInfo(f"images/{name[:4]}.{end}")
                member.size = len(part)
                archive.addfile(member, io.BytesIO(part))
    assert contents(load_image_captions(str(folder), "train")) == EXPECTED


def test_a_text_file_beside_each_image_gives_the_same_captions(folder):
    for name in NAMES:
        (folder / "images" / name).with_suffix(".txt").write_text("\n".join(CAPTIONS[name]))
    rows = load_image_captions(str(folder), "train")
    assert len(rows) >= 5 and set(rows["filename"]) <= {f"images/{name}" for name in NAMES}
    assert all(captions == CAPTIONS[name.rpartition("/")[2]] for name, captions, _ in contents(rows))


def test_absolute_paths_need_no_common_folder_with_their_table(folder, tmp_path_factory):
    text = delimited().replace("images/", f"{folder}/images/")
    table = write(tmp_path_factory.mktemp("elsewhere") / "captions.csv", text)
    rows = load_image_captions(str(table), "train")
    assert [(name, CAPTIONS[name], SCENES[name]) for name in NAMES] == contents(rows)


def test_a_table_for_each_split_is_told_by_its_name(folder):
    head = "file_name,caption\n"
    for name, image in (("captions_train", "0000.png"), ("captions_val", "0001.png"), ("captions_test", "0002.png")):
        (folder / f"{name}.csv").write_text(f"{head}{image},a field\n")
    found = [load_image_captions(str(folder), split)["filename"] for split in ("train", "validation", "test")]
    assert found == [["images/0000.png"], ["images/0001.png"], ["images/0002.png"]]


def test_one_name_for_two_images_does_not_join_them(folder):
    features = Features(
        {"filename": Value("string"), "image": ImageFeature(), "captions": [Value("string")], "scene": Value("string")}
    )
    columns = {"filename": ["a.png"] * 3, "image": image_bytes(folder, ["0000.png", "0001.png", "0000.png"])}
    columns |= {"captions": [["a"], ["b"], ["c"]], "scene": [None, "x", "y"]}
    rows = join_captions(Dataset.from_dict(columns, features=features), "train")
    assert (rows["captions"], rows["scene"]) == ([["a", "c"], ["b"]], ["y", "x"])


def test_a_line_that_is_there_twice_makes_no_second_image_and_counts_twice_as_in_the_published_sets(folder):
    text = delimited()
    first = text.split("\r\n")[1] + "\r\n"
    rows = load_image_captions(str(write(folder / "captions.csv", text + first)), "train")
    assert rows["filename"] == [name for name, _, _ in EXPECTED]
    assert rows["captions"][0] == [*CAPTIONS[NAMES[0]], CAPTIONS[NAMES[0]][0]]


BROKEN = {
    "nothing": ("captions.csv", "", "is empty"),
    "a head alone": ("captions.csv", "file_name,caption\n", "has a head but no lines: add one"),
    "no names of columns": ("captions.csv", "x,y\n0000.png,a field\n", "columns x, y in line 1: it needs file_name"),
    "a comma in a caption": (
        "captions.csv",
        "file_name,caption\n0000.png,a field\n0001.png,a, b\n",
        "line 3, has 3 cells where the head has 2: put",
    ),
    "an open quote": (
        "captions.csv",
        'file_name,caption\n0000.png,"a field\n0001.png,b\n',
        "line 3, cannot be read .*: close its quotes",
    ),
    "no file name": ("captions.csv", "file_name,caption\n0000.png,a\n,b\n", "line 3, names no file: write"),
    "no caption": (
        "captions.csv",
        "file_name,caption\n0000.png,a\n0001.png,\n",
        "line 3: the image '0001.png' has no caption: add",
    ),
    "a blank caption": (
        "captions.csv",
        "file_name,caption\n0000.png,a\n0001.png,  \n",
        "line 3: the image '0001.png' has an empty caption",
    ),
    "not a number for a caption": (
        "captions.csv",
        "file_name,caption\n0000.png,a\n0001.png,NaN\n",
        "line 3: the image '0001.png' has no caption: add",
    ),
    "NaN in JSON": (
        "captions.jsonl",
        '{"file_name": "0000.png", "caption": "a"}\n{"file_name": "0001.png", "caption": NaN}\n',
        "line 2: the image '0001.png' has no caption: add",
    ),
    "a missing image": (
        "captions.csv",
        "file_name,caption\n0000.png,a\n9.png,b\n",
        "line 3, names '9.png', which does not exist .* copy",
    ),
    "two scenes": (
        "captions.csv",
        "file_name,caption,scene\n0000.png,a,x\n0000.png,b,y\n",
        "line 3, gives '0000.png' the scene 'y'.*: keep",
    ),
    "two splits": (
        "captions.csv",
        "file_name,caption,split\n0000.png,a,train\n0000.png,b,test\n",
        "line 3, gives .* the split 'test'",
    ),
    "a split for some": (
        "captions.csv",
        "file_name,caption,split\n0000.png,a,train\n0001.png,b,\n",
        "none for '0001.png': name one for each",
    ),
    "a list of numpy": (
        "captions.csv",
        "file_name,captions\n0000.png,\"['a field' 'a lake']\"\n",
        "line 2, has .* list that cannot be read: write it",
    ),
    "a spreadsheet": ("captions.xlsx", "PK", "is a spreadsheet: save it as CSV"),
    "another file": ("captions.docx", "PK", "is not a table: give one of .csv"),
    "a broken line of JSON": (
        "captions.jsonl",
        '{"file_name": "0000.png", "caption": "a"}\n{"file_name": \n',
        r"line 2, is not JSON .*: correct",
    ),
    "a broken JSON": ("captions.json", '[{"file_name": "0000.png",\n "caption": }]', "line 2, is not JSON"),
    "a line that is no object": (
        "captions.jsonl",
        '{"file_name": "0000.png", "caption": "a"}\n3\n',
        "line 2, is not an object: write",
    ),
    "a line without captions": (
        "captions.jsonl",
        '{"file_name": "0000.png", "caption": "a"}\n{"file_name": "0001.png"}\n',
        "line 2, has the fields file_name: it needs",
    ),
    "a caption that is no text": (
        "captions.jsonl",
        '{"file_name": "0000.png", "captions": [{"words": 3}]}\n',
        "line 1, has a caption that is the object",
    ),
    "JSON of something else": ("captions.json", '{"a": 1}', "has the fields a: it needs"),
    "COCO without its image": (
        "captions.json",
        '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "caption": "a"}]}',
        "annotation 1, has no caption, or its image_id",
    ),
    "COCO without ids": (
        "captions.json",
        '{"images": [{"file_name": "0000.png"}], "annotations": []}',
        "image 1, has no id",
    ),
    "the rest of a caption in the next column": (
        "captions.csv",
        "file_name,caption,scene\n0000.png,a field, with trees\n",
        "line 2, has the scene ' with trees', with a space in front: put",
    ),
    "one file for two names": (
        "captions.csv",
        "file_name,caption\nelsewhere/0000.png,a\nthere/0000.png,b\n",
        "line 3, names 'there/0000.png' and a line before it 'elsewhere/0000.png', but .*: copy",
    ),
    "half a character": ("captions.jsonl", '{"file_name": "0000.png", "caption": "a \\ud83d"}\n', "line 1, has half a"),
    "a field twice": (
        "captions.json",
        '{"0000.png": ["a"], "0000.png": ["b"]}',
        "line 1, is not JSON .*twice.*: correct",
    ),
    "brackets without end": (
        "captions.jsonl",
        '{"file_name": "0000.png", "caption": "a"}\n' + "[" * 100_000,
        "line 2, is not JSON .too many brackets.*: correct",
    ),
    "a column in one object": ("captions.json", '{"path": {"0": "0000.png"}, "text": {"0": "a"}}', "line 1, names as"),
    "COCO without lists": ("captions.json", '{"images": {}, "annotations": null}', "that are no list: write"),
    "COCO with one id for two": (
        "captions.json",
        '{"images": [{"id": 1, "file_name": "a"}, {"id": "1", "file_name": "b"}], "annotations": []}',
        "image 2, has the id '1' of another: give",
    ),
    "parquet that is none": ("captions.parquet", "PAR1", "is not a complete Parquet file .*: copy"),
    "Karpathy without sentences": (
        "dataset.json",
        '{"images": [{"filename": "0000.png", "split": "train"}]}',
        "image 1, has the fields filename, split: it needs",
    ),
}


@pytest.mark.parametrize("spelling", BROKEN)
def test_a_broken_table_is_refused_by_its_name_its_line_and_a_remedy(folder, spelling):
    name, text, message = BROKEN[spelling]
    table = write(folder / name, text)
    with pytest.raises(ValueError, match=message) as caught:
        load_image_captions(str(table), "train")
    assert name in str(caught.value) and "\n" not in str(caught.value) and ":" in str(caught.value)
