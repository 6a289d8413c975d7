"""The tables that the command line prints, as rich tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from conversion import PARTS, LayerDiagnosis, Profile, SpikingModel
from evaluators import AnnReference, Estimate, Measurement
from reports._front import FrontPoint, ParetoFront, knee
from reports._tables import metric_column
from search import ParetoDP, Sensitivity, StudyStatus
from spaces import names

_MARKS = {
    "uniform": ("u", "uniform φ and ρ"),
    "pareto_dp": ("p", "the paper's search"),
    "learned": ("l", "uniform φ and ρ, one lineage at rising prices"),
}
"""Of baselines: a letter, and what it means."""


def front_table(front: ParetoFront) -> Table:
    """The front on every split that was measured, the ANN below it."""
    best = knee(front.points).trial
    last = list(front.ann)[-1]
    shown = {point.baseline for point in front.points}
    notes = [f"   {mark} baseline: {what}" for k, (mark, what) in _MARKS.items() if k in shown]
    limits = [f"within the budget: {front.budget}\n"] if front.budget else []
    table = Table(
        title=f"{front.study}: {len(front.points)} points on the front of {front.passes} trials"
        f" and {len(front.trials) - front.passes} additional exits of the same passes",
        caption="".join(limits)
        + f"lost: points of {front.metric} against the ANN on the same samples, 95 % interval;"
        f" ≤: at most, with {front.confidence:.0%} confidence and allowing for the choice of the"
        " best\n"
        f"energy: share of the ANN's by {front.energy_model.name}; /int8: of the same ANN's in"
        f" int8 ({last} split);"
        " +n: learned on from n segments\n" + "".join(["* the knee of the front", *notes]),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("trial", justify="right", no_wrap=True)
    for split in front.ann:
        for column in (split, "lost", "energy"):
            table.add_column(column, justify="right", no_wrap=True)
    for column in ("≤", "/int8", "steps", "T", "exit"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("neuron, calibration", no_wrap=True)
    for point in front.points:
        mark = _MARKS[point.baseline][0] if point.baseline in _MARKS else ""
        sign = ("*" if point.trial == best else "") + mark
        cells = [cell for split in front.ann for cell in _cells(getattr(point, split))]
        m: Measurement = getattr(point, last)
        bound = point.promise.bound(front.confidence) if point.promise else None
        table.add_row(
            f"{sign} {point.trial}".strip(),
            *cells,
            "" if bound is None else f"{100 * bound:.1f}",
            f"{m.energy_ratio_int8:.0%}",
            f"{m.timesteps.value:.2f}",
            str(point.params[names.TIMESTEPS]),
            f"{point.params[names.ALPHA]:.2f}",
            point.how,
        )
    table.add_section()
    reference: list[str] = []
    for ann in front.ann.values():
        reference += [f"{ann.accuracy.value:.2%}", "", "100.0%"]
    int8 = front.ann[last].energy_pj / front.ann[last].energy_int8_pj
    table.add_row("ANN", *reference, "", f"{int8:.0%}", "", "", "", "")
    return table


def status_table(status: StudyStatus, front: Sequence[FrontPoint]) -> Table:
    """How a study is getting on, its workers and its front so far."""
    table = Table.grid(padding=(0, 0, 1, 0))
    table.add_row("\n".join(_progress_lines(status, len(front))))
    if status.workers:
        table.add_row(_workers_table(status))
    if front:
        table.add_row(_short_front(front))
    return table


def _progress_lines(status: StudyStatus, points: int) -> list[str]:
    planned = f" of {status.planned}" if status.planned else ""
    rate = f", {status.per_hour:,.0f} an hour" if status.per_hour else ""
    left = f", {_duration(status.seconds_left)} left" if status.seconds_left else ""
    states = ", ".join(f"{n} {state.lower()}" for state, n in sorted(status.states.items()))
    return [
        f"{status.name}: {status.run}{planned} trials run{rate}{left}",
        f"{states or 'no trials'} ({status.exits} are additional exits); {points} points on the"
        " front",
        *(f"failed: {reason}" for reason in status.reasons),
    ]


def _workers_table(status: StudyStatus) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(f"worker ({len(status.workers)} have a trial running)", overflow="fold")
    for column in ("trial", "for", "last sign of life"):
        table.add_column(column, justify="right", no_wrap=True)
    for worker in status.workers:
        numbers = ", ".join(map(str, worker.trials))
        ago = f"{_duration(worker.silent)} ago"
        table.add_row(worker.name, numbers, _duration(worker.seconds), ago)
    return table


def _short_front(front: Sequence[FrontPoint]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("trial", front[0].search.metric, "lost, points", "energy / ANN", "steps", "KL"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("neuron, calibration", no_wrap=True)
    for point in front:
        m = point.search
        more = (f"{m.timesteps.value:.2f}", f"{m.kl.value:.3f}", point.how)
        table.add_row(str(point.trial), *_cells(m), *more)
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def measurement_table(m: Measurement, ann: AnnReference) -> Table:
    """One measurement with its intervals, the ANN beside it."""
    title = f"{m.split} split, n = {m.n}, energy model {m.energy_model}"
    table = Table("", title=title)
    for column in ("value", "95 % interval", "ANN"):
        table.add_column(column, justify="right")

    def row(name: str, estimate: Estimate, form: str, reference: str = "") -> None:
        low, high = format(estimate.low, form), format(estimate.high, form)
        table.add_row(name, format(estimate.value, form), f"{low} – {high}", reference)

    row(m.metric, m.accuracy, ".2%", f"{ann.accuracy.value:.2%}")
    if m.drop is not None:
        low, high = (f"{end:+.2%}" for end in m.drop.interval())
        table.add_row("lost against the ANN", f"{m.drop.mean:+.2%}", f"{low} – {high}", "")
    row("energy, pJ", m.energy_pj, ",.0f", f"{ann.energy_pj:,.0f}")
    table.add_row("energy / ANN", f"{m.energy_ratio:.2%}", "", "100.00%")
    int8 = ann.energy_pj / ann.energy_int8_pj
    table.add_row("energy / int8 ANN", f"{m.energy_ratio_int8:.0%}", "", f"{int8:.0%}")
    row("spikes", m.spikes, ",.0f")
    row("timesteps", m.timesteps, ".3f")
    row("divergence from the ANN", m.kl, ".5f")
    return table


def layer_rows(profile: Profile) -> list[dict[str, Any]]:
    """What the calibration data showed of each spiking layer, as JSON-able values."""
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
    """What kind of error each layer makes; the largest of each column marked."""
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


def paper_rows(front: Sequence[ParetoDP], measured: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Points of the paper's search: what it chose, what its sums predict, what is measured."""
    return [
        {
            "phi": dict(choice.phi),
            "rho": dict(choice.rho),
            "predicted_energy_ratio": choice.energy,
            "predicted_kl": choice.divergence,
            "energy_ratio": m.energy_ratio,
            "kl": m.kl.value,
            metric_column(m): m.accuracy.value,
            f"{metric_column(m)}_low": m.accuracy.low,
            f"{metric_column(m)}_high": m.accuracy.high,
        }
        for choice, m in zip(front, measured, strict=True)
    ]


