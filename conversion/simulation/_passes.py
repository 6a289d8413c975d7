"""Node-by-node execution of a network: as the ANN, and as a spiking network over many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from conversion._errors import ConversionError
from conversion.graph import Network, Role, Timing, is_size, laid_out, run_ann
from conversion.graph._operations import call, varying
from conversion.neurons import AdaFire, NeuronState

SpikeHook = Callable[[str, Tensor, int], None]
"""Called with (source node, spike counts ``(steps·N, C, ...)``, steps); the counts are reused."""


def running_mean(outputs: Tensor, steps: int) -> Tensor:
    """``(T·N, classes)`` outputs to ``(T, N, classes)`` means of the steps so far."""
    per_step = outputs.view(steps, -1, *outputs.shape[1:])
    count = torch.arange(1, steps + 1, device=outputs.device, dtype=outputs.dtype)
    return per_step.cumsum(0) / count.view(-1, *[1] * (per_step.dim() - 1))


class AnalogPass:
    """Runs the ANN and shows every ReLU-like activation to ``observe(layer name, activation)``.

    Activations are shown as ``(N, C, ...)``.
    """

    def __init__(self, network: Network, observe: Callable[[str, Tensor], None]) -> None:
        self._network = network
        self._sites = {site.node: site for site in network.sites.values()}
        self._observe = observe

    def run(self, x: Any) -> dict[str, Tensor]:
        """The answers for inputs as the network takes them."""
        inputs = self._network.take(x)

        def see(node: fx.Node, value: Any) -> None:
            if site := self._sites.get(node.name):
                front = self._network.axes[node.name].front(value)
                self._observe(site.name, site.to_channels(front))

        return answers_of(self._network, run_ann(self._network, self._network.still(inputs), see))


def ann_answers(network: Network, x: Any) -> dict[str, Tensor]:
    """The ANN's outputs by name, samples first."""
    return answers_of(network, run_ann(network, network.still(network.take(x))))


def answers_of(network: Network, outputs: list[Any]) -> dict[str, Tensor]:
    """The outputs of the ANN that are answers, by name, samples in front."""
    found = network.answers(outputs)
    axes = {name: network.output_axis(place) for name, place in network.output_names.items()}
    return {name: axis.front(found[name]) for name, axis in axes.items() if axis is not None}


@dataclass
class _Accumulated:
    """State of a cumulative-difference node, samples in front: Σx per input, t·f(x̄_t) before."""

    totals: list[Tensor]
    previous: Tensor | None = None
    step: int = 0


@dataclass
class PassState:
    """Everything a spiking pass carries from one step to the next, for a batch of samples.

    Attributes:
        samples: Number of samples still in the batch.
        begun: Number of samples that began.
        static: Values that depend on the sample but not on the step, by node.
        sequence: Inputs that come over time, ``(N, T, ...)``, by node.
        step: Steps that were run.
        first: The step of the first frame of ``sequence``.
        neurons: Neuron states by node.
        accumulated: Cumulative-difference states by node.
    """

    samples: int
    begun: int = 0
    static: dict[fx.Node, Tensor] = field(default_factory=dict)
    sequence: dict[fx.Node, Tensor] = field(default_factory=dict)
    step: int = 0
    first: int = 0
    neurons: dict[str, NeuronState] = field(default_factory=dict)
    accumulated: dict[str, _Accumulated] = field(default_factory=dict)

    def keep(self, index: Tensor) -> None:
        """Forget every sample that is not in ``index`` (1-d, positions in the current batch)."""
        self.static = {n: n.meta["axis"].take(value, index) for n, value in self.static.items()}
        self.sequence = {node: x[index] for node, x in self.sequence.items()}
        for neuron in self.neurons.values():
            neuron.keep(index)
        for item in self.accumulated.values():
            item.totals = [total[index] for total in item.totals]
            item.previous = None if item.previous is None else item.previous[index]
        self.samples = len(index)


def check_steps(x: Tensor, needed: int, timesteps: int) -> None:
    """Raise :class:`ConversionError` unless inputs ``(N, T, ...)`` have the steps needed."""
    if needed > x.shape[1]:
        raise ConversionError(
            f"the inputs have {x.shape[1]} steps, and T is {timesteps}: T cannot exceed the number"
            " of recorded steps"
        )


