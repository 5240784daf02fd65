"""The policies a run can ask for probabilities: the one being trained, as it was at the start, and as it was lately."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel

from dro_lab.pipeline import Policy
from dro_lab.scoring.head import WithoutAdapter
from dro_lab.training.weights import is_split, plain_copy, plain_weights


@dataclass
class Policies:
    """Frozen copies of the policy beside the one being trained; none is made that nobody asks for.

    Args:
        scored_by: whose probabilities rewards and filters read.
        lag: optimizer steps after which the lagged copy is taken anew.
        judged_by_reference: whether the judge asks the reference policy.
        adapted: whether an adapter is trained: the policy at the start is then the one without it, and no copy.
    """

    scored_by: Policy = "current"
    lag: int = 16
    judged_by_reference: bool = False
    adapted: bool = False
    _frozen: dict[str, PreTrainedModel | WithoutAdapter] = field(default_factory=dict)
    refreshed: int = 0  # step at which the lagged copy was taken

    def start(self, model: PreTrainedModel) -> None:
        """Take the copies, before the first update."""
        if self.scored_by == "reference" or self.judged_by_reference:
            self._frozen["reference"] = WithoutAdapter(model) if self.adapted else frozen_copy(model)
        if self.scored_by == "lagged":
            self._frozen["lagged"] = frozen_copy(model)

    @property
    def lagged(self) -> PreTrainedModel | None:
        """The policy as it was lately, where somebody asks for it."""
        found = self._frozen.get("lagged")
        return found if isinstance(found, PreTrainedModel) else None

    @property
    def reference(self) -> PreTrainedModel | WithoutAdapter | None:
        """The policy as it was at the start, where somebody asks for it."""
        return self._frozen.get("reference")

    def models(self, current: PreTrainedModel, *, step: int | None) -> Mapping[str, PreTrainedModel | WithoutAdapter]:
        """The policies by name; the lagged one is refreshed when ``lag`` steps have passed since it was taken.

        ``step``: optimizer steps done; None leaves the lagged one as it is (an evaluation changes nothing). The copies
        are taken from weights on the CPU, before the trainer moves the policy to its device: here they follow it.
        """
        for policy in self._frozen.values():
            if isinstance(policy, WithoutAdapter):
                policy.follow(current)
            elif policy.device != current.device:
                nn.Module.to(policy, current.device)
        lagged = self.lagged
        if lagged is not None and step is not None and step - self.refreshed >= self.lag:
            own = dict(lagged.named_parameters()) | dict(lagged.named_buffers())
            with torch.no_grad():
                for name, value in plain_weights(current):
                    own[name].copy_(value)
            self.refreshed = step
        return {"current": current, **self._frozen}


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that no optimizer touches, in evaluation mode."""
    if is_split(model):  # ZeRO-3 splits weights while they are loaded
        return plain_copy(model, type(model), torch.device("cpu"))
    made = copy.deepcopy(model)
    made.requires_grad_(False)
    return made.eval()
