from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BartConfig,
    BartForConditionalGeneration,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    ViTConfig,
    ViTModel,
)

from tests.trainer.models.networks import (
    CONTEXT,
    LABELS,
    VOCABULARY,
    make,
    make_batch,
    model_options,
    objective_options,
)
from trainer.data.collation import shift_right
from trainer.errors import CheckpointError, RecipeError
from trainer.models.load import load_network
from trainer.models.parts import add_task_layers
from trainer.models.pooling import mean_of_tokens
from trainer.recipe.schema import ModelOptions, ObjectiveOptions

CLASSIFY = ObjectiveOptions(kind="classification")
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "intermediate_size": 32}


def saved(kind, folder):
    network = make(kind)
    network.save(folder)
    return network


# -- another task, other labels -----------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "new"),
    [
        ("encoder-masked", "encoder-classifier"),
        ("encoder-masked", "encoder-mean-classifier"),
        ("encoder-masked", "encoder-tagger"),
        ("encoder-masked", "encoder-embedding"),
        ("encoder-embedding", "encoder-classifier"),
        ("encoder-mean-classifier", "encoder-tagger"),
        ("encoder-mean-classifier", "encoder-masked"),
        ("encoder-classifier", "encoder-mean-classifier"),
        ("decoder", "decoder-classifier"),
        ("decoder-classifier", "decoder"),
        ("lstm", "lstm-classifier"),
        ("lstm-adaptive", "gru-mean-classifier"),
    ],
)
def test_the_features_go_on_under_a_new_output_layer(kind, new, tmp_path):
    network = saved(kind, tmp_path)
    options = model_options(new)
    labels = LABELS if objective_options(new).kind in ("classification", "tagging") else ()
    other = load_network(tmp_path, objective_options(new), labels, options, context=CONTEXT)
    assert other.labels == labels
    old, own = network.features.state_dict(), other.features.state_dict()
    assert old.keys() == own.keys()
    assert all(torch.equal(old[name], own[name]) for name in old)
    other(make_batch(new)).sum().backward()


def test_added_layers_do_not_hinder_a_new_task(tmp_path):
    network = make("decoder")
    add_task_layers(network, 1)
    network.save(tmp_path)
    other = load_network(tmp_path, CLASSIFY, LABELS, model_options("decoder"))
    assert other(make_batch("decoder-classifier")).shape == (3, 3)
    assert len(other.added) == 0


@pytest.mark.parametrize(
    "kind", ["encoder-classifier", "encoder-mean-classifier", "convolution", "lstm-classifier"]
)
def test_labels_settle_the_output_layer(kind, tmp_path):
    network = saved(kind, tmp_path)
    options, weight = model_options(kind), network.output_weight

    def load(*labels):
        return load_network(tmp_path, CLASSIFY, labels, options)

    assert torch.equal(load().output_weight, weight)
    assert load().labels == LABELS
    assert torch.equal(load(*LABELS).output_weight, weight)
    turned = load(*reversed(LABELS))
    assert torch.equal(turned.output_weight, weight.flip(0))
    assert turned.labels == LABELS[::-1]
    assert not torch.equal(load("a", "b", "c").output_weight, weight)
    assert load("a", "b", "c", "d").output_weight.shape == (4, weight.shape[1])


def test_new_labels_are_written(tmp_path):
    saved("encoder-classifier", tmp_path)
    labels = ("no", "yes")
    network = load_network(tmp_path, CLASSIFY, labels, model_options("encoder-classifier"))
    (tmp_path / "new").mkdir()
    network.save(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "yes"}
    assert config["label2id"] == {"no": 0, "yes": 1}
    assert load_network(tmp_path / "new").labels == labels


def test_dropout_of_the_directory_stays_unless_asked(tmp_path):
    make("encoder-classifier", dropout=0.3).save(tmp_path)
    for asked, expected in ((-1.0, 0.3), (0.5, 0.5), (0.0, 0.0)):
        options = model_options("encoder-classifier", dropout=asked)
        network = load_network(tmp_path, CLASSIFY, LABELS, options)
        chances = {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)}
        assert chances - {0.0} == {expected} - {0.0}


