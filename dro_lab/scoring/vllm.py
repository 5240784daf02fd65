"""scorer=vllm: references scored by the vLLM that samples, and by the policy itself where vLLM cannot.

vLLM gives the log-probabilities of given tokens, and nothing else of a distribution: no entropies, no ranks in the
lab's sense, no hidden reasoning, and of no other policy than the one whose weights it holds. What it cannot give is
taken from the policy (`ReferenceScorer`), and then all of that reading is: the policy reads each text once whatever is
asked of it, and numbers that are compared with each other come from one engine.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dro_lab.checks import flag
from dro_lab.errors import UserError
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat
from dro_lab.scoring.tree import Choose, StemScores, Tree, TreeScores
from dro_lab.scoring.vllm_engine import CannotScoreError, Colocated, Engine, Served, Text
from dro_lab.types import Need, Stat

LOG = logging.getLogger(__name__)

REASONS = ("asked", "weights", "length", "lists", "values", "engine", "server")
"""Why the policy was read instead. ``asked``: something that vLLM does not give. ``weights``: another policy than the
one vLLM holds, or vLLM has not got the last update."""


class VLLMScorer(ReferenceScorer):
    """Scores references with the trainer's vLLM (`attach`).

    Args:
        tokenizer: of the policy.
        fmt: delimiters and answer marker.
        read_prefix_cache: read vLLM's prefix cache where it runs in this process (`Colocated`).
        hf: arguments of `ReferenceScorer`.
    """

    name = "vllm"
    gives = frozenset({Stat.REFERENCE})
    policies = frozenset({"current"})

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, fmt: ReasoningFormat, *, read_prefix_cache: bool = True, **hf: Any
    ) -> None:
        super().__init__(tokenizer, fmt, **hf)
        flag("scorer.read_prefix_cache", read_prefix_cache, todo="true is the default and the faster one")
        self._read_cache = read_prefix_cache
        self._trainer: Any = None
        self._engine: Engine | None = None
        self._texts = Counter[str]()
        self._fallbacks = Counter[str]()
        self._said: set[str] = set()

    def attach(self, trainer: Any) -> None:
        """Score with the vLLM that ``trainer``, TRL's, samples with."""
        self._trainer, self._engine = trainer, None

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on; what vLLM's cache saved is counted anew."""
        return {"texts": dict(self._texts), "fallbacks": dict(self._fallbacks)}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self._texts, self._fallbacks = Counter(carried["texts"]), Counter(carried["fallbacks"])

    def metrics(self) -> Mapping[str, float]:
        """Since the start: ``scorer/vllm_texts`` and ``scorer/hf_texts``, how often the policy was read instead and
        why (``scorer/fallbacks``, ``scorer/fallbacks/REASON``), and of vLLM's prefix cache ``scorer/cached_share``
        of the tokens and ``scorer/texts_read_again``."""
        reading = self._engine.reading if self._engine else None
        return {
            "scorer/vllm_texts": float(self._texts["vllm"]),
            "scorer/hf_texts": float(self._texts["hf"]),
            "scorer/fallbacks": float(self._fallbacks.total()),
            **{f"scorer/fallbacks/{reason}": float(self._fallbacks[reason]) for reason in REASONS},
            "scorer/cached_share": reading.cached / reading.tokens if reading and reading.tokens else 0.0,
            "scorer/texts_read_again": float(reading.again) if reading else 0.0,
        }

    def _read(self, model: PreTrainedModel, tree: Tree, choose: Choose, *, ranks: bool) -> TreeScores:
        try:
            found, failure = self._by_vllm(model, tree, ranks=ranks), None
        except CannotScoreError as error:
            found, failure = None, error
        if self._any_rank(failure is not None):  # all ranks read the policy, or none: its forwards are collective
            self._fall_back(failure)
            self._texts["hf"] += len(tree.stems)
            return super()._read(model, tree, choose, ranks=ranks)
        assert found is not None
        self._texts["vllm"] += len(tree.stems)
        return found

    def _by_vllm(self, model: PreTrainedModel, tree: Tree, *, ranks: bool) -> TreeScores:
        """The ends of all stems.

        Raises:
            CannotScoreError: see `REASONS`.
        """
        if ranks or any(tree.roots) or any(stem.fixed or stem.candidates for stem in tree.stems):
            raise CannotScoreError("asked", "prefixes, entropies, ranks or a hidden reasoning were asked for")
        engine = self._engine_for(model)
        texts: dict[Text, int] = {}
        numbers = []
        for stem in tree.stems:
            if stem.end is None:
                raise CannotScoreError("asked", "a rollout without a reference behind it")
            ids = (*tree.prompts[stem.prompt], *stem.ids[: stem.end.after], *stem.end.head, *stem.end.targets)
            # equal texts are scored once: the second would find the first one's targets in the cache
            numbers.append(texts.setdefault(Text(tuple(map(int, ids)), len(stem.end.targets)), len(texts)))
        scored = [torch.tensor(logps, dtype=torch.float32).view(-1, 1) for logps in engine.score(list(texts))]
        return TreeScores(roots=[None] * len(tree.prompts), stems=[StemScores(end=scored[n]) for n in numbers])

    def _engine_for(self, model: PreTrainedModel) -> Engine:
        trainer = self._trainer
        lent = getattr(trainer, "lent", lambda: None)  # the trainer's policy as a plain model
        if trainer is None or (model is not trainer.policy and model is not lent()):
            raise CannotScoreError("weights", "vLLM holds the weights of the policy that is trained, not of this one")
        if trainer._last_loaded_step != trainer.state.global_step:
            raise CannotScoreError("weights", "vLLM has not got the last update yet")
        if self._engine is None:
            self._engine = self._made(trainer.vllm_generation, model)
        return self._engine

    def _made(self, generation: Any, model: PreTrainedModel) -> Engine:
        if generation.mode == "server":
            url = generation.server_base_url or f"http://{generation.server_host}:{generation.server_port}"
            return Served(url.rstrip("/"))
        engine = Colocated(generation.llm, read_cache=self._read_cache)
        if engine.dtype != str(model.dtype):
            LOG.warning(
                "scorer=vllm: vLLM holds the weights as %s, the policy has %s: rewards differ from scorer=hf by the "
                "rounding (about 0.01 nats a token in bfloat16)",
                engine.dtype,
                model.dtype,
            )
        return engine

    def _any_rank(self, failed: bool) -> bool:
        accelerator = getattr(self._trainer, "accelerator", None)
        if accelerator is None or accelerator.num_processes == 1:
            return failed
        flags: Tensor = accelerator.gather(torch.tensor([int(failed)], device=accelerator.device))
        return bool(flags.any())

    def _fall_back(self, failure: CannotScoreError | None) -> None:
        """Count it, and say it once a reason."""
        reason, message = (failure.reason, str(failure)) if failure else ("engine", "vLLM failed on another rank")
        self._fallbacks[reason] += 1
        if reason not in self._said:
            self._said.add(reason)
            LOG.warning(
                "scorer=vllm: the policy itself scores the references instead (%s); counted as scorer/fallbacks/%s, "
                "said once",
                message,
                reason,
            )


