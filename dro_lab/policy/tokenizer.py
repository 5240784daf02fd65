"""The tokenizer of a tiny policy: byte-level BPE trained on its twin's words, with Qwen3-like special tokens."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
THINK_MARKS = ("<think>", "</think>")

# Digits stand alone (with the space before them), letters and stops as in Qwen's pattern.
_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], *, context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every text of ``texts`` that the pre-tokenizer keeps whole is one token.

    Any other UTF-8 text falls back to bytes, without loss. ``<think>`` and ``</think>`` are added tokens that are not
    special (as in Qwen3), so they survive decoding without special tokens.

    Args:
        texts: the words to merge; each counts the same.
        context: the longest sequence the policy takes, in tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # never reached: merging ends when every word is one token
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (PAD, IM_START, IM_END)])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK_MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=IM_END,
        additional_special_tokens=[IM_START],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        chat_template=resources.files("dro_lab.policy").joinpath("chat_template.jinja").read_text(encoding="utf-8"),
    )
