"""Tokens are those of tokenizer.json, whatever transformers makes of it by the tokenizer's class."""

import json

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from skillneurons import HookedEncoder, as_classifiable
from skillneurons.models.tokenization import PROBES, as_in_file

TEXTS = ("a Lovely FILM, Naïve", " great  film 1234", "\ufb01lm \uff21", "the film 42x")


def word_pieces(**parts):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(i) for i in range(33, 127)] + ["ï", "\ufb01", "\uff21"]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = parts.get("normalizer")
    tokenizer.pre_tokenizer = parts.get("pre_tokenizer", pre_tokenizers.BertPreTokenizer())
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(special)
    return tokenizer


def byte_pairs(roberta_tokenizer, **parts):
    tokenizer = Tokenizer.from_str(roberta_tokenizer.backend_tokenizer.to_str())
    for part, value in parts.items():
        setattr(tokenizer, part, value)
    return tokenizer


WORDS = {
    "cased": {"normalizer": normalizers.BertNormalizer(lowercase=False)},
    "accents kept": {"normalizer": normalizers.BertNormalizer(lowercase=True, strip_accents=False)},
    "NFKC": {"normalizer": normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer(lowercase=False)])},
    "digits": {
        "pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(True)])
    },
    "no normalizer": {},
    "spaces alone": {"pre_tokenizer": pre_tokenizers.WhitespaceSplit()},
}
PAIRS = {
    "space in front": {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
    "NFKC": {"normalizer": normalizers.NFKC()},
    "digits": {
        "pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    },
    "lower case": {"normalizer": normalizers.Lowercase()},
    "replaced": {"normalizer": normalizers.Replace(Regex(" {2,}"), " ")},
}


def written(folder, hf, tokenizer, settings):
    hf.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def bert_folder(build_hf, tmp_path):
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    settings = names | {"mask_token": "[MASK]", "tokenizer_class": "BertTokenizer"}
    return lambda parts: written(tmp_path, build_hf("bert", vocab_size=211), word_pieces(**parts), settings)


@pytest.fixture
def roberta_folder(build_hf, roberta_tokenizer, tmp_path):
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    settings = names | {"unk_token": "<unk>", "mask_token": "<mask>", "tokenizer_class": "RobertaTokenizer"}
    hf = build_hf("roberta", vocab_size=len(roberta_tokenizer))
    return lambda parts: written(tmp_path, hf, byte_pairs(roberta_tokenizer, **parts), settings)


def same_as_file(tokenizer, folder):
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (*TEXTS, *PROBES):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == own.encode(text, add_special_tokens=False).ids
        assert tokenizer(text)["input_ids"] == own.encode(text).ids


@pytest.mark.parametrize("parts", WORDS, ids=lambda name: name.replace(" ", "-"))
def test_word_pieces_are_those_of_the_file(bert_folder, parts):
    folder = bert_folder(WORDS[parts])
    same_as_file(HookedEncoder.from_pretrained(folder).tokenizer, folder)


@pytest.mark.parametrize("parts", PAIRS, ids=lambda name: name.replace(" ", "-"))
def test_byte_pairs_are_those_of_the_file(roberta_folder, parts):
    folder = roberta_folder(PAIRS[parts])
    same_as_file(HookedEncoder.from_pretrained(folder).tokenizer, folder)


def test_transformers_alone_does_make_other_tokens(bert_folder):
    folder = bert_folder(WORDS["cased"])
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    alone = AutoTokenizer.from_pretrained(folder)
    assert alone(TEXTS[0])["input_ids"] != own.encode(TEXTS[0]).ids
    assert as_in_file(alone, str(folder))(TEXTS[0])["input_ids"] == own.encode(TEXTS[0]).ids


def test_a_bridge_gets_the_tokens_of_the_file_too(bert_folder):
    from transformer_lens.model_bridge import TransformerBridge

    folder = bert_folder(WORDS["cased"])
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")
    same_as_file(as_classifiable(bridge.eval()).tokenizer, folder)


def test_a_mended_tokenizer_is_saved_and_read_as_it_is(bert_folder, tmp_path):
    encoder = HookedEncoder.from_pretrained(bert_folder(WORDS["cased"]))
    again = HookedEncoder.from_pretrained(encoder.save(tmp_path / "again")).tokenizer
    for text in TEXTS:
        assert again(text)["input_ids"] == encoder.tokenizer(text)["input_ids"]
    assert again.mask_token_id == encoder.tokenizer.mask_token_id == 4
    assert again("x [MASK] y")["input_ids"].count(4) == 1


def test_a_vocabulary_that_is_not_the_files_is_mended_or_told(roberta_folder, roberta_tokenizer):
    folder = roberta_folder({})
    table = json.loads((folder / "tokenizer.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    table["model"]["merges"] = table["model"]["merges"][:3]
    (folder / "tokenizer.json").write_text(json.dumps(table))
    same_as_file(as_in_file(tokenizer, str(folder)), folder)
    table["added_tokens"].append(
        dict(table["added_tokens"][-1], id=len(roberta_tokenizer), content="film", lstrip=False)
    )
    (folder / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(ValueError, match=r"of 'A clever film\.', but its tokenizer\.json \["):
        as_in_file(tokenizer, str(folder))