def scorer_for(tokenizer: PreTrainedTokenizerBase, fmt: ReasoningFormat, keys: Mapping[str, Any]) -> ReferenceScorer:
    """The scorer that the `scorer` group names by its key ``engine``: hf (the default) or vllm."""
    own = {str(key): value for key, value in keys.items() if key != "engine"}
    return VLLMScorer(tokenizer, fmt, **own) if keys.get("engine") == "vllm" else ReferenceScorer(tokenizer, fmt, **own)


def scorer_notes(scorer: ReferenceScorer, needs: Iterable[Need]) -> tuple[str, ...]:
    """What a run's reader must know of needs that its scorer leaves to the policy itself."""
    missing = sorted({need.stat for need in needs} & (ReferenceScorer.gives - scorer.gives))
    if not missing:
        return ()
    named = ", ".join(f"{stat} ({WHAT[stat]})" for stat in missing)
    return (
        f"scorer={scorer.name} does not give {named}: the policy itself reads them, and with them all reference "
        "texts of the training rollouts, as scorer=hf does",
    )


WHAT = {
    Stat.RANKS: "places of tokens in the vocabulary",
    Stat.MASKED: "the reasoning hidden from attention",
    Stat.PREFIXES: "entropies of segments, and references after prefixes",
}


def check_scorer(cfg: DictConfig, needs: Iterable[Need]) -> None:
    """Check what ``scorer=vllm`` needs of the rest of a run.

    Raises:
        UserError: no vLLM samples, it gives its memory away before it could score, its copies span devices, or a
            component wants a policy that it does not hold.
    """
    if cfg.scorer.get("engine", "hf") != "vllm":
        return
    todo = "or choose scorer=hf"
    if not cfg.rollout.use_vllm:
        raise UserError(
            "scorer=vllm with rollout.use_vllm=false: no vLLM samples in this run, so none can score; choose "
            f"rollout=vllm_colocate or rollout=vllm_server, {todo}"
        )
    others = sorted({n.policy for n in needs if n.stat in ReferenceScorer.gives} - VLLMScorer.policies)
    if others:
        raise UserError(
            f"scorer=vllm with scored_by={others[0]}: vLLM holds the current policy alone; set "
            f"scored_by=current, {todo}"
        )
    if cfg.algorithm.get("vllm_mode", "colocate") == "server":
        return
    if cfg.algorithm.get("vllm_enable_sleep_mode"):
        raise UserError(
            "scorer=vllm with algorithm.vllm_enable_sleep_mode=true: vLLM gives its weights away after sampling; set "
            f"it to false, {todo}"
        )
    if (size := cfg.algorithm.get("vllm_tensor_parallel_size") or 1) > 1:
        raise UserError(
            f"scorer=vllm with algorithm.vllm_tensor_parallel_size={size}: devices that share a copy of vLLM would "
            f"have to score each other's texts; set it to 1, use rollout=vllm_server, {todo}"
        )
