"""``python -m dro_lab.policy.build``: train the tiny policy of a twin and check that it is fit for the lab.

From scratch, or with ``--start`` from a checkpoint of the same twin (the last phase alone, to change what only the
policy knows). Writes config.json, generation_config.json, model.safetensors (half precision on disk, float32 when
loaded), the tokenizer's files, chat_template.jinja and build.json (twin, knobs, seed, phases, guard figures, versions,
seconds) to the folder given by ``--out``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from dro_lab.data.twins.knobs import preset
from dro_lab.data.twins.protocol import NAMES, Twin, twin
from dro_lab.errors import UserError
from dro_lab.policy.guards import Guards, check_guards, limits_of, measure
from dro_lab.policy.tokenizer import train_tokenizer
from dro_lab.policy.warmstart import BUDGETS, Encoder, Phase, budget, warm_start

CONTEXT = 4096
ARCHITECTURE: Mapping[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
LOCAL: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How a checkpoint that this command has written is loaded."""
STORED = torch.float16
"""Precision of the weights on disk: 2 bytes a weight; the guards are measured on what is loaded again."""


def new_model(made_for: Twin, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> Qwen3ForCausalLM:
    """An untrained policy of about 0.5 M parameters (1.1 MB on disk)."""
    own: Mapping[str, Any] = getattr(made_for, "architecture", {})
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        **{**ARCHITECTURE, **own},
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


def start_from(made_for: Twin, folder: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """A checkpoint to go on from, and its tokenizer.

    Raises:
        UserError: no checkpoint there, or one of another vocabulary than the twin's.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"--start={folder}: holds no config.json; give a folder that this command has written")
    try:
        vocabulary = AutoTokenizer.from_pretrained(folder, **LOCAL).get_vocab()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **LOCAL)
    except Exception as error:  # transformers raises many types here; the user needs one sentence
        raise UserError(f"--start={folder}: cannot be loaded ({type(error).__name__}: {error}); rebuild it") from error
    tokenizer = train_tokenizer(made_for.vocabulary_texts(), context=CONTEXT)
    if vocabulary != tokenizer.get_vocab():
        raise UserError(
            f"--start={folder}: its vocabulary is not that of the twin of {made_for.name}; give a policy that was "
            f"built with --twin {made_for.name}, or leave --start out"
        )
    return model, tokenizer


def save(model: Any, tokenizer: PreTrainedTokenizerBase, out: Path) -> Any:
    """Write weights in half precision and the tokenizer; returns the policy as it is loaded again, in float32."""
    model.to(STORED).save_pretrained(out)
    tokenizer.save_pretrained(out)
    # the precision to compute in, whatever is stored
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, use_safetensors=True, **LOCAL)


def build(
    out: Path,
    *,
    made_for: Twin,
    knobs: Any,
    phases: Sequence[Phase],
    seed: int = 0,
    start: Path | None = None,
    guard_rows: int = 64,
    enforce: bool = True,
    report: Callable[[str], None] = print,
) -> Guards:
    """Train a policy, save it to ``out``, measure what was saved and check the guards.

    Args:
        out: folder to write; made where missing.
        made_for: the twin.
        knobs: the twin's knobs.
        phases: the warm start's phases.
        seed: of weights, examples and guard samples.
        start: a checkpoint to go on from; None = random weights.
        guard_rows: held-out rows for the guard figures.
        enforce: raise where a guard fails (the files are written all the same, for inspection).
        report: takes the progress lines.

    Raises:
        UserError: the folder cannot be written, ``start`` does not fit, or a guard fails.
    """
    begin = time.time()
    if start is None:
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(made_for.vocabulary_texts(), context=CONTEXT)
        model: Any = new_model(made_for, tokenizer, seed=seed)
    else:
        model, tokenizer = start_from(made_for, start)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out}: cannot be written ({error}); name another folder") from error
    size = sum(parameter.numel() for parameter in model.parameters())
    limits = limits_of(made_for)
    report(f"{made_for.name}: {size / 1e6:.2f} M parameters, {len(tokenizer)} tokens in the vocabulary")
    wanted = ", ".join(f"{name} {low}-{high}" for name, (low, high) in limits.items())
    report(f"should reach: {wanted}")
    warm_start(
        model,
        Encoder(tokenizer),
        made_for,
        knobs,
        phases,
        seed=seed,
        report=lambda line: report(f"{time.time() - begin:5.0f} s  {line}"),
    )
    model = save(model, tokenizer, out)
    guards = measure(model, tokenizer, made_for, knobs, rows=guard_rows, seed=seed)
    record = {
        "twin": made_for.name,
        "generator_version": made_for.version,
        "knobs": asdict(knobs),
        "seed": seed,
        "start": _origin(start),
        "phases": [asdict(phase) for phase in phases],
        "guards": guards.as_dict(),
        "limits": limits,
        "parameters": size,
        "stored": str(STORED).removeprefix("torch."),
        "seconds": round(time.time() - begin),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (out / "build.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    report(f"reached: {', '.join(f'{name} {value:.3f}' for name, value in guards.as_dict().items())}")
    if enforce:
        check_guards(guards, limits)
    report(f"written to {out}; use it with model.path={out}")
    return guards


def _origin(start: Path | None) -> dict[str, Any] | None:
    """What the record says of the checkpoint it went on from: its own record's twin, version, seed and phases."""
    if start is None or not (start / "build.json").is_file():
        return None
    record = json.loads((start / "build.json").read_text(encoding="utf-8"))
    return {key: record.get(key) for key in ("twin", "generator_version", "knobs", "seed", "phases")}


def parse_overrides(made_for: Twin, name: str, pairs: Sequence[str]) -> Any:
    """The twin's preset with ``knob=value`` overrides.

    Raises:
        UserError: a pair without ``=``, an unknown knob, or a value of the wrong kind.
    """
    kinds = get_type_hints(made_for.knobs_type)
    values: dict[str, Any] = {}
    for pair in pairs:
        key, found, text = pair.partition("=")
        if not found or key not in kinds:
            raise UserError(f"'{pair}': expected knob=value, with a knob among {', '.join(sorted(kinds))}")
        try:
            values[key] = {"true": True, "false": False}[text.lower()] if kinds[key] is bool else kinds[key](text)
        except (KeyError, ValueError):
            raise UserError(f"{key}='{text}': must be a {kinds[key].__name__}") from None
    return preset(made_for, name, **values)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dro_lab.policy.build", description="Train a twin's tiny policy.")
    parser.add_argument("knobs", nargs="*", metavar="KNOB=VALUE", help="the twin's knobs, as in its configuration")
    parser.add_argument("--twin", choices=NAMES, default="pararev", help="the data set (default %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/policy"), help="folder to write (default %(default)s)"
    )
    parser.add_argument("--preset", default="default", help="a preset of the twin (default %(default)s)")
    parser.add_argument("--start", type=Path, help="go on from this checkpoint; the budget is then `tune`")
    parser.add_argument(
        "--budget", choices=sorted(BUDGETS), help="full (minutes; the default), small (a check), tune (with --start)"
    )
    parser.add_argument("--scale-steps", type=float, default=1.0, help="multiply every phase's steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more are slower on a busy machine")
    parser.add_argument("--no-guards", action="store_true", help="report the guard figures without enforcing them")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        made_for = twin(options.twin)
        chosen = options.budget or ("tune" if options.start else "full")
        phases = [
            replace(phase, steps=max(1, round(phase.steps * options.scale_steps))) for phase in budget(made_for, chosen)
        ]
        if chosen == "tune" and options.start is None:
            raise UserError("--budget=tune: is the last phase alone; give the checkpoint to go on from with --start")
        build(
            options.out,
            made_for=made_for,
            knobs=parse_overrides(made_for, options.preset, options.knobs),
            phases=phases,
            seed=options.seed,
            start=options.start,
            guard_rows={"full": 64, "tune": 16}.get(chosen, 8),
            enforce=not options.no_guards,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