# -- foreign architectures -----------------------------------------------------------------


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2))


def qwen2():
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, **HEADS, num_key_value_heads=1))


def roberta():
    return RobertaForMaskedLM(RobertaConfig(**SIZES, **HEADS, max_position_embeddings=34))


def distilbert():
    config = DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=3
    )
    return DistilBertForSequenceClassification(config)


def bart():
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )
    return BartForConditionalGeneration(config)


@pytest.mark.parametrize("foreign", [gpt2, qwen2, roberta, distilbert, bart])
def test_foreign_architectures_compute_and_save_the_same(foreign, tmp_path):
    torch.manual_seed(0)
    stock = foreign().eval()
    stock.save_pretrained(tmp_path / "in")
    network = load_network(tmp_path / "in").eval()
    batch = make_batch("seq2seq" if network.family == "seq2seq" else "encoder-masked")
    with torch.no_grad():
        expected = stock(**batch).logits
        assert torch.allclose(network(batch), expected, atol=1e-5)
    assert network.size().parameters == sum(p.numel() for p in stock.parameters())
    assert len(network.blocks()) == (4 if network.family == "seq2seq" else 2)
    (tmp_path / "out").mkdir()
    network.save(tmp_path / "out")
    again = type(stock).from_pretrained(tmp_path / "out", local_files_only=True).eval()
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, expected)
    if network.family != "encoder":
        assert network.generate(batch["input_ids"][:1], 4, 0.0).shape == (1, 4)


@pytest.mark.parametrize("foreign", [gpt2, qwen2, roberta])
def test_foreign_architectures_keep_documents_apart(foreign, tmp_path):
    foreign().save_pretrained(tmp_path)
    network = load_network(tmp_path).eval()
    ids = make_batch("decoder", rows=1)["input_ids"]
    documents = torch.tensor([[0] * 4 + [1] * 6])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]])
    packed = network.hidden(
        {"input_ids": ids, "document_ids": documents, "position_ids": positions}
    )
    assert torch.allclose(packed[:, 4:], network.hidden({"input_ids": ids[:, 4:]}), atol=1e-5)


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_foreign_architectures_that_cannot_keep_documents_apart(family, tmp_path):
    batch = make_batch("encoder-classifier")
    batch |= {"document_ids": batch["input_ids"] * 0, "position_ids": batch["input_ids"] * 0}
    if family == "encoder":
        distilbert().save_pretrained(tmp_path)
    else:
        config = Qwen2Config(
            **SIZES, **HEADS, num_key_value_heads=1, use_sliding_window=True, sliding_window=4
        )
        Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"data\.boundaries"):
        load_network(tmp_path).hidden(batch)


def test_convolutions_between_attention_layers_leak_across_documents(tmp_path):
    config = Lfm2Config(
        **SIZES, **HEADS, num_key_value_heads=1, layer_types=["conv", "full_attention"]
    )
    Lfm2ForCausalLM(config).save_pretrained(tmp_path)
    network = load_network(tmp_path)
    batch = make_batch("decoder")
    network.hidden(batch)
    batch |= {"document_ids": batch["input_ids"] * 0, "position_ids": batch["input_ids"] * 0}
    with pytest.raises(RecipeError, match=r"data\.boundaries"):
        network.hidden(batch)


def test_an_architecture_whose_output_is_more_than_a_matrix_is_refused(tmp_path):
    config = Gemma2Config(**SIZES, **HEADS, num_key_value_heads=1, head_dim=8)
    config.final_logit_softcapping = 0.01
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="'gemma2' network does more"):
        load_network(tmp_path)


def test_what_is_no_language_model_is_refused(tmp_path):
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="no language model"):
        load_network(tmp_path)


