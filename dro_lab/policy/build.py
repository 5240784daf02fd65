"""``python -m dro_lab.policy.build``: train the tiny policy from scratch and check that it is fit for the lab.

Writes config.json, generation_config.json, model.safetensors, the tokenizer's files, chat_template.jinja and
build.json (knobs, seed, phases, guard figures, versions, seconds) to the folder given by ``--out``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
import transformers
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from dro_lab.data.twins.pararev import GENERATOR_VERSION, PRESETS, ParaRevTwin, preset, vocabulary_texts
from dro_lab.errors import UserError
from dro_lab.policy.guards import LIMITS, Guards, check_guards, measure
from dro_lab.policy.tokenizer import train_tokenizer
from dro_lab.policy.warmstart import BUDGETS, Encoder, Phase, warm_start

SHIPPED = Path(__file__).parent / "tiny"
CONTEXT = 4096


def new_model(tokenizer: PreTrainedTokenizerBase, *, seed: int) -> Qwen3ForCausalLM:
    """An untrained policy of about 0.53 M parameters (2.1 MB in float32)."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
    )
    return model


def build(
    out: Path,
    *,
    knobs: ParaRevTwin,
    phases: Sequence[Phase],
    seed: int = 0,
    guard_rows: int = 64,
    enforce: bool = True,
    report: Callable[[str], None] = print,
) -> Guards:
    """Train a policy, measure it, save it to ``out`` and check the guards.

    Args:
        out: folder to write; made where missing.
        knobs: the twin's knobs.
        phases: the warm start's phases.
        seed: of weights, examples and guard samples.
        guard_rows: held-out rows for the guard figures.
        enforce: raise where a guard fails (the files are written all the same, for inspection).
        report: takes the progress lines.

    Raises:
        UserError: the folder cannot be written, or a guard fails.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out}: cannot be written ({error}); name another folder") from error
    begin = time.time()
    tokenizer = train_tokenizer(vocabulary_texts(), context=CONTEXT)
    model = new_model(tokenizer, seed=seed)
    size = sum(parameter.numel() for parameter in model.parameters())
    report(f"{size / 1e6:.2f} M parameters, {len(tokenizer)} tokens in the vocabulary")
    wanted = ", ".join(f"{name} {low}-{high}" for name, (low, high) in LIMITS.items())
    report(f"should reach: {wanted}")
    warm_start(
        model,
        Encoder(tokenizer),
        knobs,
        phases,
        seed=seed,
        report=lambda line: report(f"{time.time() - begin:5.0f} s  {line}"),
    )
    guards = measure(model, tokenizer, knobs, rows=guard_rows, seed=seed)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    record = {
        "generator_version": GENERATOR_VERSION,
        "knobs": asdict(knobs),
        "seed": seed,
        "phases": [asdict(phase) for phase in phases],
        "guards": guards.as_dict(),
        "limits": LIMITS,
        "parameters": size,
        "seconds": round(time.time() - begin),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (out / "build.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    report(f"reached: {', '.join(f'{name} {value:.3f}' for name, value in guards.as_dict().items())}")
    if enforce:
        check_guards(guards)
    report(f"written to {out}; use it with model.path={out}")
    return guards


def parse_overrides(name: str, pairs: Sequence[str]) -> ParaRevTwin:
    """The preset with ``knob=value`` overrides.

    Raises:
        UserError: a pair without ``=``, an unknown knob, or a value of the wrong kind.
    """
    kinds = get_type_hints(ParaRevTwin)
    values: dict[str, Any] = {}
    for pair in pairs:
        key, found, text = pair.partition("=")
        if not found or key not in kinds:
            raise UserError(f"'{pair}': expected knob=value, with a knob among {', '.join(sorted(kinds))}")
        try:
            values[key] = {"true": True, "false": False}[text.lower()] if kinds[key] is bool else kinds[key](text)
        except (KeyError, ValueError):
            raise UserError(f"{key}='{text}': must be a {kinds[key].__name__}") from None
    return preset(name, **values)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dro_lab.policy.build", description="Train the tiny policy.")
    parser.add_argument("knobs", nargs="*", metavar="KNOB=VALUE", help=", ".join(f.name for f in fields(ParaRevTwin)))
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/policy"), help="folder to write (default %(default)s)"
    )
    parser.add_argument("--preset", default="default", help=f"one of {', '.join(PRESETS)} (default %(default)s)")
    parser.add_argument("--budget", choices=sorted(BUDGETS), default="full", help="full: minutes; small: a check")
    parser.add_argument("--scale-steps", type=float, default=1.0, help="multiply every phase's steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more are slower on a busy machine")
    parser.add_argument("--no-guards", action="store_true", help="report the guard figures without enforcing them")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        phases = [
            replace(phase, steps=max(1, round(phase.steps * options.scale_steps))) for phase in BUDGETS[options.budget]
        ]
        knobs = parse_overrides(options.preset, options.knobs)
        build(
            options.out,
            knobs=knobs,
            phases=phases,
            seed=options.seed,
            guard_rows=64 if options.budget == "full" else 8,
            enforce=not options.no_guards,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
