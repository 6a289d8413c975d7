"""A burst, and how a dual-threshold neuron takes back what it fired too much."""

import matplotlib.pyplot as plt
import torch

from conversion import AdaFire, DualThreshold

INPUTS = torch.tensor([2.4, -1.7, 0.2, 0.1, 0.1, 0.1])
STEPS = range(1, len(INPUTS) + 1)

figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
for axes, (title, kind) in zip(
    panels, {"AdaFire, φ = 3": AdaFire, "dual-threshold, φ = 3": DualThreshold}.items(), strict=True
):
    neuron = kind(threshold=torch.ones(1), phi=3, bias=torch.zeros(1), v_init=torch.tensor(0.5))
    state = neuron.start(torch.zeros(1, 1))
    potentials, counts = [float(state.membrane)], []
    for x in INPUTS:
        counts.append(int(neuron.fire(x.view(1, 1), state, 1)))
        potentials.append(float(state.membrane))
    before = [v + float(x) for v, x in zip(potentials, INPUTS, strict=False)]
    axes.vlines(STEPS, potentials[1:], before, color="#1f77b4", linewidth=1, linestyle=":")
    axes.plot(STEPS, before, "o", color="#1f77b4", label="potential before firing, v + x")
    axes.plot(STEPS, potentials[1:], "o", mfc="white", color="#1f77b4", label="and after")
    axes.axhline(1, color="#888888", linewidth=1)
    for step, count in zip(STEPS, counts, strict=True):
        axes.text(step, 3.25, f"{count:+d}" if count else "0", ha="center", fontsize=11)
    mean = sum(counts) / len(counts)
    axes.set_title(
        f"{title}\nmean output {mean:.2f}, mean input {float(INPUTS.mean()):.2f}", fontsize=10
    )
    axes.set_xlabel("step; above: spikes of the step")
    axes.set_ylim(-1.6, 3.8)
panels[0].set_ylabel("potential, thresholds V")
panels[0].legend(loc=(0.42, 0.57), fontsize=8)
