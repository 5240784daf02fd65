"""Completions from a file: TRL seeds its ranks differently, so two of them sample otherwise than one."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from dro_lab.training.trainer import LabTrainer


class Replay:
    """Records what training samples, or gives it back: by step and prompt, in the order of the group."""

    def __init__(self, completions: dict[str, list[list[int]]] | None = None) -> None:
        self.completions: dict[str, list[list[int]]] = completions or defaultdict(list)
        self._methods: dict[str, Any] = {}

    @classmethod
    def load(cls, path: Path) -> Replay:
        return cls(json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.completions))

    def record(self) -> None:
        def generate(trainer: Any, prompt_ids: Any, *rest: Any) -> Any:
            found = self._methods["_generate_single_turn"](trainer, prompt_ids, *rest)
            if not trainer.evaluating:
                for ids, completion in zip(prompt_ids, found[0], strict=True):
                    self.completions[self._key(trainer, ids)].append(list(completion))
            return found

        self._put(generate)

    def play(self) -> None:
        def generate(trainer: Any, prompt_ids: Any, *rest: Any) -> Any:
            if trainer.evaluating:
                return self._methods["_generate_single_turn"](trainer, prompt_ids, *rest)
            left = {key: list(self.completions[key]) for key in {self._key(trainer, ids) for ids in prompt_ids}}
            return [left[self._key(trainer, ids)].pop(0) for ids in prompt_ids], None

        self._put(generate)

    def stop(self) -> None:
        for name in self._methods:
            delattr(LabTrainer, name)

    def _put(self, generate: Any) -> None:
        self._methods = {name: getattr(LabTrainer, name) for name in ("_generate_single_turn", "sample")}
        sample = self._methods["sample"]

        def sampled(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            trainer.evaluating = True
            try:
                return sample(trainer, *args, **kwargs)
            finally:
                trainer.evaluating = False

        LabTrainer.evaluating = False
        LabTrainer._generate_single_turn = generate
        LabTrainer.sample = sampled

    @staticmethod
    def _key(trainer: Any, prompt_ids: Any) -> str:
        return f"{trainer.state.global_step}:{','.join(map(str, prompt_ids))}"
