"""One measurement."""

from __future__ import annotations

from rich.table import Table

from evaluators import AnnReference, Estimate, Measurement


def measurement_table(m: Measurement, ann: AnnReference) -> Table:
    """One measurement with its intervals, the ANN beside it."""
    title = f"{m.split} split, n = {m.n}, energy model {m.energy_model}"
    table = Table("", title=title)
    for column in ("value", "95 % interval", "ANN"):
        table.add_column(column, justify="right")

    def row(name: str, estimate: Estimate, form: str, reference: str = "") -> None:
        low, high = format(max(estimate.low, 0.0), form), format(estimate.high, form)
        table.add_row(name, format(estimate.value, form), f"{low} – {high}", reference)

    row(m.metric, m.accuracy, ".2%", f"{ann.accuracy.value:.2%}")
    if m.drop is not None:
        low, high = (f"{100 * end:+.2f}" for end in m.drop.interval())
        table.add_row("points lost", f"{100 * m.drop.mean:+.2f}", f"{low} – {high}", "")
    row("energy, pJ", m.energy_pj, ",.0f", f"{ann.energy_pj:,.0f}")
    table.add_row("energy / ANN", f"{m.energy_ratio:.2%}", "", "100.00%")
    int8 = ann.energy_pj / ann.energy_int8_pj
    table.add_row("energy / int8 ANN", f"{m.energy_ratio_int8:.0%}", "", f"{int8:.0%}")
    row("spikes", m.spikes, ",.0f")
    row("timesteps", m.timesteps, ".3f")
    row("divergence from the ANN", m.kl, ".5f")
    return table
