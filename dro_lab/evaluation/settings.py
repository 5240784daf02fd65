"""The `evaluation` group, checked without importing anything heavy, and the names of what an evaluation measures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dro_lab.checks import choice, flag, number, whole
from dro_lab.errors import UserError

METRICS = (
    "quality",
    "reward",
    "win_rate",
    "order_disagreement",
    "win_unknown_share",
    "reflective_share",
    "reasoning_tokens",
    "answer_tokens",
    "completion_tokens",
    "segments",
    "backtracking_share",
    "certain_at",
    "certain_share",
    "gate_rejected_share",
    "filter_dropped_share",
    "kl",
    "truncated_share",
    "malformed_share",
)
"""What an evaluation estimates beside pass@k and the data set's figures of all answers together."""

OF_PREFIXES = ("certain_at", "certain_share")
"""Measured where the reference is scored after prefixes of the reasoning (`evaluation.certainty`)."""

SCORED = ("reward", "reflective_share", "gate_rejected_share", "filter_dropped_share", "kl", *OF_PREFIXES)
"""Measured on sampled answers of `evaluation.split` alone: they need the reward, which compares the answers to one
prompt, the reference's probabilities, or a forward of their own."""

COMPARED = ("win_rate", "order_disagreement", "win_unknown_share")
"""Measured against the policy before training."""

SPLITS = ("validation", "test", "train", "ood")
DECODINGS = ("sampled", "greedy")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """The `evaluation` group; see conf/evaluation/default.yaml for the fields."""

    split: str
    also: tuple[str, ...]
    greedy: bool
    extras: str
    prompts: int
    samples: int
    every: int
    batch_size: int
    pass_at: tuple[int, ...]
    pass_quality: float
    pairs: str
    confidence: float
    bootstrap: int
    corpus_bootstrap: int
    seed: int
    reflective_sigma: float
    certainty: Literal["auto"] | bool
    certain: float
    certain_points: int
    kl: Literal["auto"] | bool
    token_rows: int


NULLABLE = ("pass_at",)


def evaluation_settings(values: Mapping[str, Any]) -> EvaluationSettings:
    """Check the group and return it.

    Raises:
        UserError: a key is unknown or missing, or a value makes no sense.
    """
    fields = list(EvaluationSettings.__dataclass_fields__)
    if unknown := sorted(set(values) - set(fields)):
        raise UserError(f"evaluation.{unknown[0]}={values[unknown[0]]}: unknown key; allowed are {', '.join(fields)}")
    if missing := [n for n in fields if n not in values or (values[n] is None and n not in NULLABLE)]:
        raise UserError(
            f"evaluation.{missing[0]} is not set: it needs a value; conf/evaluation/default.yaml says what it means"
        )
    for name, low, todo in (
        ("prompts", 1, "the number of held-out rows, 32 by default"),
        ("samples", 1, "sampled answers a row, 4 by default"),
        ("every", 1, "steps between evaluations; a number above `steps` evaluates before and after only"),
        ("batch_size", 1, "samples generated at once, 256 by default"),
        ("bootstrap", 1, "resamples of an interval, 2000 by default"),
        ("corpus_bootstrap", 1, "resamples of the interval of a figure of all answers together, 200 by default"),
        ("seed", 0, "evaluations draw from it, the same each time"),
        ("certain_points", 1, "prefixes of a reasoning that are scored, 10 by default"),
        ("token_rows", 0, "rows whose reference tokens are kept, 8 by default"),
    ):
        whole(f"evaluation.{name}", values[name], low=low, todo=todo)
    number("evaluation.reflective_sigma", values["reflective_sigma"], low=0.0, todo="0.2 is the default")
    number("evaluation.pass_quality", values["pass_quality"], low=0.0, high=1.0, todo="1.0 counts wholly right answers")
    for name in ("confidence", "certain"):
        number(f"evaluation.{name}", values[name], low=0.0, high=1.0, todo="for example 0.9")
        if values[name] in (0, 1):
            raise UserError(f"evaluation.{name}={values[name]}: must lie strictly between 0 and 1; for example 0.9")
    if values["certainty"] != "auto" and not isinstance(values["certainty"], bool):
        raise UserError(
            f"evaluation.certainty={values['certainty']}: must be auto, true or false; auto measures it where the "
            "reward scores prefixes of the reasoning, true always"
        )
    if values["kl"] != "auto" and not isinstance(values["kl"], bool):
        raise UserError(
            f"evaluation.kl={values['kl']}: must be auto, true or false; true keeps a copy of the policy before "
            "training and measures how far training went from it, auto does where that copy is there anyway or small"
        )
    choice("evaluation.split", values["split"], SPLITS, todo="held-out rows are in validation and test")
    flag("evaluation.greedy", values["greedy"], todo="true also measures the likeliest answer of each row")
    choice("evaluation.extras", values["extras"], ("ends", "every"), todo="ends is the default and the cheaper one")
    choice("evaluation.pairs", values["pairs"], ("auto", "all", "matched"), todo="auto is the default")
    also = _also(values["also"], split=values["split"])
    pass_at = _pass_at(values["pass_at"], samples=values["samples"])
    return EvaluationSettings(**{**values, "also": also, "pass_at": pass_at})


