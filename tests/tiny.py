"""Tiny tokenizers and models built in memory, so that tests need no network."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEXT = [
    "We revise the paragraph: the number of samples was 42, not 17. Therefore the claim is wrong.",
    "Answer: the answer is 3.14 per cent.\n\nThe reasoning ends here.\nThen the answer begins.",
    "café naïve 日本語 emoji 🙂 — dashes and ümlauts; e.g. 10,000 km (2.5 %).",
    "<|im_start|>user\nRevise this.<|im_end|>\n<|im_start|>assistant\n<think>\nsteps\n</think>\n\nDone.",
] * 4

SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>"]

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n%s{% endif %}"
)
TEMPLATES = {
    "open": TEMPLATE.replace("%s", "<think>\n"),
    "closed": TEMPLATE.replace("%s", "<think>\n\n</think>\n\n"),
    "absent": TEMPLATE.replace("%s", ""),
}


@cache
def byte_tokenizer(tags: bool = True, merges: int = 120) -> PreTrainedTokenizerFast:
    """Byte-level BPE. ``tags``: the reasoning tags are one token each; else they are plain text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(SPECIAL) + merges,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if tags:
        tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return _wrap(tokenizer)


@cache
def greedy_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without word boundaries, with merges that run across the closing tag and the marker's end."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = [
        (".", "<"),
        (".<", "/"),
        ("Ġ", "4"),
        ("Ġ4", "2"),
        ("Ċ", "Ċ"),
        ("ĊĊ", "Ċ"),
        (":", "4"),
        (">", "<"),
        ("><", "/"),
    ]
    vocab = {piece: number for number, piece in enumerate([*SPECIAL, *pieces, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return _wrap(tokenizer)


@cache
def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Llama-2-like: spaces as U+2581, unknown characters as byte tokens. No byte pieces for every token."""
    alphabet = sorted({char for text in TEXT for char in text.replace(" ", "▁") if ord(char) < 128} | {"▁"})
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("a", "n"), ("▁", "a")]
    pieces = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet, *(a + b for a, b in merges)]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(SPECIAL)
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATES["absent"]
    return fast


def tiny_qwen3(vocab_size: int, *, dropout: float = 0.0) -> PreTrainedModel:
    """Random Qwen3, large weights so that probabilities differ."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        attention_dropout=dropout,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval()


def tiny_gpt2(vocab_size: int, *, dropout: float = 0.3) -> PreTrainedModel:
    """Random GPT-2 with dropout."""
    torch.manual_seed(1)
    sizes = {"n_positions": 512, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    drops = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **sizes, **drops))


def tiny_gemma2(vocab_size: int) -> PreTrainedModel:
    """Random Gemma 2, whose logits are capped: the LM head alone does not give them."""
    torch.manual_seed(2)
    config = Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.5,
        final_logit_softcapping=2.0,
    )
    return Gemma2ForCausalLM(config).eval()
