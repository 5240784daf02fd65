"""rollout=vllm_server: TRL's own server mode against a real vLLM server. On a CPU there is no NCCL, so the weights
travel as a file; all else is TRL's."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: `make test-vllm` runs this folder")

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from dro_lab.errors import UserError
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat
from dro_lab.scoring.vllm import VLLMScorer
from tests import lab_fixture
from tests.tiny import byte_tokenizer
from tests.vllm.engine import save_policy
from tests.vllm.test_colocate import NATS, Sync

PROMPTS = [[5, 6, 7, 8] * 9, [9, 10] * 11]
REFERENCES = [" 42 km", "the claim is wrong."]


@pytest.fixture
def weights_as_a_file(monkeypatch, tmp_path):
    """TRL's client, but for the way of the weights."""
    import trl.generation.vllm_generation as generation

    folder = tmp_path / "weights"
    folder.mkdir()

    class FileSyncClient(generation.VLLMClient):
        def init_communicator(self, device=0):
            pass

        def update_named_params(self, metadata, named_params):
            tensors = {name: value.detach().cpu().clone() for name, value in named_params}
            save_file(tensors, folder / "model.safetensors")
            call = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            self._post(f"{self.base_url}/collective_rpc", json=call)

    monkeypatch.setattr(generation, "VLLMClient", FileSyncClient)


def test_the_server_samples_and_scores_with_the_weights_of_the_last_update(vllm_url, weights_as_a_file, tmp_path):
    folder = save_policy(tmp_path / "policy")
    arguments = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": vllm_url}
    model = AutoModelForCausalLM.from_pretrained(folder)
    trainer = lab_fixture.trainer(tmp_path / "out", model=model, **arguments)
    sync = Sync(trainer, folder)
    trainer.train()
    assert len(sync.own) == 3
    assert max(sync.own) <= NATS, sync.own
    assert min(sync.initial[1:]) > 0.01, sync.initial
    fmt = ReasoningFormat(answer_marker="Answer:")
    vllm, hf = VLLMScorer(byte_tokenizer(), fmt), ReferenceScorer(byte_tokenizer(), fmt)
    vllm.attach(trainer)
    reasonings = [trainer.sample([prompt], 4, batch_size=4, seed=1) for prompt in PROMPTS]
    got, want = (scorer.score(trainer.policy, PROMPTS, reasonings, REFERENCES) for scorer in (vllm, hf))
    torch.testing.assert_close(got.logps_PGR, want.logps_PGR, atol=1e-4, rtol=0)
    assert vllm.metrics()["scorer/vllm_texts"] == 8
    trainer.vllm_generation.server_base_url = "http://127.0.0.1:9"  # a server that went away
    vllm.attach(trainer)
    got = vllm.score(trainer.policy, PROMPTS, reasonings, REFERENCES)
    torch.testing.assert_close(got.logps_PGR, want.logps_PGR, atol=1e-4, rtol=0)
    assert vllm.metrics()["scorer/fallbacks/server"] == 1


def test_a_server_that_cannot_be_reached_is_one_message(tmp_path):
    arguments = {"use_vllm": True, "vllm_mode": "server", "vllm_server_timeout": 0.0}
    with pytest.raises(UserError, match="be reached at") as caught:
        lab_fixture.trainer(tmp_path, vllm_server_base_url="http://127.0.0.1:9", **arguments)
    assert "conf/rollout/vllm_server.yaml" in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://host:8000", "localhost:8000", "http://user:secret@host:8000"])
def test_the_server_is_an_http_address_without_a_password(url):
    from omegaconf import OmegaConf

    from dro_lab.training.arguments import arguments

    node = {"_target_": "trl.GRPOConfig", "use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": url}
    with pytest.raises(UserError, match="vllm_server_base_url") as caught:
        arguments(OmegaConf.create(node), output_dir="out", steps=1)
    assert "secret" not in str(caught.value)
