"""The script that made the bundled weights: masks by their odds, resumable to the bit, a second run from the first."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import module_at
from safetensors.torch import load_file
from scipy.stats import chisquare
from transformers import RobertaForMaskedLM

SCRIPT = Path(__file__).resolve().parents[2] / "skillneurons" / "bundled" / "scripts" / "pretrain.py"

pretrain = module_at(SCRIPT)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three sources and two held-out files of invented sentences, enough for windows of every length."""
    folder, rng = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    text = "the a film story is was good bad slow moving it and of two people who never meet again ."
    for name in ("imdb", "enwiki", "tweets", "wikitext2-valid", "wikitext2-test"):
        lines = [" ".join(rng.choice(text.split(), size=40)) for _ in range(60)]
        with gzip.open(folder / f"{name}.txt.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines))
    return folder


@pytest.fixture
def run(corpus, monkeypatch):
    """Run the script as the command line would."""

    def go(out, *options):
        sizes = "" if "--start-from" in options else "--n-layers 1 --d-model 64 --d-vocab 300"
        steps = "--steps 4 --batch-tokens 512 --save-every 2 --log-every 1"
        command = ["pretrain.py", "--data", str(corpus), "--out", str(out), "--device", "cpu", "--no-compile"]
        monkeypatch.setattr(sys, "argv", [*command, *f"{sizes} {steps}".split(), *options])
        pretrain.pretrain(pretrain.parse_arguments())
        return out

    return go


def test_an_interrupted_run_ends_with_the_weights_of_an_unbroken_one(run, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "held_out_loss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken")
    broken = run(tmp_path / "broken")
    events = [json.loads(line) for line in (broken / "log.jsonl").read_text().splitlines()]
    assert [(e["event"], e["step"]) for e in events if e.get("event") in ("started", "resumed")] == [
        ("started", 0),
        ("resumed", 2),
    ]
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (whole, broken))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
    assert RobertaForMaskedLM.from_pretrained(whole / "model").config.hidden_size == 64


def test_a_second_run_starts_from_the_finished_model(run, tmp_path):
    first = run(tmp_path / "first")
    options = ("--start-from", str(first / "model"), "--mask-frequent", "0.001", "--windows", '{"64": 1.0}')
    second = run(tmp_path / "second", *options, "--mixture", '{"imdb": 0.5, "tweets": 0.5}', "--lr", "0")
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (first, second))
    assert all(one[name].equal(other[name]) for name in one)  # nothing learnt at a rate of 0: the first's weights
    assert (second / "model" / "tokenizer.json").read_text() == (first / "model" / "tokenizer.json").read_text()
    steps = [json.loads(line) for line in (second / "log.jsonl").read_text().splitlines()]
    assert {step["window"] for step in steps if "window" in step} == {64}


def test_masks_fall_on_tokens_by_their_odds():
    rng, d_vocab = np.random.default_rng(0), 8
    windows = rng.choice([pretrain.BOS, pretrain.EOS, 5, 6, 7], size=(400, 100))
    odds = np.ones(d_vocab)
    odds[6], odds[7] = 0.5, 0.1
    counts = np.zeros(d_vocab)
    for _ in range(50):
        inputs, chosen = pretrain.mask_tokens(windows, 0.01, d_vocab, rng, odds)
        assert len(chosen) == len(set(chosen)) == 400
        counts += np.bincount(windows.ravel()[chosen], minlength=d_vocab)
        untouched = np.delete(np.arange(windows.size), chosen)
        assert (inputs.ravel()[untouched] == windows.ravel()[untouched]).all()
    assert counts[: len(pretrain.SPECIAL)].sum() == 0
    expected = odds[5:] * np.bincount(windows.ravel())[5:]
    # So few are taken that drawing without replacement is nearly drawing with it.
    assert chisquare(counts[5:], counts.sum() * expected / expected.sum()).pvalue > 1e-3


def test_four_fifths_of_the_chosen_become_masks_and_a_tenth_stays():
    rng = np.random.default_rng(0)
    windows = np.full((500, 100), 5)
    inputs, chosen = pretrain.mask_tokens(windows, 0.2, 1000, rng)
    kinds = inputs.ravel()[chosen]
    masked, kept = (kinds == pretrain.MASK).sum(), (kinds == 5).sum()
    assert chisquare([masked, kept, len(kinds) - masked - kept], np.array([0.8, 0.1, 0.1]) * len(kinds)).pvalue > 1e-3


def test_sizes_of_a_model_that_is_there_already_are_refused(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path / "out", "--start-from", str(tmp_path), "--d-model", "128")
    assert "--d-model: a run that starts from a model has that model's sizes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