# -- first tokens of targets ------------------------------------------------------------------


def test_a_decoder_begins_with_its_own_token_and_not_with_padding(tmp_path):
    stock = bart().eval()
    assert stock.config.decoder_start_token_id != stock.config.pad_token_id
    stock.save_pretrained(tmp_path)
    network = load_network(tmp_path).eval()
    ids = make_batch("decoder")["input_ids"]
    labels = ids[:, :6].clone()
    expected = stock(input_ids=ids, labels=labels).logits
    begun = shift_right(labels, stock.config.pad_token_id, -100)
    assert torch.allclose(
        network({"input_ids": ids, "decoder_input_ids": begun}), expected, atol=1e-5
    )
    first = torch.full((1, 1), stock.config.decoder_start_token_id)
    likeliest = stock(input_ids=ids[:1], decoder_input_ids=first).logits[:, -1].argmax(-1)
    assert network.generate(ids[:1], 1, 0.0)[0].tolist() == likeliest.tolist()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_first_target_token_that_is_forced_is_refused(name, tmp_path):
    bart().save_pretrained(tmp_path)
    path = tmp_path / name
    values = json.loads(path.read_text())
    # The one that begins every text is what BART's own directories force.
    path.write_text(json.dumps(values | {"forced_bos_token_id": 0}))
    load_network(tmp_path)
    path.write_text(json.dumps(values | {"forced_bos_token_id": 9}))
    with pytest.raises(RecipeError, match="forces the first token"):
        load_network(tmp_path)


def test_a_network_that_does_not_say_how_targets_begin_is_refused(tmp_path):
    bart().save_pretrained(tmp_path)
    change_config(tmp_path, decoder_start_token_id=None)
    with pytest.raises(RecipeError, match="set decoder_start_token_id"):
        load_network(tmp_path)


# -- directories that are refused ------------------------------------------------------------


def test_no_directory(tmp_path):
    with pytest.raises(RecipeError, match="nothing is downloaded"):
        load_network(tmp_path / "nowhere")