def paper_table(
    front: Sequence[ParetoDP], measured: Sequence[Measurement], ann: AnnReference
) -> Table:
    """Points of the paper's search, as predicted and as measured."""
    table = Table(
        title=f"the paper's search: points by its sums, n = {ann.n} of the {ann.split} split",
        caption="predicted: on the calibration inputs, as if single layers' effects added up; that"
        " may be less than nothing, where a change did no harm",
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False,
    )  # fmt: skip
    metric = measured[0].metric if measured else "accuracy"
    columns = ("mean φ", "mean ρ", metric, "lost", "energy", "predicted", "KL", "predicted KL")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for choice, m in zip(front, measured, strict=True):
        phi = sum(choice.phi.values()) / len(choice.phi)
        rho = sum(choice.rho.values()) / len(choice.rho)
        table.add_row(
            f"{phi:.1f}", f"{rho:.2f}", *_cells(m),
            f"{choice.energy:.1%}", f"{m.kl.value:.4f}", f"{choice.divergence:.4f}",
        )  # fmt: skip
    table.add_section()
    table.add_row("ANN", "", f"{ann.accuracy.value:.2%}", "", "100.0%")
    return table


def model_table(model: SpikingModel) -> Table:
    """The layers of a spiking model."""
    table = Table("layer", "φ", "ρ", "θ, mean", "bias, mean", title=f"T = {model.config.timesteps}")
    for name, layer in model.config.layers.items():
        theta, bias = float(model.thetas[name].mean()), float(model.biases[name].mean())
        table.add_row(name, str(layer.phi), f"{layer.rho:g}", f"{theta:.4g}", f"{bias:+.4g}")
    return table


def _cells(m: Measurement) -> list[str]:
    return [f"{m.accuracy.value:.2%}", _lost(m), f"{m.energy_ratio:.1%}"]


def _lost(m: Measurement) -> str:
    """Points lost against the ANN, and their 95 % interval."""
    if m.drop is None:
        return "?"
    low, high = m.drop.interval()
    return f"{100 * m.drop.mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"
