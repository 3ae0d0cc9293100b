"""Publishes two runs and a data set and reads them back; run by test_hub_round_trip in a fresh process.

python hub_publisher.py FIRST_RUN SECOND_RUN PARQUET_FOLDER OUT.json
"""

import json
import sys

from datasets import load_dataset
from huggingface_hub import HfApi, ModelCard

from training.data.sources import load_image_captions
from training.push_to_hub import push_to_hub
from training.report.model_card import Wishes

REPO, DATA = "org/pir-tiny", "org/chips"


def main(first_run, second_run, parquet_folder, output):
    api = HfApi()
    commits = [push_to_hub(first_run, Wishes(REPO)).rsplit("/", 1)[-1]]
    api.create_tag(REPO, tag="v1")
    commits.append(push_to_hub(second_run, Wishes(REPO)).rsplit("/", 1)[-1])
    info, card = api.model_info(REPO), ModelCard.load(REPO)
    card.validate()
    rows = load_dataset("parquet", data_dir=parquet_folder)
    rows.push_to_hub(DATA)
    again = load_dataset(DATA)
    stream = next(iter(load_dataset(DATA, split="test", streaming=True)))
    result = {
        "commits": commits,
        "titles": [commit.title for commit in api.list_repo_commits(REPO)],
        "sha": info.sha,
        "tags": info.tags,
        "pipeline_tag": info.pipeline_tag,
        "files": [sibling.rfilename for sibling in info.siblings],
        "results": {entry.metric_type: entry.metric_value for entry in card.data.eval_results},
        "data_equal": {name: again[name]["captions"][:] == rows[name]["captions"][:] for name in rows},
        "pixels_equal": again["test"][0]["image"].tobytes() == rows["test"][0]["image"].tobytes(),
        "streamed": stream["captions"] == rows["test"][0]["captions"],
        "ours": load_image_captions(DATA, "test")["filename"] == rows["test"]["filename"],
    }
    with open(output, "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
