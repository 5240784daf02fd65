"""The policies a run can ask for probabilities: the one being trained, as it was at the start, and as it was lately."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel

from dro_lab.pipeline import Policy


@dataclass
class Policies:
    """Frozen copies of the policy beside the one being trained; none is made that nobody asks for.

    Args:
        scored_by: whose probabilities rewards and filters read.
        lag: optimizer steps after which the lagged copy is taken anew.
        judged_by_reference: whether the judge asks the reference policy.
    """

    scored_by: Policy = "current"
    lag: int = 16
    judged_by_reference: bool = False
    _frozen: dict[str, PreTrainedModel] = field(default_factory=dict)
    _refreshed: int = 0

    def start(self, model: PreTrainedModel) -> None:
        """Take the copies, before the first update."""
        if self.scored_by == "reference" or self.judged_by_reference:
            self._frozen["reference"] = frozen_copy(model)
        if self.scored_by == "lagged":
            self._frozen["lagged"] = frozen_copy(model)

    @property
    def reference(self) -> PreTrainedModel | None:
        """The policy as it was at the start, where somebody asks for it."""
        return self._frozen.get("reference")

    def models(self, current: PreTrainedModel, *, step: int | None) -> Mapping[str, PreTrainedModel]:
        """The policies by name; the lagged one is refreshed when ``lag`` steps have passed since it was taken.

        ``step``: optimizer steps done; None leaves the lagged one as it is (an evaluation changes nothing). The copies
        are taken from weights on the CPU, before the trainer moves the policy to its device: here they follow it.
        """
        for policy in self._frozen.values():
            if policy.device != current.device:
                nn.Module.to(policy, current.device)
        if "lagged" in self._frozen and step is not None and step - self._refreshed >= self.lag:
            self._frozen["lagged"].load_state_dict(current.state_dict())
            self._refreshed = step
        return {"current": current, **self._frozen}


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that no optimizer touches, in evaluation mode."""
    made = copy.deepcopy(model)
    made.requires_grad_(False)
    return made.eval()
