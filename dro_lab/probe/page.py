"""The probe's page: one self-contained HTML file in the style of the report. Model text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import dro_lab.report
from dro_lab.probe import words
from dro_lab.probe.advice import Advice
from dro_lab.probe.figures import rules_of
from dro_lab.probe.findings import Findings
from dro_lab.report.content import visible
from dro_lab.report.figures import Curve
from dro_lab.report.page import content_security_policy, embedded

REPORT = Path(dro_lab.report.__file__).parent
OWN_STYLE = """\
.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
.tight td, .tight th { font-size: .84rem; padding-right: 9px; }
.wide.tight td:first-child { min-width: 130px; }
"""


def render(findings: Findings, advice: Advice, drawn: Sequence[Curve]) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, REPORT]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        two=words.two, percent=words.percent, seconds=words.seconds, visible=visible, embedded=embedded
    )
    rules = "".join(f"{selector}{{{rule}}}\n" for selector, rule in sorted(rules_of(drawn).items()))
    style = environment.get_template("style.css.j2").render() + OWN_STYLE + rules
    columns, rows = words.reward_table(findings)
    omega_columns, omega_rows = words.omega_table(findings)
    return environment.get_template("probe.html.j2").render(
        policy=content_security_policy(style=style, script=""),
        style=Markup(style),
        script="",
        data={},
        findings=findings,
        advice=advice,
        curves=[{"svg": Markup(curve.svg), "caption": curve.caption} for curve in drawn],
        columns=columns,
        rows=rows,
        omega_columns=omega_columns,
        omega_rows=omega_rows,
        tokens=words.token_lines(findings),
        costs=words.cost_lines(findings),
        left_out=words.left_out(findings),
        level=f"{findings.setting['settings']['confidence']:.0%}",
    )
