"""Which rows fit a policy's context."""

import pytest

from dro_lab.data.fit import fit_rows, render, row_lengths
from dro_lab.errors import UserError
from dro_lab.types import Provenance, RefusedRow, Row, Task
from tests.tiny import TEMPLATES, byte_tokenizer


@pytest.fixture
def tokenizer():
    import copy

    made = copy.deepcopy(byte_tokenizer())
    made.chat_template = TEMPLATES["open"]
    return made


def task_of(*texts: str) -> Task:
    rows = [Row(id=text[:5], prompt=[{"role": "user", "content": text}], reference="the reference") for text in texts]
    return Task(
        name="t",
        provenance=Provenance(dataset="t", kind="file", location="f"),
        splits={"train": rows, "validation": rows[:1], "test": []},
        metric=None,
        metric_name="none",
        answer_marker="Answer: ",
        refused=(RefusedRow(where="before", reason="earlier"),),
    )


def test_the_longest_sequence_is_prompt_completion_closing_marker_reference_and_end(tokenizer):
    task = task_of("short text")
    (length,) = row_lengths(task.splits["train"], tokenizer)
    closing = len(tokenizer("\n</think>\n\nAnswer: ", add_special_tokens=False)["input_ids"])
    needed = length.prompt + 20 + closing + length.reference + 1
    assert length.prompt == len(
        tokenizer.apply_chat_template(task.splits["train"][0].prompt, add_generation_prompt=True)["input_ids"]
    )
    fits = fit_rows(task, tokenizer, context=needed, max_completion=20)
    assert len(fits.splits["train"]) == 1
    assert fits.refused == task.refused
    short = fit_rows(task, tokenizer, context=needed - 1, max_completion=20)
    assert short.splits == {"train": [], "validation": [], "test": []}
    assert short.refused[0] == task.refused[0]
    assert short.refused[1].where == "train row short"
    assert short.refused[1].reason == (
        f"too long: prompt {length.prompt} + completion 20 + closing {closing + 1} + reference {length.reference} = "
        f"{needed} tokens > context {needed - 1}"
    )


def test_only_the_long_rows_leave_and_their_order_stays(tokenizer):
    task = task_of("first one", "second " * 400, "third one")
    fitted = fit_rows(task, tokenizer, context=300, max_completion=20)
    assert [row.id for row in fitted.splits["train"]] == ["first", "third"]
    assert len(fitted.refused) == 2


def test_the_template_gets_its_arguments_and_opens_the_policys_turn(tokenizer):
    tokenizer.chat_template = TEMPLATES["open"] + "{% if mark is defined %}{{ mark }}{% endif %}"
    prompt = [{"role": "user", "content": "x"}]
    assert render(prompt, tokenizer).endswith("assistant\n<think>\n")
    assert render(prompt, tokenizer, chat_template_kwargs={"mark": "MARK"}).endswith("MARK")


def test_a_prompt_that_the_template_refuses_is_one_message(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match=r"(?s)roles system, user: System role not supported.*dataset\.system_prompt"):
        render([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], tokenizer)
