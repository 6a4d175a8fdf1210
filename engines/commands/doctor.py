"""`stepcarve doctor`: what is installed, and which engines work."""

from __future__ import annotations

import json

import click

from search.commands import shared


@shared.command("doctor")
@shared.output_options()
def command(as_json: bool) -> None:
    """Say which engines work here, and how to install others."""
    from engines.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings]))
        return
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "ok" if finding.works else "--"
        click.echo(f"{mark}  {finding.name:<{width}}  {finding.detail}")