def test_no_configuration(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_network(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[1]"])
def test_a_configuration_that_is_no_json_object(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_network(tmp_path)


def test_no_weights(tmp_path):
    saved("decoder", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_network(tmp_path)


def test_pickled_weights_are_not_opened(tmp_path):
    saved("decoder", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(CheckpointError, match="a pickle, which can run code"):
        load_network(tmp_path)


def test_a_damaged_weights_file(tmp_path):
    saved("decoder", tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_network(tmp_path)


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_unknown_architecture(tmp_path):
    saved("decoder", tmp_path)
    change_config(tmp_path, model_type="hyena-9")
    with pytest.raises(CheckpointError, match="hyena-9"):
        load_network(tmp_path)


def test_code_from_the_directory_is_not_run(tmp_path):
    saved("decoder", tmp_path)
    mark = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"open({str(mark)!r}, 'w')\n")
    auto = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    change_config(tmp_path, model_type="mine", auto_map=auto)
    with pytest.raises(CheckpointError, match="without code from the directory"):
        load_network(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("objective", [None, ObjectiveOptions()])
def test_weights_of_another_shape(objective, tmp_path):
    saved("decoder", tmp_path)
    change_config(tmp_path, intermediate_size=128)
    with pytest.raises(CheckpointError, match=r"_proj\.weight in .* another shape"):
        load_network(tmp_path, objective)


@pytest.mark.parametrize("objective", [None, ObjectiveOptions()])
def test_missing_weights(objective, tmp_path):
    saved("decoder", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
        load_network(tmp_path, objective)


def test_an_output_layer_is_missing_only_where_it_would_be_new(tmp_path):
    saved("decoder-untied", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack lm_head\.weight"):
        load_network(tmp_path)
    load_network(tmp_path, ObjectiveOptions(), (), model_options("decoder-untied"))


def test_quantized_weights(tmp_path):
    saved("decoder", tmp_path)
    change_config(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(RecipeError, match="quantized"):
        load_network(tmp_path)


@pytest.mark.parametrize("kind", ["encoder-masked", "encoder-mean-classifier", "lstm"])
def test_another_family(kind, tmp_path):
    saved(kind, tmp_path)
    with pytest.raises(RecipeError, match=r"set model\.family"):
        load_network(tmp_path, ObjectiveOptions(), (), ModelOptions(family="decoder"))


def test_sequences_longer_than_the_positions(tmp_path):
    saved("encoder-masked", tmp_path)
    with pytest.raises(RecipeError, match="has 16 positions"):
        load_network(tmp_path, context=17)
    saved("encoder-mean-classifier", tmp_path)
    with pytest.raises(RecipeError, match="has 16 positions"):
        load_network(tmp_path, context=17)
    roberta().save_pretrained(tmp_path / "roberta")
    assert load_network(tmp_path / "roberta", context=32).context == 32
    with pytest.raises(RecipeError, match="has 32 positions"):
        load_network(tmp_path / "roberta", context=33)


def test_a_tokenizer_larger_than_the_table(tmp_path):
    saved("lstm", tmp_path)
    load_network(tmp_path, vocabulary_size=VOCABULARY)
    with pytest.raises(RecipeError, match="has 62 entries"):
        load_network(tmp_path, vocabulary_size=62)


def test_labels_are_needed(tmp_path):
    saved("encoder-masked", tmp_path)
    for kind in ("encoder-classifier", "encoder-mean-classifier"):
        with pytest.raises(RecipeError, match="labels are needed"):
            load_network(tmp_path, CLASSIFY, (), model_options(kind))
    (tmp_path / "own").mkdir()
    saved("lstm", tmp_path / "own")
    with pytest.raises(RecipeError, match="without labels"):
        load_network(tmp_path / "own", CLASSIFY, (), model_options("lstm"))


@pytest.mark.parametrize("pooling", [b"{", b"[]", b'{"pooling_mode_max_tokens": true}'])
def test_pooling_that_is_unknown(pooling, tmp_path):
    saved("encoder-embedding", tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_bytes(pooling)
    with pytest.raises((RecipeError, CheckpointError), match="1_Pooling"):
        load_network(tmp_path)


# -- the real one ------------------------------------------------------------------------------


@pytest.mark.model
def test_minilm_embeds_as_bert_with_mean_pooling(minilm_dir, tmp_path):
    stock = AutoModel.from_pretrained(minilm_dir, local_files_only=True).eval()
    contrastive = ObjectiveOptions(kind="contrastive")
    options = ModelOptions(family="encoder")
    network = load_network(minilm_dir, contrastive, (), options, context=128).eval()
    ids = torch.tensor([[101, 2023, 2003, 2307, 102, 0], [101, 2919, 102, 0, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    with torch.no_grad():
        states = stock(**batch).last_hidden_state
        expected = mean_of_tokens(states, batch["attention_mask"])
        assert torch.allclose(network(batch), expected, atol=1e-5)
    network.save(tmp_path)
    own, original = (
        load_file(tmp_path / "model.safetensors"),
        load_file(minilm_dir / "model.safetensors"),
    )
    assert all(torch.equal(own[name], original[name]) for name in own)
    assert {name.split(".")[0] for name in original.keys() - own.keys()} <= {"pooler", "embeddings"}


@pytest.mark.model
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_minilm_gets_a_fresh_classifier(pooling, minilm_dir):
    options = ModelOptions(family="encoder", pooling=pooling)
    torch.manual_seed(0)
    network = load_network(minilm_dir, CLASSIFY, ("no", "yes"), options, context=64)
    assert network.size().layers == 6
    assert network.output_weight.shape == (2, 384)
    ids = torch.tensor([[101, 2023, 2003, 2307, 102]])
    logits = network({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert logits.shape == (1, 2)
    assert float(logits.abs().max().detach()) < 2
