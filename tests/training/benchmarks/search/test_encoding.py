"""The speed of encoders is told side by side, from the best round of each."""

from training.benchmarks.search import encoding
from training.benchmarks.search.encoding import main, measure


def test_the_command_prints_a_row_for_each_model(tiny_model, tiny_processor, tmp_path, capsys):
    folders = [str(tmp_path / name) for name in ("first", "second")]
    for folder in folders:
        tiny_model.save_pretrained(folder)
        tiny_processor.save_pretrained(folder)
    main(["--model", folders[0], "--model", folders[1], "--images", "2", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[-1] for line in lines] == folders
    assert all(float(number) > 0 for line in lines for number in line.split()[:3])


def test_the_best_round_of_each_model_counts(monkeypatch):
    rates, times = iter([1.0, 2.0, 5.0, 4.0, 3.0, 1.0, 2.0, 6.0]), iter([9.0, 7.0, 8.0, 6.0])
    monkeypatch.setattr(encoding, "images_per_second", lambda *_: next(rates))
    monkeypatch.setattr(encoding, "text_milliseconds", lambda *_: next(times))
    found = measure({"one": None, "two": None}, 1, 2)
    assert found == {
        "one": {"float32": 3.0, "bfloat16": 2.0, "text": 8.0},
        "two": {"float32": 5.0, "bfloat16": 6.0, "text": 6.0},
    }
