"""Layers of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from conversion import PARTS, LayerDiagnosis, Profile, SpikingModel
from search import Sensitivity


def layer_rows(profile: Profile) -> list[dict[str, Any]]:
    """Statistics of each spiking layer on the calibration data, as JSON-serialisable values."""
    return [
        {
            "layer": layer.name,
            "shape": list(layer.shape),
            "neurons": layer.neurons,
            "active": layer.active,
            "fan_out": float(layer.fan_out.mean()),
            "largest": float(layer.largest.max()),
        }
        for layer in profile.layers.values()
    ]


def profile_table(profile: Profile) -> Table:
    """The spiking layers of a profiled network."""
    costs = profile.costs
    currents = ", ".join(f"{node} {macs:,}" for node, macs in costs.analog_macs.items())
    analog = ", ".join(profile.network.analog_nodes)
    table = Table(
        "layer", title=f"{len(profile.layers)} spiking layers", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0), show_edge=False,
        caption=f"MACs: ANN {costs.ann_macs:,} ({costs.ann_macs + costs.padding_macs:,} with those"
        f" on padding zeros); analog stem {costs.stem_macs:,}, once; on currents"
        f" {costs.step_macs:,}, every step ({currents or 'none'}). Neither linear nor ReLU:"
        f" {analog or 'none'}",
    )  # fmt: skip
    for column in ("shape", "neurons", "active", "mean fan-out", "largest activation"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in layer_rows(profile):
        table.add_row(
            row["layer"],
            "×".join(map(str, row["shape"])),
            f"{row['neurons']:,}",
            f"{row['active']:.0%}",
            f"{row['fan_out']:,.1f}",
            f"{row['largest']:.3g}",
        )
    return table


def diagnosis_table(diagnoses: Sequence[LayerDiagnosis]) -> Table:
    """Errors of each layer by kind; the largest of each column is marked."""
    columns = (*PARTS, "total")
    table = Table(
        "layer", title="error over the ANN's activations, root mean squares", box=box.SIMPLE_HEAD,
        caption="* the largest of its column; inherited: from the layers before",
        padding=(0, 1, 0, 0), show_edge=False,
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    worst = {column: max(getattr(d, column) for d in diagnoses) for column in columns}
    for d in diagnoses:
        marks = ("*" if getattr(d, column) == worst[column] > 0 else " " for column in columns)
        cells = (f"{getattr(d, column):.1%}" for column in columns)
        table.add_row(d.layer, *map("".join, zip(cells, marks, strict=True)))
    return table


def sensitivity_table(found: Sensitivity) -> Table:
    """Divergence at the last step when one layer's φ or ρ changes, and the energy of each layer."""
    most = max(found.phis)
    table = Table(
        "layer",
        title="divergence from the ANN in 1e-3 nats when one layer changes,"
        f" T = {found.base.timesteps}",
        caption=f"φ = {most} and ρ = 1 everywhere: {1e3 * found.divergence[-1]:.2f}; what is near"
        f" that is noise of {len(found.layers)} other layers. Own energy: of this layer's spikes"
        " there, share of the ANN's",
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False,
    )  # fmt: skip
    columns = [f"φ={phi}" for phi in found.phis if phi != most]
    columns += [f"ρ={rho:g}" for rho in found.rhos if rho != 1]
    for column in (*columns, "own energy"):
        table.add_column(column, justify="right", no_wrap=True)
    for i, layer in enumerate(found.layers):
        losses = [x for x, phi in zip(found.phi_divergence[i, :, -1], found.phis, strict=True)
                  if phi != most]  # fmt: skip
        losses += [x for x, rho in zip(found.rho_divergence[i, :, -1], found.rhos, strict=True)
                   if rho != 1]  # fmt: skip
        cells = (f"{1e3 * loss:.2f}" for loss in losses)
        table.add_row(layer, *cells, f"{found.layer_energy[i, -1]:.1%}")
    return table


def model_table(model: SpikingModel) -> Table:
    """The layers of a spiking model."""
    table = Table("layer", "φ", "ρ", "θ, mean", "bias, mean", title=f"T = {model.config.timesteps}")
    for name, layer in model.config.layers.items():
        theta, bias = float(model.thetas[name].mean()), float(model.biases[name].mean())
        table.add_row(name, str(layer.phi), f"{layer.rho:g}", f"{theta:.4g}", f"{bias:+.4g}")
    return table
