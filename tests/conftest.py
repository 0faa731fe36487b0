"""Tiny random models, a tiny tokenizer and a tiny task, all made here: no test downloads anything."""

import os
import random
from contextlib import contextmanager
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything that reads it is imported

import golden
import jaxtyping
import pytest
import torch
import transformers
from planted import planted_model, planted_task
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from skillneurons.models.encoder import HookedEncoder
from skillneurons.tasks.task import Task

ROBERTA = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
BERT = {"pad_token_id": 0, "type_vocab_size": 3}
MPNET = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
DISTILBERT = {"pad_token_id": 0, "hidden_dim": 29}
ELECTRA = BERT | {"embedding_size": 16}
ESM = {"pad_token_id": 1, "mask_token_id": 4, "token_dropout": True, "emb_layer_norm_before": True}
# Windows shorter than the texts of most tests; the first and the third block look anywhere.
MODERNBERT = {"pad_token_id": 1, "cls_token_id": 0, "bos_token_id": 0, "sep_token_id": 2, "eos_token_id": 2}
MODERNBERT |= {"attn_implementation": "sdpa"}  # eager attention is float32's in any precision
MODERNBERT |= {"num_hidden_layers": 3, "local_attention": 4}
MODERNBERT |= {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}
# As version 3 has it, with buckets that begin within the texts; and with all that can be otherwise.
DEBERTA = {"pad_token_id": 0, "relative_attention": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm"}
DEBERTA |= {"pos_att_type": ["p2c", "c2p"], "share_att_key": True, "position_biased_input": False}
DEBERTA_OWN = {"pad_token_id": 0, "relative_attention": True, "max_relative_positions": 5, "type_vocab_size": 3}
DEBERTA_OWN |= {"pos_att_type": ["c2p", "p2c"]}
BIASES = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
ARCHITECTURES = {
    "roberta": ("RobertaForMaskedLM", ROBERTA),
    "roberta-untied": ("RobertaForMaskedLM", ROBERTA | {"tie_word_embeddings": False}),
    "roberta-3-layers": ("RobertaForMaskedLM", ROBERTA | {"num_hidden_layers": 3}),
    "roberta-headless": ("RobertaModel", ROBERTA),
    "xlm-roberta": ("XLMRobertaForMaskedLM", ROBERTA),
    "camembert": ("CamembertForMaskedLM", ROBERTA | {"hidden_act": "relu"}),
    "bert": ("BertForMaskedLM", BERT),
    "bert-untied": ("BertForMaskedLM", BERT | {"tie_word_embeddings": False, "hidden_act": "gelu_new"}),
    "bert-pretraining": ("BertForPreTraining", BERT),
    "bert-headless": ("BertModel", BERT),
    "mpnet": ("MPNetForMaskedLM", MPNET),
    "mpnet-untied": ("MPNetForMaskedLM", MPNET | {"tie_word_embeddings": False, "hidden_act": "relu"}),
    "mpnet-headless": ("MPNetModel", MPNET),
    "distilbert": ("DistilBertForMaskedLM", DISTILBERT),
    "distilbert-untied": ("DistilBertForMaskedLM", DISTILBERT | {"tie_word_embeddings": False, "activation": "relu"}),
    "distilbert-headless": ("DistilBertModel", DISTILBERT),
    "electra": ("ElectraForMaskedLM", ELECTRA | {"hidden_act": "relu"}),
    "electra-untied": ("ElectraForMaskedLM", ELECTRA | {"tie_word_embeddings": False}),
    "electra-discriminator": ("ElectraForPreTraining", ELECTRA),
    "electra-headless": ("ElectraModel", ELECTRA),
    "esm": ("EsmForMaskedLM", ESM),
    "esm-plain": ("EsmForMaskedLM", ESM | {"token_dropout": False, "emb_layer_norm_before": False}),
    "esm-untied": ("EsmForMaskedLM", ESM | {"tie_word_embeddings": False}),
    "esm-headless": ("EsmModel", ESM),
    "modernbert": ("ModernBertForMaskedLM", MODERNBERT),
    "modernbert-biases": ("ModernBertForMaskedLM", MODERNBERT | BIASES),
    "modernbert-untied": ("ModernBertForMaskedLM", MODERNBERT | {"tie_word_embeddings": False, "decoder_bias": False}),
    "modernbert-headless": ("ModernBertModel", MODERNBERT | {"hidden_activation": "silu"}),
    "deberta": ("DebertaV2ForMaskedLM", DEBERTA),
    "deberta-own": ("DebertaV2ForMaskedLM", DEBERTA_OWN),
    "deberta-new-head": ("DebertaV2ForMaskedLM", DEBERTA | {"legacy": False, "pos_att_type": ["p2c"]}),
    "deberta-plain": ("DebertaV2ForMaskedLM", {"pad_token_id": 0, "tie_word_embeddings": False}),
    "deberta-headless": ("DebertaV2Model", DEBERTA | {"share_att_key": False}),
    "electra-narrow": ("ElectraForMaskedLM", ELECTRA | {"embedding_size": 11}),
    "electra-narrow-discriminator": ("ElectraForPreTraining", ELECTRA | {"embedding_size": 11}),
    "ernie": ("ErnieForMaskedLM", BERT),
    "ernie-headless": ("ErnieModel", BERT),
    "data2vec": ("Data2VecTextForMaskedLM", ROBERTA),
    "data2vec-headless": ("Data2VecTextModel", ROBERTA),
}
# Fine-tuned: with a head for classes, of texts or of their tokens.
CLASSIFIERS = {
    "roberta-classes": ("RobertaForSequenceClassification", ROBERTA | {"num_labels": 3}),
    "roberta-two-classes": ("RobertaForSequenceClassification", ROBERTA),
    "xlm-roberta-classes": ("XLMRobertaForSequenceClassification", ROBERTA),
    "camembert-classes": ("CamembertForSequenceClassification", ROBERTA),
    "bert-classes": ("BertForSequenceClassification", BERT),
    "mpnet-classes": ("MPNetForSequenceClassification", MPNET),
    "distilbert-classes": ("DistilBertForSequenceClassification", DISTILBERT | {"num_labels": 5}),
    "electra-classes": ("ElectraForSequenceClassification", ELECTRA),
    "ernie-classes": ("ErnieForSequenceClassification", BERT | {"hidden_act": "relu"}),
    "data2vec-classes": ("Data2VecTextForSequenceClassification", ROBERTA | {"num_labels": 3}),
    "deberta-classes": ("DebertaV2ForSequenceClassification", DEBERTA | {"num_labels": 3}),
    "esm-classes": ("EsmForSequenceClassification", ESM),
    "roberta-tokens": ("RobertaForTokenClassification", ROBERTA),
    "bert-tokens": ("BertForTokenClassification", BERT),
    "deberta-tanh-classes": ("DebertaV2ForSequenceClassification", DEBERTA | {"pooler_hidden_act": "tanh"}),
    "distilbert-tokens": ("DistilBertForTokenClassification", DISTILBERT),
}
SIGNALS = (("dreadful", "boring", "clumsy"), ("lovely", "moving", "clever"))
FILLERS = ("the", "film", "a", "scene", "story", "and", "is", "of", "it", "was")
CORPUS = [f" {word}" for word in (*SIGNALS[0], *SIGNALS[1], *FILLERS, "terrible", "great", "good", "bad")] * 3


def pytest_addoption(parser):
    parser.addoption("--write-golden", action="store_true", help="write tests/golden/ anew, from what is computed now")


@contextmanager
def one_thread():
    """torch at one thread, and afterwards at as many as before."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def make_hf(architecture, dtype=torch.float32, seed=0, **changes):
    """A random Hugging Face model, all of its weights far from where initialisation puts them."""
    class_name, options = (ARCHITECTURES | CLASSIFIERS)[architecture]
    model_class = getattr(transformers, class_name)
    sizes = {"vocab_size": 53, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    sizes |= {"intermediate_size": 29, "max_position_embeddings": 41, "layer_norm_eps": 1e-5}
    sizes |= {"hidden_dropout_prob": 0.1, "attn_implementation": "eager"}
    model = model_class(model_class.config_class(**(sizes | options | changes))).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = name.lower().endswith(("layernorm.weight", "layer_norm.weight"))
            parameter.copy_(float(is_scale) + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def _fast(tokenizer, special):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=10**6, **special)


def make_roberta_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    special = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    return _fast(tokenizer, special | {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"})


def make_bert_tokenizer():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word.strip() for word in CORPUS} | set("abcdefg") | {"##b", "##c"})
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(special + words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return _fast(tokenizer, dict(zip(names, special, strict=True)))


def make_rows(n, seed):
    """Texts of filler words with two signal words of the label's kind: separable by looking at any of these."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        words = rng.choices(FILLERS, k=rng.randint(1, 5)) + rng.choices(SIGNALS[i % 2], k=2)
        rng.shuffle(words)
        rows.append({"text": " ".join(["", *words]), "label": i % 2})
    return rows


@pytest.fixture(scope="session", params=ARCHITECTURES)
def hf_model(request):
    """One model of each architecture, in float64 so that tolerances can be strict. Not to be changed."""
    return make_hf(request.param, torch.float64)


@pytest.fixture
def encoder(hf_model):
    return HookedEncoder.from_hf(hf_model)


@pytest.fixture(scope="session")
def build_hf():
    """`make_hf`, for tests that change the model or need another."""
    return make_hf


@pytest.fixture(scope="session")
def roberta_tokenizer():
    return make_roberta_tokenizer()


@pytest.fixture(scope="session")
def bert_tokenizer():
    return make_bert_tokenizer()


@pytest.fixture
def tiny_model(roberta_tokenizer):
    """A RoBERTa-like encoder with its tokenizer."""
    return HookedEncoder.from_hf(make_hf("roberta", vocab_size=len(roberta_tokenizer)), roberta_tokenizer)


@pytest.fixture
def tiny_bert(bert_tokenizer):
    """A BERT-like encoder with its tokenizer."""
    return HookedEncoder.from_hf(make_hf("bert", vocab_size=len(bert_tokenizer)), bert_tokenizer)


@pytest.fixture(scope="session")
def tiny_task():
    """A binary task that any signal word gives away."""
    return Task(
        "tiny", make_rows(62, 0), make_rows(34, 1), make_rows(26, 2), ["terrible", "great"], ["negative", "positive"]
    )


@pytest.fixture(scope="module")
def model():
    """With a neuron that tells the classes of `task`; what tests of runs start from. A file may have others."""
    return planted_model()


@pytest.fixture(scope="module")
def task():
    return planted_task(0, n_train=64, n_validation=32, n_test=40)


@pytest.fixture(scope="session")
def shared_data():
    """The real data sets, where this checkout has them."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: the real data sets are not part of the repository")
    return folder


@pytest.fixture
def compared_with_golden(request):
    """Compares a run's numbers with those that are stored under a name, or stores them; see `golden`."""

    def compare(name, numbers):
        if request.config.getoption("--write-golden"):
            golden.write(name, numbers)
        assert golden.differences(golden.plain(numbers), golden.read(name)) == []

    return compare


@pytest.fixture
def unchecked_types():
    """Without jaxtyping's checks, as users run the package: what our own checks say to a wrong shape."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
