"""Saved results: what was written comes back, and nothing else is taken for it."""

import errno
import json
import os
import stat
from types import SimpleNamespace

import pytest
import torch

from skillneurons.utilities import store
from skillneurons.utilities.store import StoreError

TENSORS = {"a": torch.arange(6).reshape(2, 3), "b": torch.tensor([0.1, -7.0], dtype=torch.float64)}
META = {"seed": 3, "labels": ["negative", "positive"], "nested": {"x": None}}


@pytest.fixture
def saved(tmp_path):
    store.save(tmp_path / "result", "Scores", TENSORS, META)
    return tmp_path / "result"


def edit_header(path, **changes):
    header = json.loads(path.with_suffix(".json").read_text()) | changes
    path.with_suffix(".json").write_text(json.dumps({k: v for k, v in header.items() if v is not ...}))


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_is_result(path, tensors=TENSORS, meta=META):
    loaded, found = store.load(path, "Scores")
    assert found == meta and loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)


@pytest.mark.parametrize("name", ["result", "result.json", "result.safetensors", "deeper/result", "seed.0"])
def test_what_is_saved_comes_back_under_any_ending(tmp_path, name):
    path = store.save(tmp_path / name, "Scores", TENSORS, META)
    assert path.suffix == ".json" and path.with_suffix(".safetensors").exists()
    assert_is_result(tmp_path / name)
    assert_is_result(path)


def test_names_that_differ_after_a_dot_are_different_files(tmp_path):
    for seed in (0, 1):
        store.save(tmp_path / f"seed.{seed}", "Scores", {"a": torch.tensor(seed)}, {})
    assert [int(store.load(tmp_path / f"seed.{seed}", "Scores")[0]["a"]) for seed in (0, 1)] == [0, 1]


def test_views_gradients_and_shared_memory_can_be_saved(tmp_path):
    base = torch.arange(12.0, requires_grad=True)
    tensors = {"all": base, "part": base[3:5], "turned": base.reshape(3, 4).T, "wide": base[:1].expand(5)}
    store.save(tmp_path / "views", "Scores", tensors, {})
    assert_is_result(tmp_path / "views", {name: tensor.detach() for name, tensor in tensors.items()}, {})


def test_files_say_which_versions_made_them_and_can_be_read_by_others(saved):
    header = json.loads(saved.with_suffix(".json").read_text())
    assert header["versions"]["torch"] == store.versions()["torch"] == torch.__version__
    assert header["kind"] == "Scores"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(saved.with_suffix(".safetensors").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"kind": "SoftPrompt"}, "holds a SoftPrompt, but a Scores"),
        ({"format": "other"}, "result.json was not written by skillneurons"),
        ({"format_version": 99, "versions": {"skillneurons": "9.8.7"}}, "99, .* up to 2.*skillneurons 9.8.7"),
        ({"sha256": "0" * 64}, r"result\.json is damaged"),
        ({"meta": ...}, "has no 'meta'"),
        ({"format_version": ...}, "has no 'format_version'"),
        ({"format_version": "1"}, "its 'format_version' is a str"),
        ({"meta": None}, "its 'meta' is a NoneType"),
        ({"versions": []}, "its 'versions' is a list"),
        ({"format_version": 99, "versions": {}}, "99, .* up to 2"),
        ({"meta": META | {"labels": ["positive", "negative"]}}, r"result\.json is damaged: its content"),
        ({"versions": {"torch": "0.1"}}, r"result\.json is damaged: its content"),
        ({"new": 1}, r"result\.json is damaged: its content"),
        ({"digest": ...}, r"result\.json is damaged: its content"),
        ({"digest": None}, r"result\.json is damaged: its content"),
        ({"format_version": 1}, r"result\.json is damaged: its content"),
        ({"format_version": 0}, r"result\.json is damaged: its content"),
    ],
)
def test_a_file_of_another_kind_or_version_is_refused(saved, header, message):
    edit_header(saved, **header)
    with pytest.raises(StoreError, match=message):
        store.load(saved, "Scores")


def test_files_of_the_first_format_are_read_and_their_digest_of_the_meta_is_checked(saved):
    edit_header(saved, format_version=1, digest=...)
    assert_is_result(saved)
    edit_header(saved, meta_sha256=store.json_digest(META))
    assert_is_result(saved)
    for wrong in (None, "", store.json_digest({})):
        edit_header(saved, meta_sha256=wrong)
        with pytest.raises(StoreError, match="is damaged: its 'meta'"):
            store.load(saved, "Scores")


def test_a_file_says_which_part_of_which_run_it_is(tmp_path):
    with store.labelled("run", "curve-mean"):
        store.save(tmp_path / "curve-mean", "Scores", TENSORS, META)
        assert_is_result(tmp_path / "curve-mean")
    assert_is_result(tmp_path / "curve-mean")  # by itself, it is what it is
    for run, part, whose in (("run", "curve-zero", "of it"), ("another", "curve-mean", "of another run")):
        with (
            store.labelled(run, part),
            pytest.raises(StoreError, match=f"needs to be {part}.* but is curve-mean {whose}"),
        ):
            store.load(tmp_path / "curve-mean", "Scores")
    store.save(tmp_path / "earlier", "Scores", TENSORS, META)
    with store.labelled("run", "earlier"):  # as earlier versions wrote it
        assert_is_result(tmp_path / "earlier")


