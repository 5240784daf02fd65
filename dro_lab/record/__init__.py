"""The record of a run: what training writes and everything else reads. See ``README.md`` in this folder."""

from dro_lab.record.columns import SCHEMA_VERSION
from dro_lab.record.summary import Alarm, Comparison, Estimate, Summary
from dro_lab.record.writer import RunRecord

__all__ = ["SCHEMA_VERSION", "Alarm", "Comparison", "Estimate", "RunRecord", "Summary"]
