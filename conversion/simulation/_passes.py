"""Node-by-node execution of a network: as the ANN, and as a spiking network over many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from conversion.graph._network import Network, Timing
from conversion.graph._roles import Role
from conversion.neurons._adafire import AdaFire, NeuronState

SpikeHook = Callable[[str, Tensor, int], None]
"""Called with (source node, spike counts ``(steps·N, C, ...)``, steps); the counts are reused."""


def laid_out(x: Tensor) -> Tensor:
    """Contiguous; images channels last, which is measured 2 to 3 times faster on a CPU."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def running_mean(outputs: Tensor, steps: int) -> Tensor:
    """``(T·N, classes)`` outputs to ``(T, N, classes)`` means of the steps so far."""
    per_step = outputs.view(steps, -1, *outputs.shape[1:])
    count = torch.arange(1, steps + 1, device=outputs.device, dtype=outputs.dtype)
    return per_step.cumsum(0) / count.view(-1, *[1] * (per_step.dim() - 1))


def summable(x: Tensor) -> Tensor:
    """``x`` in a precision in which many steps can be added up: half precision is not one."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class AnalogPass(fx.Interpreter):
    """Runs the ANN and shows every ReLU-like activation to ``observe(layer name, activation)``.

    Activations are shown as ``(N, C, ...)``.
    """

    def __init__(self, network: Network, observe: Callable[[str, Tensor], None]) -> None:
        super().__init__(network.module)
        self.extra_traceback = False
        self._sites = {site.node: site for site in network.sites.values()}
        self._observe = observe

    def run_node(self, n: fx.Node) -> Any:
        """Execute one node (the hook of ``fx.Interpreter``)."""
        value = super().run_node(n)
        if site := self._sites.get(n.name):
            self._observe(site.name, value.movedim(site.channels, 1))
        return value


@dataclass
class _Accumulated:
    """State of a cumulative-difference node: Σx per input, and t·f(x̄_t) of the last step."""

    totals: list[Tensor]
    previous: Tensor | None = None
    step: int = 0


@dataclass
class PassState:
    """Everything a spiking pass carries from one step to the next, for a batch of samples.

    Attributes:
        samples: Number of samples still in the batch.
        static: Values that depend on the sample but not on the step, by node.
        constant: Values that depend on neither, by node.
        neurons: Neuron states by node.
        accumulated: Cumulative-difference states by node.
    """

    samples: int
    static: dict[fx.Node, Any] = field(default_factory=dict)
    constant: dict[fx.Node, Any] = field(default_factory=dict)
    neurons: dict[str, NeuronState] = field(default_factory=dict)
    accumulated: dict[str, _Accumulated] = field(default_factory=dict)

    def keep(self, index: Tensor) -> None:
        """Forget every sample that is not in ``index`` (1-d, positions in the current batch)."""
        for node, value in self.static.items():
            if isinstance(value, Tensor):
                self.static[node] = value[index]
        for neuron in self.neurons.values():
            neuron.keep(index)
        for item in self.accumulated.values():
            item.totals = [total[index] for total in item.totals]
            item.previous = None if item.previous is None else item.previous[index]
        self.samples = len(index)


class SpikingPass(fx.Interpreter):
    """Runs the network's spiking version, several steps at a time, layer by layer.

    The steps are folded into the batch, step outermost: every tensor after the first spiking
    layer is ``(steps·N, ...)``. What comes before it is computed once per sample.

    Args:
        network: The traced network.
        neurons: Neuron layers by spiking layer name.
        on_spikes: Called with the spikes of each spiking layer and max-pool.
        tune: Called before a layer's spikes are used, with (layer name, current, steps); it may
            change the neuron layer (calibration).
    """

    def __init__(
        self,
        network: Network,
        neurons: dict[str, AdaFire],
        *,
        on_spikes: SpikeHook | None = None,
        tune: Callable[[str, Tensor, int], None] | None = None,
    ) -> None:
        # Indices and booleans are worked out late, from values that may seem to be used up.
        super().__init__(network.module, garbage_collect_values=not network.discrete)
        self.extra_traceback = False
        self._network = network
        self._sites = {site.node: site for site in network.sites.values()}
        self._neurons = neurons
        self._on_spikes = on_spikes
        self._tune = tune
        self._static_graph = [
            node
            for node in network.module.graph.nodes
            if node.op != "output" and network.timing[node.name] is not Timing.TEMPORAL
        ]

    def start(self, x: Tensor) -> PassState:
        """Compute what does not change over time, for inputs ``x``, ``(N, ...)``."""
        state = PassState(samples=len(x))
        self.env: dict[fx.Node, Any] = {}
        self.args_iter = iter([x])
        for node in self._static_graph:
            self.env[node] = super().run_node(node)
        timing = self._network.timing
        for node in self._static_graph:
            if any(u.op == "output" or timing[u.name] is Timing.TEMPORAL for u in node.users):
                kept = state.static if timing[node.name] is Timing.STATIC else state.constant
                kept[node] = self.env[node]
        return state

    def advance(self, state: PassState, steps: int) -> Tensor:
        """Run ``steps`` more steps; returns the network's output, ``(steps·N, C)``."""
        done: dict[fx.Node, Any] = dict.fromkeys(self._static_graph)
        return self._finish({**done, **state.constant, **state.static}, state, steps)

    def resume(self, known: dict[fx.Node, Any], samples: int, steps: int) -> Tensor:
        """Run the first ``steps`` steps of the nodes that are not in ``known``; as ``advance``.

        Nodes that are done and needed no more may be known as None.
        """
        return self._finish(known, PassState(samples=samples), steps)

    def _finish(self, known: dict[fx.Node, Any], state: PassState, steps: int) -> Tensor:
        self._state = state
        self._steps = steps
        output: Tensor = self.run(initial_env=known, enable_io_processing=False)
        if len(output) == steps * state.samples:
            return output
        return output.repeat(steps, *[1] * (output.dim() - 1))  # nothing in the network spikes

    def run_node(self, n: fx.Node) -> Any:
        """Execute one node (the hook of ``fx.Interpreter``)."""
        if n.op == "output" or self._network.timing[n.name] is not Timing.TEMPORAL:
            return super().run_node(n)
        if n.name in self._network.discrete:
            return None  # who needs it works it out from means
        role = self._network.roles[n.name]
        if role is Role.SPIKING:
            return self._spike(n)
        if role in (Role.GATE, Role.ANALOG):
            return self._cumulative_difference(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if self._mixes_timings(n):
            args, kwargs = self._unfold_static(n)
        return getattr(self, n.op)(n.target, args, kwargs)

    def _spike(self, node: fx.Node) -> Tensor:
        site = self._sites[node.name]
        current: Tensor = self.env[node.all_input_nodes[0]].movedim(site.channels, 1)
        name = site.name
        if self._tune is not None:
            self._tune(name, current, self._steps)
        neuron = self._neurons[name]
        state = self._state.neurons.get(node.name)
        if state is None:
            state = neuron.start(current[: self._state.samples])
            self._state.neurons[node.name] = state
        counts = neuron.fire(current, state, self._steps)
        if self._on_spikes is not None:
            self._on_spikes(node.name, counts.movedim(1, site.channels), self._steps)
        return neuron.values_(counts).movedim(1, site.channels)

    def _mixes_timings(self, node: fx.Node) -> bool:
        return any(self._network.timing[n.name] is Timing.STATIC for n in node.all_input_nodes)

    def _unfold_static(self, node: fx.Node) -> Any:
        """Repeat the inputs that are the same at every step, so that all have ``steps·N`` rows."""

        def repeated(source: fx.Node) -> Any:
            value = self.env[source]
            is_static = self._network.timing[source.name] is Timing.STATIC
            if not is_static or not isinstance(value, Tensor):
                return value
            return value.repeat(self._steps, *[1] * (value.dim() - 1))

        return fx.node.map_arg((node.args, node.kwargs), repeated)

    def _cumulative_difference(self, node: fx.Node) -> Tensor:
        """``y_t = t f(x̄_t) - (t-1) f(x̄_{t-1})``, x̄ the running mean: exact rates for any f."""
        sources = list(dict.fromkeys(self._means_behind(node)))
        state = self._state.accumulated.get(node.name)
        if state is None:
            zeros = [
                summable(torch.zeros_like(self.env[n][: self._state.samples])) for n in sources
            ]
            state = self._state.accumulated[node.name] = _Accumulated(zeros)
        outputs = []
        for step in range(self._steps):
            state.step += 1
            means: dict[fx.Node, Any] = {}
            for total, source in zip(state.totals, sources, strict=True):
                total.add_(self.env[source].chunk(self._steps)[step])
                means[source] = (total / state.step).to(self.env[source])
            total_out = self._apply(node, means) * state.step
            outputs.append(total_out - state.previous if state.previous is not None else total_out)
            state.previous = total_out
        result = torch.cat(outputs)
        if self._on_spikes is not None and self._network.roles[node.name] is Role.GATE:
            quantum = self._quantum(node.all_input_nodes[0])
            shape = (-1, *[1] * (result.dim() - 2))
            self._on_spikes(node.name, result / quantum.view(shape), self._steps)
        return result

    def _quantum(self, node: fx.Node) -> Tensor:
        """Size of one spike behind a node that gives whole spikes, per channel, ``(C,)``."""
        if site := self._sites.get(node.name):
            return self._neurons[site.name].threshold
        sources: Any = node.args[0] if node.target is torch.cat else node.all_input_nodes
        return torch.cat([self._quantum(source) for source in sources])

    def _apply(self, node: fx.Node, values: dict[fx.Node, Any]) -> Tensor:
        def value(source: fx.Node) -> Any:
            if source.name in self._network.discrete:
                return self._apply(source, values)
            return values[source] if source in values else self.env[source]

        args = fx.node.map_arg(node.args, value)
        kwargs = fx.node.map_arg(node.kwargs, value)
        result: Tensor = getattr(self, node.op)(node.target, args, kwargs)
        return result

    def _means_behind(self, node: fx.Node) -> Iterator[fx.Node]:
        """The inputs whose running means a node is computed from, through indices and booleans."""
        for source in node.all_input_nodes:
            if source.name in self._network.discrete:
                yield from self._means_behind(source)
            elif self._network.timing[source.name] is Timing.TEMPORAL:
                yield source
