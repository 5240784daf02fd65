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


def masked_inputs():
    """Token probabilities with the reasoning hidden, as `inputs`: nearly the same for a group's rollouts."""
    rng = random.Random(7)
    masked = []
    for group in inputs():
        base = [rng.uniform(0.05, 0.6) for _ in group[0]]
        masked.append([[round(b * rng.uniform(0.98, 1.02), 6) for b in base] for _ in group])
    return masked


WORDS = ["the", "sample", "of", "forty", "two", "readings", "shows", "no", "drift", "after", "recalibration"]


def texts():
    """References and answers ``[prompt]`` and ``[prompt][rollout]``: cut, reordered, repeated, empty, in capitals."""
    rng = random.Random(11)
    references = [" ".join(rng.choices(WORDS, k=n)) for n in (9, 4, 1, 6)]
    answers = []
    for reference in references:
        words = reference.split()
        answers.append(
            [
                reference.upper() + ".",
                "",
                " ".join(words[: max(1, len(words) // 2)]),
                " ".join(rng.sample(words, len(words))),
                " ".join([*words, *rng.choices(WORDS, k=5)]),
                " ".join(rng.choices(WORDS, k=7)),
            ]
        )
    return references, answers


def r3_v1(
    group,
    masked,
    reference,
    answers,
    *,
    weighting="power",
    omega=1.0,
    masked_baseline=True,
    self_influence=False,
    gamma=0.1,
    reflective_share=0.1,
    length_beta=0.0,
):
    tokens, rollouts = range(len(group[0])), range(len(group))
    logs = [[math.log(p) for p in row] for row in group]
    sigma = []
    for j in tokens:
        column = [row[j] for row in logs]
        mean = math.fsum(column) / len(column)
        s = math.sqrt(math.fsum((x - mean) ** 2 for x in column) / len(column))
        sigma.append(s if s >= 1e-5 else 0.0)
    if masked_baseline:
        hidden = [math.fsum(math.log(row[j]) for row in masked) / len(masked) for j in tokens]
        gained = [[row[j] - hidden[j] for j in tokens] for row in logs]
    elif self_influence:
        border = sorted(sigma, reverse=True)[max(1, math.ceil(round(reflective_share * len(sigma), 9))) - 1]
        reflective = [k for k in tokens if sigma[k] >= border and sigma[k] > 0]
        gained = []
        for row in group:
            values = []
            for j in tokens:
                product = row[j]
                for k in reflective:
                    if k < j:
                        product *= row[k] + (1 - row[k]) * (1 - math.exp(-gamma * (j - k)))
                values.append(math.log(product))
            gained.append(values)
    else:
        gained = logs
    if max(sigma) == 0:
        weights = [0.0 for _ in tokens]
        rewards = [math.fsum(x for row in gained for x in row) / (len(gained) * len(sigma))] * len(gained)
    else:
        raw = [s**omega if s > 0 else 0.0 for s in sigma]
        if weighting == "exp":
            raw = [math.exp(omega * s) for s in sigma]
        weights = [x / math.fsum(raw) for x in raw]
        rewards = [math.fsum(w * x for w, x in zip(weights, row, strict=True)) for row in gained]
    if length_beta:
        long = len(reference.split())
        rewards = [rewards[i] + 1 - length_beta * abs(long - len(answers[i].split())) / long for i in rollouts]
    return rewards, weights


def rouge(reference, answer):
    """ROUGE-L F1 by the textbook's table of longest common subsequences; words of a-z and 0-9."""
    a, b = ("".join(c if c.isalnum() else " " for c in text.lower()).split() for text in (reference, answer))
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    common = table[-1][-1]
    return 2 * common / (len(a) + len(b)) if common else 0.0


def z_score(values):
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return [(v - mean) / (std + 1e-4) for v in values]


MIXES = [
    {"weights": {"r3": 1.0, "rouge": 0.1}, "normalise": "none"},
    {"weights": {"r3": 1.0, "rouge": 0.1}, "normalise": "group"},
    {"weights": {"avg_prob": 2.0, "seq_prob": -0.5, "rouge": 0.3}, "normalise": "none"},
]
V1 = [
    {},
    {"masked_baseline": False},
    {"masked_baseline": False, "self_influence": True},
    {"masked_baseline": False, "self_influence": True, "gamma": 0.7, "reflective_share": 0.4},
    {"omega": 2.0, "length_beta": 0.5},
    {"weighting": "exp", "include_eos": True},
]


REPRO = [
    {},
    {"alpha": 0.05, "center": False, "count_correction": True},
    {"w": 0.6, "ema": 0.3},
    {"ema": 0.01},
    {"baseline_floor": 1.0},
]


def prefix_inputs():
    """Log-probabilities ``points[prompt][rollout][point][token]`` and ``baselines[prompt][token]``, ends and quality.

    One point to five, ties, a reference known without reasoning, a reasoning without tokens.
    """
    rng = random.Random(2512)
    points, baselines, ends = [], [], []
    for length, level in ((3, -2.0), (1, -0.02), (5, -0.7)):
        baselines.append([round(level * rng.uniform(0.5, 1.5), 6) for _ in range(length)])
        group, places = [], []
        for g in range(ROLLOUTS):
            row = [[round(level * rng.uniform(0.1, 1.6), 6) for _ in range(length)] for _ in range(1 + g % 5)]
            if g == 3:
                row[2] = row[1]  # a tie
            group.append(row)
            places.append([-1] if g == 0 else sorted(rng.sample(range(8), len(row))))
        points.append(group)
        ends.append(places)
    quality = [[float((p + g) % 2) for g in range(ROLLOUTS)] for p in range(len(points))]
    return {"points": points, "baselines": baselines, "ends": ends, "quality": quality}


def repro(row, baseline, *, w=0.25, ema=None, baseline_floor=0.1, **_):
    """``(process rewards, magnitude and stability at the last point)`` of one rollout."""
    series = [math.fsum(point) / len(point) for point in [baseline, *row]]
    smooth = [series[0]]
    for value in series[1:]:
        smooth.append(value if ema is None else ema * value + (1 - ema) * smooth[-1])
    rewards, before = [], 0.0
    for j in range(1, len(series)):
        size = 1 - math.tanh(series[j] / min(series[0], -baseline_floor))
        pairs = [(a, b) for b in range(j + 1) for a in range(b)]
        order = sum((smooth[b] > smooth[a]) - (smooth[b] < smooth[a]) for a, b in pairs)
        steady = (order / len(pairs) + 1) / 2
        score = (1 - w) * size + w * steady
        rewards.append(score - before)
        before = score
    return rewards, size, steady


def golden_repro(**fixed):
    data = prefix_inputs()
    cases = []
    for arguments in REPRO if not fixed else [fixed, {**fixed, "ema": 0.3}]:
        case = {"arguments": arguments, "outcome": data["quality"], "process": [], "magnitude": [], "stability": []}
        for group, baseline in zip(data["points"], data["baselines"], strict=True):
            found = [repro(row, baseline, **arguments) for row in group]
            case["process"].append([rounded(rewards) for rewards, _, _ in found])
            case["magnitude"].append(rounded(size for _, size, _ in found))
            case["stability"].append(rounded(steady for _, _, steady in found))
        cases.append(case)
    return {**data, "cases": cases}


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
    if name in TEXTS | PREFIXES:
        return (TEXTS | PREFIXES)[name]()
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


def rounded(values):
    return [float(f"{value:.12g}") for value in values]


def golden_rouge():
    references, answers = texts()
    outcome = [rounded([rouge(r, a) for a in group]) for r, group in zip(references, answers, strict=True)]
    return {"references": references, "answers": answers, "cases": [{"arguments": {}, "outcome": outcome}]}


def golden_r3_v1():
    references, answers = texts()
    cases = []
    for arguments in V1:
        bound = {key: value for key, value in arguments.items() if key != "include_eos"}
        eos = arguments.get("include_eos", False)
        outcome, weights = [], []
        for group, masked, *text in zip(inputs(), masked_inputs(), references, answers, strict=True):
            counted, hidden = ([row if eos else row[:-1] for row in rows] for rows in (group, masked))
            values, token_weights = r3_v1(counted, hidden, *text, **bound)
            outcome.append(rounded(values))
            weights.append(rounded(token_weights))
        cases.append({"arguments": arguments, "outcome": outcome, "weights": weights})
    return {
        "references": references,
        "answers": answers,
        "probabilities": inputs(),
        "masked": masked_inputs(),
        "cases": cases,
    }


def golden_mix():
    references, answers = texts()
    cases = []
    for arguments in MIXES:
        outcome = []
        for p, group in enumerate(inputs()):
            total = [0.0] * len(group)
            for name, weight in arguments["weights"].items():
                if name == "rouge":
                    values = [rouge(references[p], answer) for answer in answers[p]]
                else:
                    values, _ = REWARDS[name][0]([row[:-1] for row in group])
                if arguments["normalise"] == "group":
                    values = z_score(values)
                total = [t + weight * v for t, v in zip(total, values, strict=True)]
            outcome.append(rounded(total))
        cases.append({"arguments": arguments, "outcome": outcome})
    return {"references": references, "answers": answers, "probabilities": inputs(), "cases": cases}


TEXTS = {"rouge": golden_rouge, "r3_v1": golden_r3_v1, "mix": golden_mix}
"""Rewards that read more than the reference's token probabilities."""

PREFIXES = {
    "repro": golden_repro,
    "repro_magnitude": lambda: golden_repro(w=0.0),
    "repro_stability": lambda: golden_repro(w=1.0),
}
"""Rewards that read the reference after prefixes of the reasoning."""

NAMES = [*REWARDS, "verifier", *TEXTS, *PREFIXES]

if __name__ == "__main__":
    for name in NAMES:
        (FOLDER / f"{name}.json").write_text(json.dumps(golden(name)).replace('{"arg', '\n{"arg') + "\n")
