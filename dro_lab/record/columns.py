"""The columns of the record's tables ``rollouts``, ``answers`` and ``tokens.parquet``: what a row holds.

`README.md` beside this file gives each column's meaning and unit.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 3
"""Version of the whole record; raised whenever a reader of the old one would misread the new one."""

ROLLOUTS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("rollout", pa.int64(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("reference", pa.string()),
        pa.field("reward", pa.float64()),
        pa.field("parts", pa.string()),
        pa.field("advantage", pa.float64()),
        pa.field("reasoning_tokens", pa.int64()),
        pa.field("answer_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("truncated", pa.bool_()),
        pa.field("malformed", pa.bool_()),
        pa.field("kept", pa.bool_()),
        pa.field("reason", pa.string()),
        pa.field("verdicts", pa.string()),
        pa.field("quality", pa.float64()),
    ]
)

ANSWERS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("decoding", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample", pa.int64(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("reference", pa.string()),
        pa.field("quality", pa.float64()),
        pa.field("reasoning_tokens", pa.int64()),
        pa.field("answer_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("truncated", pa.bool_()),
        pa.field("malformed", pa.bool_()),
        pa.field("row_win_rate", pa.float64()),
        pa.field("row_order_disagreement", pa.float64()),
    ]
)

TOKENS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("token", pa.string()),
        pa.field("char_start", pa.int64()),
        pa.field("char_end", pa.int64()),
        pa.field("sigma", pa.float64()),
        pa.field("weight", pa.float64()),
        pa.field("mean_prob", pa.float64()),
        pa.field("truth", pa.bool_()),
    ]
)