def test_a_sealed_file_is_whole_or_of_an_earlier_version(tmp_path):
    path, content = tmp_path / "run.json", {"accuracy": 0.85, "model": {"source": "x"}}
    store.write_sealed(path, content)
    assert store.read_sealed(path, {"model": dict}, "") == content
    written = json.loads(path.read_text())
    for change in ({"accuracy": 0.95}, {"new": 1}, {"digest": None}, {"format_version": 1}):
        store.write_json(path, written | change)
        with pytest.raises(StoreError, match="not the one that was saved"):
            store.read_sealed(path, {}, "")
    for key in written:
        store.write_json(path, {name: value for name, value in written.items() if name != key})
        with pytest.raises(StoreError, match="not the one that was saved"):
            store.read_sealed(path, {}, "")
    store.write_json(path, content)
    assert store.read_sealed(path, {}, "") == content


def test_a_pipe_is_no_file_and_deep_json_no_result(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for read in (
        lambda: store.read_json(tmp_path / "pipe.json", {}, ""),
        lambda: store.load(tmp_path / "pipe", "Scores"),
    ):
        with pytest.raises(OSError, match="is a pipe, a socket or a device"):
            read()
    (tmp_path / "deep.json").write_text("[" * 10_000 + "]" * 10_000)
    with pytest.raises(StoreError, match=r"deep\.json is not valid JSON"):
        store.read_json(tmp_path / "deep.json", {}, "Write it again.")


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match=r"run\.json cannot be written \(Read-only file system\)"):
        store.write_sealed(tmp_path / "run.json", {})
    assert not list(tmp_path.iterdir())


def test_meta_that_json_changes_comes_back_as_json_has_it(tmp_path):
    store.save(tmp_path / "result", "Scores", TENSORS, {"by_seed": {10: (0.1, 1), 2: None}})
    assert_is_result(tmp_path / "result", meta={"by_seed": {"10": [0.1, 1], "2": None}})


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
def test_a_directory_in_the_place_of_a_file_is_named_before_anything_is_computed(saved, ending):
    path = saved.with_suffix(ending)
    path.unlink()
    path.mkdir()
    before = sorted(saved.parent.iterdir())
    message = rf"result\{ending} needs to be a file, but is a directory"
    with pytest.raises(IsADirectoryError, match=message):
        store.read_or_compute(saved, lambda path: store.load(path, "Scores"), lambda: pytest.fail("computed"), [])
    with pytest.raises(IsADirectoryError, match=message):
        store.save(saved, "Scores", TENSORS, META)
    assert sorted(saved.parent.iterdir()) == before


@pytest.mark.parametrize("damage", [{"seed": 3}, {"seed": 3, "nested": 7}])
def test_whole_files_that_lack_what_a_result_needs_are_computed_anew(saved, damage):
    store.save(saved, "Scores", TENSORS, damage)

    def load(path):
        return store.load(path, "Scores")[1]["nested"]["x"]

    computed, reused = SimpleNamespace(save=lambda path: None), []
    with pytest.warns(UserWarning, match=r"result is damaged or of another release \((Key|Type)Error.*computed anew"):
        assert store.read_or_compute(saved, load, lambda: computed, reused) is computed
    assert reused == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b'{"format": "sk'])
def test_a_damaged_header_is_refused(saved, content):
    saved.with_suffix(".json").write_bytes(content)
    with pytest.raises(StoreError, match=r"result\.json"):
        store.load(saved, "Scores")


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_damaged_tensors_are_refused(saved, damage):
    path = saved.with_suffix(".safetensors")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match=r"result\.safetensors is damaged"):
        store.load(saved, "Scores")


def test_tensors_of_another_result_are_refused(saved, tmp_path):
    store.save(tmp_path / "other", "Scores", {"a": torch.zeros(2)}, META)
    (tmp_path / "other.safetensors").replace(saved.with_suffix(".safetensors"))
    with pytest.raises(StoreError, match=r"result\.safetensors is damaged or belongs to another result\.json"):
        store.load(saved, "Scores")


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
def test_a_missing_half_is_named(saved, ending):
    saved.with_suffix(ending).unlink()
    with pytest.raises(FileNotFoundError, match=f"result{ending} does not exist"):
        store.load(saved, "Scores")


@pytest.mark.parametrize("succeed_first", [0, 1])
def test_a_full_disk_leaves_the_old_result_and_no_litter(saved, monkeypatch, succeed_first):
    before, calls = files_in(saved.parent), []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > succeed_first:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(saved, "Scores", {"a": torch.zeros(2)}, {"seed": 4})
    assert files_in(saved.parent) == before
    assert_is_result(saved)


def test_a_write_stopped_between_the_two_files_is_not_read_as_a_result(saved, monkeypatch):
    replace = os.replace

    def stop(source, target):
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        store.save(saved, "Scores", {"a": torch.zeros(2)}, {"seed": 4})
    assert sorted(files_in(saved.parent)) == ["result.json", "result.safetensors"]
    with pytest.raises(StoreError, match="damaged"):
        store.load(saved, "Scores")


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": torch.zeros(1)}])
def test_meta_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path, meta):
    with pytest.raises((ValueError, TypeError)):
        store.save(tmp_path / "result", "Scores", TENSORS, meta)
    assert not list(tmp_path.iterdir())


def test_values_that_are_not_finite_are_counted():
    store.check_finite("x", torch.zeros(3), "")
    store.check_finite("x", torch.zeros(3, dtype=torch.long), "")
    with pytest.raises(FloatingPointError, match=r"`x` has 2 values .* of 3\. Do this\."):
        store.check_finite("x", torch.tensor([1.0, float("nan"), float("-inf")]), "Do this.")
