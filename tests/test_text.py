"""Text encoders on tiny random T5 and Qwen2 models, with a tokenizer built here."""

import hashlib

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
)

import fastvar_lab as fv
from fastvar_lab.backbones import encoders
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig
from fastvar_lab.models.features import StoredFeatures

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "square", "draw", "it"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name in ("t5", "qwen2"):
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        if name == "t5":
            raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "<unk>"))
            raw.pre_tokenizer = pre_tokenizers.Whitespace()
            raw.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
            PreTrainedTokenizerFast(
                tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
            ).save_pretrained(folder)
            config = T5Config(
                vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
            )
            T5EncoderModel(config).save_pretrained(folder)
        else:
            letters = ["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyzĠ"]
            Qwen2Tokenizer(
                vocab={c: i for i, c in enumerate(letters)}, merges=[], pad_token="<|endoftext|>"
            ).save_pretrained(folder)
            config = Qwen2Config(
                vocab_size=len(letters), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2,
            )  # fmt: skip
            Qwen2Model(config).save_pretrained(folder)
        made[name] = folder
    return made


def test_t5_keeps_the_rows_of_words_and_the_end_mark(folders):
    encoder = encoders.open_encoder("t5", folders["t5"], 8)
    text = encoder.encode(["a red circle", "a blue square a red circle"])
    assert text.mask.sum(1).tolist() == [4, 7]
    alone = encoder.encode(["a red circle"])
    assert torch.allclose(text.features[0, :4], alone.features[0], atol=1e-5)
    assert (text.features[0, 4:] == 0).all()
    direct = T5EncoderModel.from_pretrained(folders["t5"])(torch.tensor([[3, 4, 6, 1]]))
    assert torch.allclose(alone.features, direct.last_hidden_state, atol=1e-5)
    with pytest.warns(UserWarning, match="has 9 tokens and is cut to 8"):
        assert encoder.encode(["a " * 8]).features.shape[1] == 8


def test_qwen2_pads_to_the_context_and_cuts_the_instruction_off(folders, tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match="plain prompts"):
        plain = encoders.open_encoder("qwen2", folders["qwen2"], 6)
    context = plain.encode(["red", "a red"])
    assert context.features.shape == (2, 6, 32)
    assert context.positions.tolist() == [[0, 1, 2, 2, 2, 2], [0, 1, 2, 3, 4, 4]]
    told = tmp_path / "instruction.txt"
    told.write_text("draw it")
    with pytest.warns(UserWarning, match="is not the released text"):
        encoders.open_encoder("qwen2", folders["qwen2"], 6, told)
    released = hashlib.sha256(b"draw it").hexdigest()
    monkeypatch.setattr(encoders, "INSTRUCTION_SHA256", released)
    encoder = encoders.open_encoder("qwen2", folders["qwen2"], 6, told)
    context = encoder.encode(["red"])
    before, ids = (encoder.tokenizer(t)["input_ids"] for t in ("draw it", "red"))
    assert (len(before), len(ids)) == (7, 3)
    shown = torch.tensor([before + ids])
    direct = Qwen2Model.from_pretrained(folders["qwen2"])(shown).last_hidden_state[:, 7:]
    assert torch.allclose(context.features[:, :3], direct, atol=1e-4)


def test_features_are_kept_and_read_without_the_encoder(folders, tmp_path):
    encoder = encoders.open_encoder("t5", folders["t5"], 8)
    prompts = ["a red circle", "a blue square a red circle"]
    wanted = encoder.encode(prompts)
    StoredFeatures(tmp_path / "kept", encoder).encode(prompts)
    read = StoredFeatures(tmp_path / "kept").encode(prompts)
    assert torch.equal(read.mask, wanted.mask)
    assert torch.allclose(read.features, wanted.features, atol=1e-5)
    with pytest.raises(ValueError, match="no features of 'a'"):
        StoredFeatures(tmp_path / "kept").encode(["a"])
    file = StoredFeatures(tmp_path / "kept").path(prompts[0])
    short = encoders.open_encoder("t5", folders["t5"], 2)  # another encoder's are not its own
    with pytest.warns(UserWarning, match="is cut to 2"):
        cut = StoredFeatures(tmp_path / "kept", short).encode(prompts)
    assert cut.features.shape[1] == 2
    file.write_bytes(file.read_bytes()[:40])
    again = StoredFeatures(tmp_path / "kept", encoder).encode(prompts)
    assert torch.allclose(again.features, wanted.features, atol=1e-5)


def test_a_model_is_studied_without_its_text_encoder(folders):
    config = {"depth": 1, "width": 64, "heads": 2, "ffn": 64, "bits": 4, "text_width": 32,
              "text_length": 8, "pool_heads": 4}  # fmt: skip
    state = Infinity(InfinityConfig(**config)).state_dict()
    model = fv.from_states("infinity", config, state, sizes=[(1, 1), (2, 2)])
    text = encoders.open_encoder("t5", folders["t5"], 8).encode(["a red circle"])
    assert fv.generate(model, text, fv.Dense()).canvas.shape == (1, 4, 2, 2)
    with pytest.raises(ValueError, match="infinity has no text encoder here"):
        fv.generate(model, "a red circle", fv.Dense())
