"""What a data set holds, as the policy will see it: counts, provenance, rubrics, the first row, lengths, refusals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from dro_lab.data.fit import Lengths, fit_rows, render, row_lengths
from dro_lab.data.rows import summarise
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import RefusedRow, Row, Task

SHOWN_PER_REASON = 20
THOUSANDS = 1000


def inspect_task(
    task: Task,
    tokenizer: Any,
    *,
    model: str,
    context: int,
    max_completion: int,
    closing: str,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything there is to say about a task under a policy, as plain values ready for JSON.

    Token lengths are those of all rows that the loader accepted, before the ones that exceed the context are refused.
    The first row is the first that a run would use. ``closing`` is what stands between reasoning and answer marker.
    """
    rows = [row for split in task.splits.values() for row in split]
    lengths = row_lengths(rows, tokenizer, chat_template_kwargs=chat_template_kwargs)
    fitted = fit_rows(
        task,
        tokenizer,
        context=context,
        max_completion=max_completion,
        chat_template_kwargs=chat_template_kwargs,
        closing=closing,
    )
    first = next(((split, row) for split, split_rows in fitted.splits.items() for row in split_rows), None)
    provenance = task.provenance
    return {
        "dataset": task.name,
        "provenance": {
            "text": str(provenance),
            "kind": provenance.kind,
            "location": provenance.location,
            "revision": provenance.revision,
            "sha256": provenance.sha256,
        },
        "metric": task.metric_name,
        "answer_marker": task.answer_marker,
        "notes": list(fitted.notes),
        "model": model,
        "context": context,
        "max_completion": max_completion,
        "corpus_metric": fitted.corpus_metric is not None,
        "checked_by": _checked_by(fitted),
        "rows": {split: len(split_rows) for split, split_rows in fitted.splits.items()},
        "refused_rows": len(fitted.refused),
        "rubrics": {split: _rubrics(split_rows) for split, split_rows in fitted.splits.items()},
        "tokens": _lengths(lengths),
        "first": first
        and {
            "split": first[0],
            "id": first[1].id,
            "prompt": render(first[1].prompt, tokenizer, chat_template_kwargs=chat_template_kwargs),
            "reference": first[1].reference,
            "rubric": [
                {"text": check.text, "weight": check.weight, "expect": check.expect}
                for check in checks_of(first[1].columns)
            ],
        },
        "refused_by_reason": summarise(fitted.refused),
        "refused": [{"where": row.where, "reason": row.reason} for row in fitted.refused],
    }


def print_json(seen: Mapping[str, Any], stream: TextIO) -> None:
    """One JSON document with every refused row."""
    print(json.dumps(seen, ensure_ascii=False, indent=2), file=stream)


def print_tables(seen: Mapping[str, Any], stream: TextIO) -> None:
    """The same for people: tables on a terminal, bare columns when piped."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream, highlight=False, markup=False)
    plain = not console.is_terminal
    if plain:
        console = Console(file=stream, highlight=False, markup=False, width=10_000)

    def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        made = Table(*columns, box=None if plain else box.SIMPLE, pad_edge=False)
        for row in rows:
            made.add_row(*map(str, row))
        console.print(f"\n{title}")
        console.print(made)

    def text(title: str, body: str) -> None:
        console.print(f"\n{title}")
        console.print(body, soft_wrap=True)

    source = seen["provenance"]
    console.print(f"data      {source['text']}", soft_wrap=True)
    if source["revision"]:
        console.print(f"revision  {source['revision']}", soft_wrap=True)
    if source["sha256"]:
        console.print(f"sha256    {source['sha256']}", soft_wrap=True)
    console.print(f"metric    {seen['metric']}")
    console.print(f"policy    {seen['model']}: context {seen['context']}, completion {seen['max_completion']} tokens")
    for note in seen["notes"]:
        console.print(f"note      {note}", soft_wrap=True)
    table("Rows", ["split", "rows"], [*seen["rows"].items(), ("refused", seen["refused_rows"])])
    if any(part["rows"] for part in seen["rubrics"].values()):
        columns = {"rows": "rows with one", "without": "without", "checks_mean": "checks a row", "pitfalls": "pitfalls"}
        rubrics = [(split, *(part[key] for key in columns)) for split, part in seen["rubrics"].items()]
        table(f"Rubrics (decided by {seen['checked_by']})", ["split", *columns.values()], rubrics)
    if seen["tokens"]:
        keys = ("min", "median", "max")
        lengths = [(name, *(part[key] for key in keys)) for name, part in seen["tokens"].items()]
        table("Tokens", ["of the", *keys], lengths)
    if seen["first"]:
        first = seen["first"]
        text(f"First row ({first['split']}, id {first['id']}), the prompt as the policy sees it", first["prompt"])
        text("Its reference", first["reference"])
        if first["rubric"]:
            checks = [(check["expect"], f"{check['weight']:g}", check["text"]) for check in first["rubric"]]
            table("Its rubric", ["a good answer gets", "weight", "check"], checks)
    if seen["refused"]:
        table("Refused", ["rows", "reason"], [(n, reason) for reason, n in seen["refused_by_reason"].items()])
        shown, hidden = _shown([RefusedRow(**row) for row in seen["refused"]])
        table("Refused rows", ["where", "reason"], [(row.where, row.reason) for row in shown])
        if hidden:
            console.print(f"and {hidden} more (of {seen['refused_rows']}); --json lists all")


def _checked_by(task: Task) -> str:
    """Who can answer the rubric's checks."""
    return "the data set's program (judge=exact)" if task.check_program else "a judge (judge=openai or judge=policy)"


def _rubrics(rows: Sequence[Row]) -> dict[str, float]:
    """How many rows carry a rubric, the mean number of its checks, and how many checks are pitfalls in all."""
    rubrics = [checks for row in rows if (checks := checks_of(row.columns))]
    return {
        "rows": len(rubrics),
        "without": len(rows) - len(rubrics),
        "checks_mean": round(statistics.fmean(map(len, rubrics)), 2) if rubrics else 0.0,
        "pitfalls": sum(check.weight < 0 for checks in rubrics for check in checks),
    }


def _lengths(lengths: Sequence[Lengths]) -> dict[str, dict[str, float]]:
    if not lengths:
        return {}
    series = {"prompt": [item.prompt for item in lengths], "reference": [item.reference for item in lengths]}
    return {
        name: {"min": min(values), "median": statistics.median(values), "max": max(values)}
        for name, values in series.items()
    }


def _shown(refused: Sequence[RefusedRow]) -> tuple[list[RefusedRow], int]:
    """All refused rows, or where there are thousands the first 20 of each reason; and how many are left out."""
    if len(refused) < THOUSANDS:
        return list(refused), 0
    shown: list[RefusedRow] = []
    count: dict[str, int] = {}
    for row in refused:
        kind = next(iter(summarise([row])))
        count[kind] = count.get(kind, 0) + 1
        if count[kind] <= SHOWN_PER_REASON:
            shown.append(row)
    return shown, len(refused) - len(shown)