class SpikingPass:
    """Runs the network's spiking version, several steps at a time, layer by layer.

    The steps are folded into the batch, step outermost: wherever a value has its samples, it has
    ``steps·N`` of them after the first spiking layer, and what follows the size of the batch is
    worked out for that many. What comes before is computed once per sample.

    Args:
        network: The network.
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
        self._network = network
        self._sites = {site.node: site for site in network.sites.values()}
        self._neurons = neurons
        self._on_spikes = on_spikes
        self._tune = tune
        self._entries = [node for node in network.graph.nodes if node.op == "placeholder"]
        self._static = [n for n in network.graph.nodes if network.timing[n.name] is Timing.STATIC]
        self._temporal = [
            node
            for node in network.graph.nodes
            if network.timing[node.name] is Timing.TEMPORAL and node.op != "output"
        ]
        self._spent = {} if network.discrete else _last_uses(network.graph)
        self._sized: dict[tuple[fx.Node, int], Any] = {}
        self._env: dict[fx.Node, Any] = {}
        self._state = PassState(samples=0)
        self._steps = 0

    def start(self, x: Any) -> PassState:
        """Compute what does not change over time, for inputs as the network takes them."""
        inputs = self._network.take(x)
        state = PassState(samples=len(inputs), begun=len(inputs))
        given = dict(zip(self._entries, inputs.tensors, strict=True))
        if self._network.feed != "static":
            state.sequence = given
        values: dict[fx.Node, Any] = {}
        self._sized = {}

        def value(source: fx.Node) -> Any:
            return values[source] if source in values else self._fixed(source, state.samples)

        for node in self._static:
            if node.op == "output":
                continue
            values[node] = (
                given[node] if node.op == "placeholder" else call(node, value, self._network.device)
            )
        timing = self._network.timing
        for node, found in values.items():
            if any(u.op == "output" or timing[u.name] is Timing.TEMPORAL for u in node.users):
                state.static[node] = found
        return state

    def advance(self, state: PassState, steps: int) -> list[Any]:
        """Run ``steps`` more steps.

        Raises:
            ConversionError: Inputs over time have fewer steps.

        Returns:
            The network's outputs in order, ``(steps·N, ...)`` with the samples in front; what does
            not depend on the sample as it is.
        """
        self._check_length(state, steps)
        found = self._run({}, state, steps, 0)
        state.step += steps
        return found

    def _check_length(self, state: PassState, steps: int) -> None:
        for x in state.sequence.values():
            check_steps(x, state.step - state.first + steps, state.step + steps)

    def resume(self, env: dict[fx.Node, Any], state: PassState, steps: int, at: int) -> list[Any]:
        """Run the first ``steps`` steps from the ``at``-th changing node on; as ``advance``.

        Args:
            env: Values of the changing nodes before it, as far as they are needed.
            state: Of a pass that was there; only what does not change is taken from it.
            steps: Number of steps.
            at: Position among the nodes that change from step to step.
        """
        begun = PassState(samples=state.samples, begun=state.begun, static=state.static)
        return self._run(env, begun, steps, at)

    def _run(self, env: dict[fx.Node, Any], state: PassState, steps: int, at: int) -> list[Any]:
        self._env, self._state, self._steps = env, state, steps
        for position in range(at, len(self._temporal)):
            node = self._temporal[position]
            if node.name not in self._network.discrete:  # who needs it works it out from means
                self._env[node] = self._value_of(node)
            for source in self._spent.get(node, ()):
                self._env.pop(source, None)
        return [self._output(leaf) for leaf in self._network.output_leaves]

    def _output(self, leaf: Any) -> Any:
        if not isinstance(leaf, fx.Node):
            return leaf
        if leaf.name in self._network.discrete:
            return self._discrete_output(leaf)
        axis = self._network.axes.get(leaf.name)
        if axis is None:  # it depends on the number of samples, or on nothing
            return self._fixed(leaf, self._state.begun)
        return axis.front(self._folded(leaf))

    def _discrete_output(self, node: fx.Node) -> Tensor:
        """Indices or booleans of each step, worked out from the means of the steps so far."""
        state = self._totals(node)
        axis = self._network.axes[node.name]
        found = [axis.front(self._apply(node, self._means(node, state, s))) for s in self._each()]
        return torch.cat(found)

    def _each(self) -> range:
        return range(self._steps)

    def _value_of(self, node: fx.Node) -> Tensor:
        if node.op == "placeholder":
            return self._frames(node)
        role = self._network.roles[node.name]
        if role is Role.SPIKING:
            return self._spike(node)
        if role in (Role.GATE, Role.ANALOG):
            return self._cumulative_difference(node)
        found: Tensor = call(node, self._folded, self._network.device)
        return found

    def _folded(self, source: fx.Node) -> Any:
        """A value for all steps at once."""
        if self._network.timing[source.name] is Timing.TEMPORAL:
            return self._env[source]
        if source in self._state.static:
            value = self._state.static[source]
            if self._steps == 1:
                return value
            return self._network.axes[source.name].repeat(value, self._steps)
        return self._fixed(source, self._steps * self._state.samples)

    def _fixed(self, node: fx.Node, samples: int) -> Any:
        """What depends on the size of the batch, or on nothing."""
        if is_size(node):
            return self._network.size(node, samples)
        if node.op == "get_attr":
            return self._network.constant(node)
        if (node, samples) not in self._sized:
            self._sized[node, samples] = call(
                node, lambda source: self._fixed(source, samples), self._network.device
            )
        return self._sized[node, samples]

    def _current(self, node: fx.Node) -> Tensor:
        """What a spiking layer gets, ``(steps·N, C, ...)``; ``(N, C, ...)`` if it never changes."""
        site = self._sites[node.name]
        source = varying(node)[0]
        static = source in self._state.static
        value = self._state.static[source] if static else self._env[source]
        return site.to_channels(self._network.axes[source.name].front(value))

    def _spike(self, node: fx.Node) -> Tensor:
        site = self._sites[node.name]
        current = self._current(node)
        if self._tune is not None:
            self._tune(site.name, current, self._steps)
        neuron = self._neurons[site.name]
        state = self._state.neurons.get(node.name)
        if state is None:
            state = neuron.start(current[: self._state.samples])
            self._state.neurons[node.name] = state
        counts = neuron.fire(current, state, self._steps)
        if self._on_spikes is not None:
            self._on_spikes(node.name, site.from_channels(counts), self._steps)
        spikes = site.from_channels(neuron.values_(counts))
        return self._network.axes[node.name].back(spikes)

    def _frames(self, node: fx.Node) -> Tensor:
        """The input of the next steps, ``(steps·N, ...)``."""
        begin = self._state.step - self._state.first
        frames = self._state.sequence[node][:, begin : begin + self._steps]
        folded = laid_out(frames.transpose(0, 1).flatten(0, 1))
        if self._on_spikes is not None and self._network.feed == "events":
            self._on_spikes(node.name, folded, self._steps)
        return folded

    def _cumulative_difference(self, node: fx.Node) -> Tensor:
        """``y_t = t f(x̄_t) - (t-1) f(x̄_{t-1})``, x̄ the running mean: exact rates for any f."""
        state = self._totals(node)
        axis, analog = self._network.axes[node.name], self._is_analog(node)
        outputs = []
        for step in self._each():
            means = self._means(node, state, step)
            total = axis.front(self._apply(node, means)) * state.step
            output = total if state.previous is None else total - state.previous
            if analog and state.previous is not None:
                # A mask gives −inf at every step: no difference of two infinities.
                output = torch.where(torch.isinf(total), total, output)
            outputs.append(output)
            state.previous = total
        result = torch.cat(outputs)
        if self._on_spikes is not None and not analog:
            quantum = self._quantum(varying(node)[0])
            shape = (-1, *[1] * (result.dim() - 2))
            self._on_spikes(node.name, result / quantum.view(shape), self._steps)
        return axis.back(result)

    def _is_analog(self, node: fx.Node) -> bool:
        return self._network.roles[node.name] is Role.ANALOG

    def _totals(self, node: fx.Node) -> _Accumulated:
        """The sums that a node's means are made of."""
        if node.name not in self._state.accumulated:
            zeros = [
                torch.zeros_like(self._front(source)[: self._state.samples])
                for source in self._means_behind(node)
            ]
            self._state.accumulated[node.name] = _Accumulated(zeros)
        return self._state.accumulated[node.name]

    def _front(self, source: fx.Node) -> Tensor:
        return self._network.axes[source.name].front(self._env[source])

    def _means(self, node: fx.Node, state: _Accumulated, step: int) -> dict[fx.Node, Tensor]:
        """Means of the inputs up to a step, which becomes the state's."""
        state.step += 1
        means = {}
        for total, source in zip(state.totals, self._means_behind(node), strict=True):
            total.add_(self._front(source).chunk(self._steps)[step])
            means[source] = self._network.axes[source.name].back(total / state.step)
        return means

    def _quantum(self, node: fx.Node) -> Tensor:
        """Size of one spike behind a node that gives whole spikes, per channel, ``(C,)``."""
        if node.op == "placeholder":
            return torch.ones(node.meta["val"].shape[1], device=self._network.device)
        if site := self._sites.get(node.name):
            return self._neurons[site.name].threshold
        if self._network.roles[node.name] is Role.GATE:
            return self._quantum(varying(node)[0])
        parts: Any = node.args[0]  # of a concatenation, where one may stand twice
        return torch.cat([self._quantum(source) for source in parts])

    def _apply(self, node: fx.Node, values: dict[fx.Node, Any]) -> Tensor:
        """A node for one step, on the means of its inputs."""

        def value(source: fx.Node) -> Any:
            if source in values:
                return values[source]
            if source.name in self._network.discrete:
                return self._apply(source, values)
            static = self._state.static
            return static[source] if source in static else self._fixed(source, self._state.samples)

        found: Tensor = call(node, value, self._network.device)
        return found

    def _means_behind(self, node: fx.Node) -> list[fx.Node]:
        """The inputs whose running means a node is computed from, through indices and booleans."""
        return list(dict.fromkeys(self._walk(node)))

    def _walk(self, node: fx.Node) -> Iterator[fx.Node]:
        for source in node.all_input_nodes:
            if source.name in self._network.discrete:
                yield from self._walk(source)
            elif self._network.timing[source.name] is Timing.TEMPORAL:
                yield source


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """The values that are read for the last time at each node."""
    last = {source: node for node in graph.nodes for source in node.all_input_nodes}
    uses: dict[fx.Node, list[fx.Node]] = {}
    for source, node in last.items():
        uses.setdefault(node, []).append(source)
    return uses
