"""What a probe prints: one table, and the recommendation."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from dro_lab.probe import words
from dro_lab.probe.advice import Advice
from dro_lab.probe.findings import Findings


def show(findings: Findings, advice: Advice, console: Console) -> None:
    """Print the rewards, the tokens' line, and the advice with its evidence."""
    columns, rows = words.reward_table(findings)
    table = Table(title="the rewards, the best first", title_justify="left", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)
    for line in words.legend(columns, confidence=findings.setting["settings"]["confidence"]):
        console.print(line, markup=False, highlight=False, style="dim", soft_wrap=True)
    for reward in words.left_out(findings):
        console.print(f"{reward.name}: not computable here: {reward.reason}", markup=False, highlight=False)
    tokens = findings.tokens
    lines = [
        f"quality  {findings.quality.note}",
        f"tokens   {tokens.reflective:.1f} of {tokens.tokens:.1f} reflective ({tokens.source}); "
        f"sigma {tokens.sigma_r:.2f} against {tokens.sigma_n:.3f}; S_R {tokens.s_r:.2f}, S_N {tokens.s_n:.2f}, "
        f"coherence of the rest {tokens.coherence:.1f}",
        f"cost     1,000 rollouts: sampling {words.seconds(findings.cost.sampling_seconds)}, scoring "
        f"{words.seconds(findings.cost.scoring_seconds)}, {findings.cost.completion_tokens:,.0f} tokens",
        "",
        advice.headline,
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for point in advice.points:
        console.print(f"  {point.topic}: {point.text}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"      {point.evidence}", markup=False, highlight=False, style="dim", soft_wrap=True)
