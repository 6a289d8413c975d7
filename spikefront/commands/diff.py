"""``spikefront diff``."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from spikefront.options import TABLE, command, table_option
from spikefront.output import print_table


@command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@table_option
def diff(first: Path, second: Path, table: str) -> None:
    """Compare two exported configs, layer by layer.

    φ, ρ, neurons, thresholds, biases and weights, the exit, and what was measured.

    \b
    spikefront diff chosen.json other.json
    """  # noqa: D301 - click wants the control character
    from conversion import DeployConfig
    from reports import (
        config_diff_frame,
        config_diff_notes,
        config_diff_table,
        table_text,
    )

    configs = [DeployConfig.read(path) for path in (first, second)]
    one, other = (
        (config, config.read_tensors(path.parent))
        for config, path in zip(configs, (first, second), strict=True)
    )
    found = config_diff_frame(one, other)
    if table != TABLE:
        click.echo(table_text(found, table), nl=False)  # type: ignore[arg-type]  # click checked it
    elif found.empty:
        click.echo("The two configs do not differ.")
    else:
        click.echo(f"{first} → {second}")
        for note in config_diff_notes(found):
            click.echo(f"  {note}")
        if (layers := config_diff_table(found)) is not None:
            print_table(layers)
