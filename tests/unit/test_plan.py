"""The plan of a run: parameters, FLOPs and kept activations as torch counts them, and the command."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from dro_lab.data.__main__ import compose
from dro_lab.errors import UserError
from dro_lab.plan import flops
from dro_lab.plan.__main__ import main
from dro_lab.plan.command import plan
from dro_lab.plan.flops import Work
from dro_lab.plan.memory import LABELS, Setting, activations_per_token, parts, peak, sums
from dro_lab.plan.settings import Question
from dro_lab.plan.shape import KNOWN, ModelShape, shape_from
from dro_lab.plan.speed import GPUS, Efficiency, seconds

SIZES = {
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 128,
}
WORK = Work(prompts=2, group=4, prompt=20, completion=30, reasoning=24, reference=6)


def model_of(kind: str, *, tied: bool = False):
    config = AutoConfig.for_model(kind, **SIZES, tie_word_embeddings=tied, attn_implementation="eager")
    return AutoModelForCausalLM.from_config(config), config


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
def test_parameters_are_counted_as_the_model_has_them(kind: str, tied: bool) -> None:
    model, config = model_of(kind, tied=tied)
    assert shape_from(config).parameters == model.num_parameters()


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen/Qwen3-0.6B", 0.596), ("Qwen/Qwen3-1.7B", 1.72), ("Qwen/Qwen3-14B", 14.8)],
)
def test_known_models_have_the_size_their_cards_state(name: str, billions: float) -> None:
    assert KNOWN[name].parameters / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_forward_and_a_backward_take_the_flops_that_torch_counts(kind: str) -> None:
    model, config = model_of(kind)
    shape, rows, length, kept = shape_from(config), 2, 17, 5
    ids = torch.randint(0, shape.vocab, (rows, length))
    with FlopCounterMode(display=False) as counter:
        logits = model(ids, logits_to_keep=kept).logits
    once = rows * flops.forward(shape, tokens=length, pairs=length * length, head=kept)
    # the rotary angles are one small product of their own
    assert counter.get_total_flops() - once == pytest.approx(0, abs=2 * rows * length * shape.head_dim)
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    assert counter.get_total_flops() == 2 * once


def test_reading_behind_a_cache_takes_the_pairs_that_are_new() -> None:
    assert flops.causal(4) == 1 + 2 + 3 + 4
    assert flops.causal(3, behind=2) == 3 + 4 + 5
    assert flops.causal(2) + flops.causal(3, behind=2) == flops.causal(5)


def test_scoring_reads_prompt_reasoning_and_reference_once() -> None:
    shape = shape_from(model_of("qwen3")[1])
    whole = WORK.prompt + WORK.reasoning + WORK.reference
    plain = flops.forward(shape, tokens=whole, pairs=flops.causal(whole), head=WORK.reference)
    prompt = flops.forward(shape, tokens=WORK.prompt, pairs=flops.causal(WORK.prompt), head=0)
    saved = (WORK.rollouts - WORK.prompts) * prompt
    assert flops.scoring(shape, WORK) == WORK.rollouts * plain - saved
    assert flops.scoring(shape, replace(WORK, scores_reference=False)) == 0
    process = [flops.scoring(shape, replace(WORK, prefixes=k)) for k in (1, 2, 3)]
    assert process[2] - process[1] == process[1] - process[0] > 0


def test_training_is_three_forwards_and_what_is_asked_beside() -> None:
    shape = shape_from(model_of("qwen3")[1])
    length = WORK.prompt + WORK.completion
    once = WORK.rollouts * flops.forward(shape, tokens=length, pairs=flops.causal(length), head=WORK.completion)
    body = WORK.rollouts * flops.forward(shape, tokens=length, pairs=flops.causal(length), head=0)
    assert flops.training(shape, WORK) == 3 * once
    assert flops.training(shape, replace(WORK, checkpointing=True)) == 3 * once + body
    assert flops.training(shape, replace(WORK, reference_model=True, old_logps=True)) == 5 * once
    assert flops.training(shape, replace(WORK, iterations=2)) == 6 * once


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_kept_activations_are_what_autograd_saves(kind: str) -> None:
    _, config = model_of(kind)
    config._attn_implementation = "sdpa"
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    shape, rows, length = shape_from(config), 2, 64
    parameters = {p.data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.model(torch.randint(0, shape.vocab, (rows, length))).last_hidden_state
    assert hidden.requires_grad
    expected = shape.layers * activations_per_token(shape, compute=4) * rows * length
    # beside the layers: embeddings, rotary angles and the last norm
    assert sum(saved.values()) - 2 * rows * length * shape.hidden * 4 == pytest.approx(expected, rel=0.05)


def test_memory_by_part_on_literals() -> None:
    shape = ModelShape(layers=2, hidden=8, heads=2, kv_heads=1, head_dim=4, intermediate=16, vocab=10, tied=True)
    setting = Setting(dtype="float32", compute="float32", batch=2, sampled=8, lm_head_chunk=3, score_tokens=5)
    found = parts(shape, WORK, setting)
    assert found["weights"] == found["gradients"] == 4 * shape.parameters
    assert found["optimizer"] == 8 * shape.parameters
    assert found["KV cache"] == 8 * 50 * (2 * 2 * 1 * 4) * 4
    assert found["logits"] == 2 * 30 * 10 * 8
    assert found["scoring"] == 5 * 16 * 4 + 3 * 10 * 8
    split = parts(shape, WORK, replace(setting, devices=4, sharding="full"))
    assert split["optimizer"] == found["optimizer"] // 4
    assert split["KV cache"] == found["KV cache"]
    assert parts(shape, replace(WORK, reference_model=True), setting)["reference"] == 4 * shape.parameters
    checkpointed = parts(shape, replace(WORK, checkpointing=True), setting)
    assert checkpointed["activations"] < found["activations"]
    assert peak({**found, "KV cache": 10**9}, setting)[0] == "sampling"


def test_a_faster_device_takes_less_time_and_more_devices_share_the_work() -> None:
    shape, setting = KNOWN["Qwen/Qwen3-1.7B"], Setting()
    work = Work(prompts=16, group=16, prompt=512, completion=1024, reasoning=900, reference=124)
    reached = Efficiency(mfu=0.4, bandwidth=0.5, launch=0.0)
    slow, fast = (seconds(shape, work, setting, GPUS[name], reached) for name in ("a100", "h100"))
    assert all(fast[part] < slow[part] for part in slow)
    shared = seconds(shape, work, replace(setting, devices=4), GPUS["a100"], reached)
    assert shared["training"] == pytest.approx(slow["training"] / 4)
    assert slow["training"] == pytest.approx(flops.training(shape, work) / (312e12 * 0.4))


@pytest.mark.parametrize(
    ("arguments", "parts_of_message"),
    [
        (["gpu=h20"], ["gpu=h20", "h100"]),
        (["devices=0"], ["devices=0", "1"]),
        (["devices=["], ["devices=[", "cannot be read"]),
        (["mfu=2"], ["mfu=2", "[0.01, 1]"]),
        (["prompt_tokens=many"], ["prompt_tokens=many"]),
        (["completion_tokens=5000"], ["completion_tokens=5000", "rollout.max_completion_length=96"]),
        (["reward=nope"], ["nope"]),
        (["--gpu"], ["--gpu", "--help"]),
        (["model.path=./nowhere"], ["model.path=nowhere"]),
        (["algorithm.per_device_train_batch_size=10"], ["per_device_train_batch_size 10", "num_generations=16"]),
    ],
)
def test_bad_input_is_one_message(arguments: list[str], parts_of_message: list[str], capsys) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("error:") == 1
    for part in parts_of_message:
        assert part in said.err


def test_the_command_prints_every_part(capsys) -> None:
    assert main(["scale=gpu", "reward=repro", "gpu=h200", "completion_tokens=2048"]) == 0
    said = capsys.readouterr().out
    for part in (
        "Qwen/Qwen3-1.7B",
        "10 prefixes",
        "optimizer",
        "KV cache",
        "sampling",
        "scoring",
        "training",
        "assumed",
    ):
        assert part in said
    assert "DOES NOT FIT" not in said
    assert main(["scale=gpu", "gpu=a100", "algorithm.steps_per_generation=null"]) == 0
    said = capsys.readouterr().out
    assert "DOES NOT FIT" in said
    assert "smaller  completion_tokens=" in said, "what to change, for the phase that needs most"
    assert main(["reward=rouge"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("scoring", "scorer's cache"))]
    assert [line.split() for line in lines] == [["scoring", "0", "0", "0%"]], "nothing reads the reference"


def test_the_parts_of_each_phase_add_up_to_what_stands_below_them(capsys) -> None:
    assert main(["scale=gpu", "gpu=h100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("GiB of one device"))
    last = next(i for i, line in enumerate(lines) if line.startswith("together"))
    assert lines[first].split()[-3:] == ["sampling", "scoring", "training"]
    ends = [lines[first].index(phase) + len(phase) for phase in ("sampling", "scoring", "training")]
    table = [[float(line[end - 6 : end].strip() or 0) for end in ends] for line in lines[first + 1 : last + 1]]
    assert table[-1] == pytest.approx([sum(column) for column in zip(*table[:-1], strict=True)], abs=0.05)
    assert lines[last + 1].startswith(f"peak     {max(table[-1]):.2f} GiB")
    weights = {line.split("  ")[0]: line.split()[-1] for line in lines[first + 1 : last]}
    assert weights["policy, float32"] == weights["reference policy (beta > 0), float32"] == "6.41"  # 1.72e9 x 4 bytes
    assert weights["bfloat16 copies while weights are used (autocast)"] == "3.20"


def test_gradients_wait_where_a_step_samples_more_than_once() -> None:
    found = dict.fromkeys(LABELS, 0) | {"gradients": 5, "KV cache": 7, "activations": 1}
    assert sums(found, Setting()) == {"sampling": 7, "scoring": 0, "training": 6}
    assert sums(found, Setting(samples_midway=True)) == {"sampling": 12, "scoring": 5, "training": 6}
    for given, midway in (([], True), (["algorithm.steps_per_generation=null"], False)):
        assert plan(compose(["scale=gpu", *given]), Question()).setting.samples_midway is midway


def test_a_model_laid_out_otherwise_is_refused() -> None:
    with pytest.raises(UserError, match="gpt2"):
        shape_from(AutoConfig.for_model("gpt2"), path="gpt2")
