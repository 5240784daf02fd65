"""Before several processes start: what does not fit together is refused, and every scale fits the GPU that it names."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.config import load_config_from_file

from dro_lab.config import check
from dro_lab.data.__main__ import compose
from dro_lab.errors import UserError
from dro_lab.launch import __main__ as launching
from dro_lab.launch.__main__ import check_machine, launch_command, main
from dro_lab.launch.world import CONF, check_launch, check_wrapped, silent_rank
from dro_lab.plan.command import plan
from dro_lab.plan.settings import Question
from dro_lab.plan.shape import KNOWN
from tests.launch.group import launcher_env

ENGINES = ("ddp", "fsdp", "zero3")
TWO = {"RANK": "0", "WORLD_SIZE": "2"}


@pytest.mark.parametrize("name", ["single", *ENGINES])
def test_accelerate_reads_the_file_that_hydra_reads(name: str) -> None:
    file = CONF / "launch" / f"{name}.yaml"
    read = load_config_from_file(str(file))  # refuses keys that accelerate does not know
    cfg = compose([f"launch={name}"])
    assert read.distributed_type.value == cfg.launch.distributed_type
    assert read.num_processes == cfg.launch.num_processes == (1 if name == "single" else 8)


def test_the_files_switch_the_engines_on() -> None:
    assert "ACCELERATE_USE_FSDP" not in launcher_env("ddp")
    fsdp, zero = launcher_env("fsdp"), launcher_env("zero3")
    assert (fsdp["ACCELERATE_USE_FSDP"], fsdp["FSDP_VERSION"]) == ("true", "2")
    assert (zero["ACCELERATE_USE_DEEPSPEED"], zero["ACCELERATE_DEEPSPEED_ZERO_STAGE"]) == ("true", "3")


@pytest.mark.parametrize(
    ("given", "environ", "parts"),
    [
        (["launch=ddp"], {}, ["launch.num_processes=8", "one process alone", "python -m dro_lab.launch"]),
        ([], TWO, ["launch=single", "launch.num_processes=1", "process 0 of 2", "launch=ddp"]),
        (["launch=ddp"], TWO, ["launch.num_processes=8", "launch.num_processes=2"]),
        (["launch=fsdp", "launch.num_processes=2"], TWO, ["FSDP is not switched on", "conf/launch/fsdp.yaml"]),
        (
            ["launch=ddp", "launch.num_processes=2"],
            {**TWO, "ACCELERATE_USE_FSDP": "true"},
            ["launch=ddp", "FSDP", "ACCELERATE_USE_FSDP=true"],
        ),
        (
            ["launch=zero3", "launch.num_processes=2", "steps=0"],
            {**TWO, "ACCELERATE_USE_DEEPSPEED": "true"},
            ["steps=0", "launch=single or ddp"],
        ),
    ],
)
def test_a_launch_that_is_not_what_it_says_is_refused(
    given: list[str], environ: dict[str, str], parts: list[str]
) -> None:
    cfg = compose(given)
    name = next((one.split("=")[1] for one in given if one.startswith("launch=")), "single")
    with pytest.raises(UserError) as error:
        check_launch(cfg, name, environ=environ)
    for part in parts:
        assert part in str(error.value)


def test_a_launch_that_is_what_it_says_passes() -> None:
    check_launch(compose([]), "single", environ={})
    check_launch(compose(["launch=ddp", "launch.num_processes=2"]), "ddp", environ=TWO)
    on = {**TWO, "ACCELERATE_USE_FSDP": "true"}
    check_launch(compose(["launch=fsdp", "launch.num_processes=2"]), "fsdp", environ=on)


def trained(kind: str, *, processes: int = 2, wrapped: object | None = None) -> SimpleNamespace:
    state = SimpleNamespace(distributed_type=SimpleNamespace(value=kind), num_processes=processes)
    model = object()
    return SimpleNamespace(accelerator=state, model=model, model_wrapped=model if wrapped is None else wrapped)


def test_what_accelerate_made_of_a_launch_is_looked_at() -> None:
    two = "launch.num_processes=2"
    check_wrapped(trained("MULTI_CPU"), compose(["launch=ddp", two]), "ddp")
    with pytest.raises(UserError, match=r"MULTI_CPU.*on a CPU take launch=ddp"):
        check_wrapped(trained("MULTI_CPU"), compose(["launch=fsdp", two]), "fsdp")
    with pytest.raises(UserError, match="1 processes"):
        check_wrapped(trained("NO", processes=1), compose(["launch=ddp", two]), "ddp")
    with pytest.raises(UserError, match="wrapped as dict, where FSDPModule"):
        check_wrapped(trained("FSDP", wrapped={}), compose(["launch=fsdp", two]), "fsdp")


@pytest.mark.parametrize("launch", ENGINES)
def test_a_group_is_never_split_over_ranks(launch: str) -> None:
    """TRL would take it: 2 ranks x 8 rollouts are one group of 16."""
    given = [f"launch={launch}", "launch.num_processes=2", "algorithm.num_generations=16"]
    with pytest.raises(UserError) as error:
        check(compose([*given, "algorithm.per_device_train_batch_size=8"]))
    for part in ("num_generations=16", "per_device_train_batch_size 8 x 1 = 8", "16", "gradient_accumulation_steps to"):
        assert part in str(error.value)
    check(compose([*given, "algorithm.per_device_train_batch_size=8", "algorithm.gradient_accumulation_steps=2"]))


def test_the_command_is_accelerates(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["launch=fsdp", "launch.num_processes=4", "reward=avg_prob"]
    line = launch_command(given)
    assert line[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert line[line.index("--config_file") + 1] == str(CONF / "launch/fsdp.yaml")
    assert line[line.index("--num_processes") + 1] == "4"
    assert line[line.index("dro_lab.run") - 1 :] == ["-m", "dro_lab.run", *given]
    assert launch_command(["seed=1"]) == [sys.executable, "-m", "dro_lab.run", "seed=1"]
    assert main(["--print", *given]) == 0
    assert "accelerate.commands.launch" in capsys.readouterr().out


def test_deepspeed_is_asked_for_before_it_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else found(name))
    given = ["launch=zero3", "launch.num_processes=2"]
    for more, part in (
        ([], "DeepSpeed is not installed; `pip install deepspeed`"),
        (["launch.deepspeed_config.zero_stage=2"], "launch.deepspeed_config.zero_stage=2: must be 3"),
    ):
        assert main([*given, *more]) == 2
        assert part in capsys.readouterr().err
        on = {**TWO, "ACCELERATE_USE_DEEPSPEED": "true"}
        with pytest.raises(UserError) as error:
            check_launch(compose([*given, *more]), "zero3", environ=on)
        assert part in str(error.value)
    assert main(["--print", *given]) == 0


NODE = ["scale=node", "dataset=pararev"]


@pytest.mark.parametrize(
    ("given", "devices", "parts"),
    [
        (NODE, 0, ["launch=fsdp: no GPU was found", "launch=ddp with scale=laptop", "--print"]),
        ([*NODE, "launch=zero3"], 0, ["launch=zero3: no GPU was found", "launch=ddp"]),
        ([*NODE, "launch=fsdp", "algorithm.use_cpu=true"], 8, ["launch=fsdp: algorithm.use_cpu=true", "launch=ddp"]),
        ([*NODE, "launch=ddp", "rollout=hf"], 0, ["algorithm.bf16=true: no GPU was found", "scale=laptop"]),
        (NODE, 4, ["launch.num_processes=8: one process for each GPU, but 4 were found", "launch.num_processes=4"]),
        ([*NODE, "launch=ddp"], 1, ["but 1 was found", "launch=single"]),
        (
            [*NODE, "launch.num_processes=16", "launch.num_machines=2", "launch.main_process_ip=10.0.0.1"],
            4,
            ["8 on each of 2 machines, but 4 were found", "set launch.num_processes=8"],
        ),
        (NODE, 8, ["rollout.use_vllm=true: vLLM is not installed"]),
        ([*NODE, "algorithm.vllm_mode=server"], 8, ["rollout.use_vllm=true: vLLM is not installed"]),
    ],
)
def test_what_this_machine_lacks_is_said_before_a_process_starts(
    given: list[str],
    devices: int,
    parts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else found(name))
    monkeypatch.setattr(launching, "devices", lambda: devices)
    monkeypatch.setattr(launching, "_accelerate", lambda options: pytest.fail("processes were started"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: devices > 0)
    assert main(given) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("error:") == 1
    for part in parts:
        assert part in said.err


def test_the_command_for_another_machine_is_printed_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launching, "devices", lambda: 0)
    assert main(["--print", *NODE]) == 0
    assert "--num_processes 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "devices"),
    [
        (["launch=ddp", "launch.num_processes=2"], 0),
        (["launch=ddp", "launch.num_processes=2"], 1),  # scale=laptop: algorithm.use_cpu=true
        (["launch=zero3", "launch.num_processes=2"], 0),
        (["launch=fsdp", "launch.num_processes=2", "algorithm.use_cpu=false"], 2),
        (["scale=gpu"], 0),  # one process, which says so itself
    ],
)
def test_what_this_machine_has_is_started(given: list[str], devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "devices", lambda: devices)
    monkeypatch.setattr(launching, "check_engine", lambda launch: None)
    check_machine(compose(given))


def test_changed_keys_of_the_engine_reach_accelerate() -> None:
    line = launch_command(["launch=fsdp", "launch.fsdp_config.fsdp_offload_params=true"])
    file = Path(line[line.index("--config_file") + 1])
    assert yaml.safe_load(file.read_text())["fsdp_config"]["fsdp_offload_params"] is True
    assert load_config_from_file(str(file)).distributed_type.value == "FSDP"
    file.unlink()


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["launch=ddp", "launch.num_machines=2"], "launch.main_process_ip"),
        (["launch=ddp", "--multirun"], "one process each"),
        (["launch=nope"], "nope"),
        (["launch=ddp", "seed=-1"], "seed=-1"),
    ],
)
def test_bad_input_to_the_command_is_one_message(
    given: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == 2
    said = capsys.readouterr()
    assert said.err.count("error:") == 1
    assert part in said.err


def test_only_the_first_process_has_hydras_folder() -> None:
    assert silent_rank(["seed=1"], {"RANK": "0"}) == ["seed=1"]
    given = silent_rank(["seed=1", "hydra.run.dir=run"], {"RANK": "1"})
    assert given[:2] == ["seed=1", "hydra.run.dir=run"]
    assert "hydra.output_subdir=null" in given
    assert "dro_lab_rank" in given[2]


@pytest.mark.parametrize("scale", ["gpu", "node", "paper"])
def test_every_scale_fits_the_gpu_it_names_with_a_tenth_to_spare(scale: str) -> None:
    assert "80 GB" in (CONF / f"scale/{scale}.yaml").read_text()
    found = plan(compose([f"scale={scale}"]), Question(gpu="h100"))
    assert found.setting.devices == (1 if scale == "gpu" else 8)
    assert found.peak[1] <= 0.9 * found.gpu.memory, found.memory


def test_the_plan_knows_engines_and_adapters() -> None:
    whole = plan(compose(["scale=gpu"]), Question())
    lora = plan(compose(["scale=gpu", "model.peft=lora"]), Question())
    assert lora.memory["optimizer"] < whole.memory["optimizer"] / 50
    assert (lora.memory["reference"], whole.memory["reference"]) == (0, 4 * whole.shape.parameters), (
        "its own adapter off"
    )
    colocated = plan(compose(["scale=gpu", "rollout=vllm_colocate"]), Question())
    assert colocated.memory["KV cache"] == 0
    assert colocated.memory["vLLM"] == int(0.3 * 80 * 2**30)
    assert colocated.fits
    sharded = plan(compose(["scale=gpu", "launch=fsdp"]), Question())
    assert sharded.memory["optimizer"] == whole.memory["optimizer"] // 8
    assert sharded.memory["whole copy to score with"] == 2 * sharded.shape.parameters
    assert KNOWN["Qwen/Qwen3-8B"].parameters / 1e9 == pytest.approx(8.19, rel=0.005)
