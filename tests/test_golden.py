"""What is compared with stored numbers is compared where it matters."""

import golden
import pytest


@pytest.mark.parametrize(
    ("found", "different"),
    [
        ({"a": [1, 0.5], "b": "x"}, []),
        ({"a": [1, 0.500001], "b": "x", "c": 3}, []),
        ({"a": [1, 0.50002], "b": "x"}, ["/a/1: 0.50002, not 0.5"]),
        ({"a": [2, 0.5], "b": "x"}, ["/a/0: 2, not 1"]),
        ({"a": [1.0, 0.5], "b": "x"}, ["/a/0: 1.0, not 1"]),
        ({"a": [1, float("nan")], "b": "x"}, ["/a/1: nan, not 0.5"]),
        ({"a": [1, 0.5]}, [": no b"]),
        ({"a": [1], "b": "x"}, ["/a: [1], not [1, 0.5]"]),
    ],
)
def test_counts_and_words_are_exact_and_other_numbers_close(found, different):
    assert golden.differences(found, {"a": [1, 0.5], "b": "x"}) == different


def test_what_is_written_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    numbers = {"table": {"n": [1, 2], "nan": [float("nan"), 1 / 3], "none": []}, "best": [{"layer": 1}, {"layer": 2}]}
    golden.write("some", numbers)
    assert golden.differences(golden.plain(numbers), golden.read("some")) == []
    assert golden.read("some")["table"]["nan"][1] == 0.3333333
