"""Golden values of the rewards, from an independent float64 implementation in plain Python.

`python -m tests.golden.make_golden` writes `tests/golden/<reward>.json`; a test computes the values again and compares
them with the file, and the lab's rewards with both. Nothing here imports the lab or torch.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

FOLDER = Path(__file__).parent
LENGTHS = [7, 3, 1, 5]  # reference tokens, EOS not counted
ROLLOUTS = 6


def inputs():
    """Token probabilities ``[prompt][rollout][token]``, EOS last: flat, lively, extreme and constant tokens."""
    rng = random.Random(20250613)
    groups = []
    for number, length in enumerate(LENGTHS):
        base = [rng.choice([0.01, 0.3, 0.6, 0.95]) for _ in range(length + 1)]
        spread = [rng.choice([0.0, 0.02, 0.3]) for _ in range(length + 1)]
        if number == 3:
            spread = [0.0] * (length + 1)  # identical rollouts: no signal
        group = []
        for _ in range(ROLLOUTS):
            draws = [b + s * rng.uniform(-1, 1) for b, s in zip(base, spread, strict=True)]
            group.append([round(min(max(draw, 1e-4), 0.9999), 6) for draw in draws])
        groups.append(group)
    return groups


def r3(group, *, weighting="power", omega=2.0, clip_low=0.05, clip_high=0.85, sigma_on="clipped"):
    tokens = range(len(group[0]))
    clipped = [[min(max(p, clip_low), clip_high) for p in row] for row in group]
    sigma = []
    for j in tokens:
        column = [row[j] for row in (clipped if sigma_on == "clipped" else group)]
        mean = math.fsum(column) / len(column)
        s = math.sqrt(math.fsum((p - mean) ** 2 for p in column) / len(column))
        sigma.append(s if s >= 1e-6 else 0.0)
    if max(sigma) == 0:
        flat = math.fsum(p for row in clipped for p in row) / (len(clipped) * len(tokens))
        return [flat] * len(group), [0.0 for _ in tokens]
    if weighting == "power":
        raw = [s**omega if s > 0 else 0.0 for s in sigma]
    else:
        raw = [math.exp(omega * s) for s in sigma]
    weights = [x / math.fsum(raw) for x in raw]
    return [math.fsum(w * p for w, p in zip(weights, row, strict=True)) for row in clipped], weights


def avg_prob(group):
    return [math.fsum(row) / len(row) for row in group], [1 / len(group[0])] * len(group[0])


def avg_logprob(group):
    return [math.fsum(math.log(p) for p in row) / len(row) for row in group], [1 / len(group[0])] * len(group[0])


def seq_prob(group):
    return [math.prod(row) for row in group], None


REWARDS = {
    "r3": (
        r3,
        [
            {},
            {"omega": 1.0},
            {"omega": 4.0},
            {"omega": 0.0},
            {"weighting": "exp", "omega": 8.0},
            {"sigma_on": "raw"},
            {"clip_low": 0.0, "clip_high": 1.0},
            {"include_eos": True},
        ],
    ),
    "avg_prob": (avg_prob, [{}, {"include_eos": True}]),
    "avg_logprob": (avg_logprob, [{}, {"include_eos": True}]),
    "seq_prob": (seq_prob, [{}, {"include_eos": True}]),
}


def golden(name):
    """What `tests/golden/<name>.json` holds."""
    if name == "verifier":  # the judge's quality, unchanged; null: it could not judge
        quality = [[0.0, 0.25, 1.0], [None, 0.5, None]]
        return {"quality": quality, "cases": [{"arguments": {}, "outcome": quality}]}
    function, variants = REWARDS[name]
    cases = []
    for arguments in variants:
        bound = {key: value for key, value in arguments.items() if key != "include_eos"}
        outcome, weights = [], []
        for group in inputs():
            counted = group if arguments.get("include_eos") else [row[:-1] for row in group]
            values, token_weights = function(counted, **bound)
            outcome.append([float(f"{value:.12g}") for value in values])
            weights.append(token_weights and [float(f"{weight:.12g}") for weight in token_weights])
        cases.append({"arguments": arguments, "outcome": outcome, "weights": weights})
    return {"probabilities": inputs(), "cases": cases}


NAMES = [*REWARDS, "verifier"]

if __name__ == "__main__":
    for name in NAMES:
        (FOLDER / f"{name}.json").write_text(json.dumps(golden(name)).replace('{"arg', '\n{"arg') + "\n")