def _also(given: Any, *, split: str) -> tuple[str, ...]:
    """The further splits. Raises `UserError` for one that no data set has, or that is named twice."""
    if not isinstance(given, list | tuple):
        raise UserError(f"evaluation.also={given}: must be a list of splits, for example [ood]; [] for none")
    for name in given:
        choice("evaluation.also", name, SPLITS, todo="a list of splits, for example [ood]; [] for none")
    if split in given or len(set(given)) < len(given):
        raise UserError(
            f"evaluation.also={list(given)}: must name each split once, and not evaluation.split={split}; "
            "leave out what is there already"
        )
    return tuple(given)


def _pass_at(given: Any, *, samples: int) -> tuple[int, ...]:
    """The ks of pass@k; None: powers of two up to ``samples``."""
    if given is None:
        return tuple(2**i for i in range(samples.bit_length()))
    if not isinstance(given, list | tuple):
        raise UserError(f"evaluation.pass_at={given}: must be a list of whole numbers, for example [1,4], or null")
    for k in given:
        whole("evaluation.pass_at", k, low=1, high=samples, todo="of evaluation.samples answers a row; raise that")
    return tuple(dict.fromkeys(given))


def present_splits(
    settings: EvaluationSettings, splits: Mapping[str, Collection[Any]]
) -> tuple[EvaluationSettings, tuple[str, ...]]:
    """The settings without the further splits in which the data set has no rows, and a note that says so."""
    missing = [name for name in settings.also if not splits.get(name)]
    if not missing:
        return settings, ()
    note = f"evaluation.also={','.join(missing)}: this data set has no rows there, so it is not evaluated there"
    return replace(settings, also=tuple(name for name in settings.also if name not in missing)), (note,)


def pass_name(k: int) -> str:
    """The metric's name, e.g. ``pass@4``."""
    return f"pass@{k}"


def full_name(metric: str, *, split: str, decoding: str, main: str) -> str:
    """One name for what evals.jsonl tells apart by columns: ``quality``, ``quality/greedy``, ``quality/ood``, ...

    The plain name is that of sampled answers on the run's own split ``main``.
    """
    return metric + (f"/{split}" if split != main else "") + (f"/{decoding}" if decoding != "sampled" else "")


def parts_of(settings: EvaluationSettings) -> tuple[tuple[str, str], ...]:
    """``(split, decoding)`` of everything that is evaluated, the headline part first."""
    decodings = DECODINGS if settings.greedy else DECODINGS[:1]
    return tuple((split, decoding) for split in (settings.split, *settings.also) for decoding in decodings)


def names_of(settings: EvaluationSettings, figures: Collection[str] = ()) -> tuple[str, ...]:
    """Every name that this run's evaluations estimate. ``figures`` are the data set's, of all answers together."""
    names = []
    for number_, (split, decoding) in enumerate(parts_of(settings)):
        passes = [pass_name(k) for k in settings.pass_at] if decoding == "sampled" else []
        own = [m for m in METRICS if number_ == 0 or m not in SCORED]
        for metric in (*own, *passes, *figures):
            names.append(full_name(metric, split=split, decoding=decoding, main=settings.split))
    return tuple(names)


def check_objective(
    objective: str,
    *,
    steps: int,
    settings: EvaluationSettings,
    figures: Collection[str] | None = None,
    prefixes: bool | None = None,
) -> None:
    """Refuse an objective that no evaluation of this run will have.

    Args:
        figures: the data set's figures of all answers together; None: not known yet, any name may be one of them.
        prefixes: whether a component scores prefixes of the reasoning; None: not known yet.

    Raises:
        UserError: naming the metrics there are.
    """
    metric = objective.partition("/")[0]
    known = names_of(settings, figures or ())
    if objective not in known and (metric in METRICS or "@" in metric or figures is not None):
        plain = [name for name in known if "/" not in name]
        others = sorted({name.partition("/")[2] for name in known} - {""})
        forms = f" (of other answers: {', '.join(f'METRIC/{other}' for other in others)})" if others else ""
        raise UserError(
            f"objective={objective}: must be one of {', '.join(plain)}{forms}; it names what the run returns to a "
            "sweep; quality is the default"
        )
    if metric in COMPARED and steps == 0:
        raise UserError(
            f"objective={objective} with steps=0: nothing is trained, so there is no policy to compare with"
        )
    if metric == "reflective_share" and settings.samples == 1:
        raise UserError(
            "objective=reflective_share with evaluation.samples=1: it compares the answers to one prompt; "
            "set evaluation.samples to at least 2"
        )
    if metric == "kl" and settings.kl is not True:
        raise UserError(
            f"objective={objective} with evaluation.kl={str(settings.kl).lower()}: it may not be measured; set "
            "evaluation.kl=true"
        )
    off = settings.certainty is False or (settings.certainty == "auto" and prefixes is False)
    if metric in OF_PREFIXES and off:
        why = "" if settings.certainty is False else ", and no component of this run scores prefixes of the reasoning"
        raise UserError(
            f"objective={objective} with evaluation.certainty={str(settings.certainty).lower()}{why}: it is not "
            "measured; set evaluation.certainty=true"
        )
