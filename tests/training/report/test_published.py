"""The published table: complete, consistent with itself, and only used for its own test list."""

import pytest
from datasets import Dataset

from training.data.catalog import known_dataset
from training.evaluation.metrics import METRICS
from training.report.published import benchmark_of, load_published


@pytest.mark.parametrize("dataset", ["rsicd", "rsitmd"])
def test_mean_recall_is_the_mean_of_the_recalls(dataset):
    results = load_published(dataset)
    assert len(results) > 20
    for result in results:
        if result.recalls is not None and "is 33.84, not" not in (result.notes or ""):
            assert list(result.recalls) == list(METRICS[:-1])
            assert sum(result.recalls.values()) / 6 == pytest.approx(result.mR, abs=0.02), result.method


@pytest.mark.parametrize("dataset", ["rsicd", "rsitmd"])
def test_every_row_has_its_source_and_protocol(dataset):
    for result in load_published(dataset):
        assert result.source and result.group and result.training_data and result.runs
        assert result.selection in ("test", "validation", "unknown")
        assert 0 < result.mR < 100


def test_the_paper_of_this_model_is_there_with_its_selection_on_test():
    pir = next(result for result in load_published("rsicd") if result.method == "PIR")
    assert (pir.mR, pir.recalls["i2t_R@1"], pir.recalls["t2i_R@10"]) == (24.46, 9.88, 38.92)
    assert pir.selection == "test"


def test_results_come_lowest_first():
    values = [result.mR for result in load_published("rsitmd")]
    assert values == sorted(values)


def test_nothing_is_published_on_ucm():
    assert load_published("ucm") == []


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match="No published results are known of 'coco'"):
        load_published("coco")


def test_only_the_published_test_list_is_a_benchmark():
    names = [f"{stem}.tif" for stem in known_dataset("rsicd").test]
    assert benchmark_of(Dataset.from_dict({"filename": names})) == "rsicd"
    assert benchmark_of(Dataset.from_dict({"filename": names[1:]})) is None
    assert benchmark_of(Dataset.from_dict({"filename": [*names, "another.jpg"]})) is None
