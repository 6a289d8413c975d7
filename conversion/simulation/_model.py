"""The spiking model: what a conversion gives, all steps at once or one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conversion._errors import ConfigError, ConversionError
from conversion._exits import ExitRule
from conversion.energy import Costs, Counts, bits_of, graded_bits
from conversion.graph import Inputs, Network, laid_out
from conversion.neurons import NEURONS, AdaFire
from conversion.outputs import Answers, Outputs
from conversion.simulation._counter import SpikeCounter
from conversion.simulation._passes import SpikingPass, running_mean
from conversion.simulation._stream import StepResult, StreamState, adds_up, one_frame

if TYPE_CHECKING:
    from conversion._config import ConversionConfig, LayerConfig


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """All steps of a batch, so that any exit policy and energy model can be applied afterwards.

    Attributes:
        logits: Running mean of the main output over the steps, ``(T, N, ...)``.
        answers: Running means of all outputs by name, each ``(T, N, ...)``.
        outputs: All outputs in the ANN's structure, each ``(T, ...)``.
        counts: Spikes of each source at each step and the events they cause, ``(sources, T, N)``.
    """

    logits: Tensor
    answers: Mapping[str, Tensor]
    outputs: Any
    counts: Counts

    def at(self, step: int) -> dict[str, Tensor]:
        """The outputs if it stops after step ``step``, counted from 0."""
        return {name: answer[step] for name, answer in self.answers.items()}


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Outputs of a deployed model.

    Attributes:
        logits: The main output at each sample's exit, ``(N, ...)``.
        answers: All outputs by name, samples first.
        outputs: All outputs in the ANN's structure, samples first.
        timesteps: Number of steps that each sample ran, ``(N,)``.
    """

    logits: Tensor
    answers: Mapping[str, Tensor]
    outputs: Any
    timesteps: Tensor


class SpikingModel(nn.Module):
    """A calibrated spiking network, made by :func:`convert` or ``conversion.load``.

    Call it like the ANN: it returns outputs in the ANN's structure, the running means at each
    sample's exit.

    Attributes:
        network: The captured ANN.
        outputs: How its outputs are interpreted.
        config: The config it was made with.
        neurons: Neuron layers by name.
        synapses: The network that spikes run through: the ANN's, or a copy with tuned weights.
    """

    def __init__(
        self,
        network: Network,
        costs: Costs,
        config: ConversionConfig,
        *,
        outputs: Outputs,
        thetas: Mapping[str, Tensor],
        biases: Mapping[str, Tensor],
        v_inits: Mapping[str, Tensor],
        weights: Mapping[str, Tensor] | None = None,
        exit: ExitRule | None = None,
    ) -> None:
        super().__init__()
        config.check_layers(network.sites)
        self.network = network
        self.outputs = outputs
        self.weights = dict(weights or {})
        self.synapses = network.with_weights(self.weights) if self.weights else network
        self.costs = costs
        self.config = config
        self.exit = exit
        self.thetas = {name: theta.clone() for name, theta in thetas.items()}
        self.biases = dict(biases)
        self.v_inits = {name: v_init.clone() for name, v_init in v_inits.items()}
        self.neurons = {
            name: make_neuron(
                config.layers[name], thetas[name], biases[name], v_inits[name], site.ceiling
            )
            for name, site in network.sites.items()
        }

    @property
    def exit(self) -> ExitRule | None:
        """The rule for early exit, or None to run all steps.

        Raises:
            ConfigError: When set to a rule with fewer thresholds than T, or with a score that the
                outputs do not have.
        """
        return self._exit

    @exit.setter
    def exit(self, rule: ExitRule | None) -> None:
        if rule is not None and len(rule.thresholds) < self.config.timesteps:
            raise ConfigError(
                f"an exit rule needs {self.config.timesteps} thresholds, got {len(rule.thresholds)}"
            )
        if rule is not None and rule.score not in self.outputs.scores:
            raise ConfigError(
                f"{self.outputs.kind} outputs have no confidence {rule.score!r} to exit by"
            )
        self._exit = rule

    def running(self, timesteps: int) -> SpikingModel:
        """The same model with another T and without an exit rule."""
        return self._with(timesteps=timesteps)

    def with_bits(self, bits: int | None) -> SpikingModel:
        """The same model with a config that asks for weights of the given width."""
        return self._with(bits=bits)

    def _with(self, kind: type[SpikingModel] | None = None, **changes: Any) -> SpikingModel:
        """The same parts in a model of a kind, with changes of the config, without an exit rule."""
        return (kind or SpikingModel)(
            self.network,
            self.costs,
            replace(self.config, **changes),
            outputs=self.outputs,
            thetas=self.thetas,
            biases=self.biases,
            v_inits=self.v_inits,
            weights=self.weights,
        )

    @torch.inference_mode()
    def simulate(self, x: Any) -> Simulation:
        """Run all T steps, layer by layer.

        Args:
            x: Inputs of the ANN on the model's device: a tensor ``(N, ...)``, a tuple of arguments,
                or a dict of keyword arguments; ``(N, T, ...)`` if they vary over time.

        Raises:
            ConversionError: The inputs do not match those that the network was profiled with.
        """
        steps = self.config.timesteps
        signed = any(neuron.signed for neuron in self.neurons.values())
        counter = SpikeCounter(self.costs, event_bits(self.costs, self.neurons), signed=signed)
        run = SpikingPass(self.synapses, self.neurons, on_spikes=counter.count)
        state = run.start(x)
        found = run.advance(state, steps)
        means = [self._mean(index, value, steps) for index, value in enumerate(found)]
        answers = {
            name: self._by_step(mean, steps) for name, mean in self.network.answers(means).items()
        }
        return Simulation(
            logits=self.outputs.main(answers),
            answers=answers,
            outputs=self.network.structured(
                [self._as_given(index, mean, steps) for index, mean in enumerate(means)]
            ),
            counts=counter.counts((steps, state.samples)),
        )

    def _mean(self, index: int, value: Any, steps: int) -> Any:
        """An output's mean over the steps so far; what is no number, or no output, as it is."""
        if self.network.output_axis(index) is None or not adds_up(value):
            return value
        return running_mean(value, steps)

    def _as_given(self, index: int, mean: Any, steps: int) -> Any:
        """An output step by step, ``(T, ...)``, each as the ANN gives it."""
        axis = self.network.output_axis(index)
        if axis is None:
            return mean
        per_step = self._by_step(mean, steps)
        if axis.is_first:
            return per_step
        return torch.stack([axis.back(value) for value in per_step])

    def _by_step(self, mean: Tensor, steps: int) -> Tensor:
        return mean if adds_up(mean) else mean.unflatten(0, (steps, -1))

    @torch.inference_mode()
    def step(
        self, x: Any = None, state: StreamState | None = None
    ) -> tuple[StepResult, StreamState]:
        """Run one step of a batch; samples that are confident enough leave and cost nothing more.

        Args:
            x: Without a state the batch, ``(N, ...)``, or the first frame of an input that varies
                over time. Later the next frame of the samples that still run, ``state.samples``;
                nothing if the input is static.
            state: State returned by the previous step; modified in place. None starts a new batch.

        Raises:
            ConversionError: The inputs do not match those that the network was profiled with, or
                all samples have left.

        Returns:
            The outputs of the samples that ran, and the state of those that stay.
        """
        over_time = self.network.feed != "static"
        frame = one_frame(x) if over_time and x is not None else x
        if state is None:
            state = self._begin(frame)
        elif frame is not None:
            state.feed(frame)
        if not len(state.samples):
            raise ConversionError("all samples have left: start again with state=None")
        found, _ = self._step(state)
        return found, state

    def _begin(self, x: Any) -> StreamState:
        """The state before the first step."""
        return StreamState(self.synapses, self.neurons, x)

    def _step(self, state: StreamState) -> tuple[StepResult, list[Any]]:
        samples, means = state.samples, state.advance()
        answers = self.network.answers(means)
        leaves = self._may_leave(answers, state.step)
        if state.step == self.config.timesteps:
            leaves = torch.ones_like(leaves)
        state.keep(~leaves)
        logits = self.outputs.main(answers)
        found = StepResult(
            samples=samples, logits=logits, answers=answers, leaves=leaves, step=state.step
        )
        return found, means

    @torch.inference_mode()
    def infer(self, x: Any) -> Inference:
        """Run :meth:`step` until every sample has left.

        Args:
            x: Inputs as in :meth:`simulate`.
        """
        state = self._begin(x)
        timesteps = torch.zeros(state.begun, dtype=torch.long, device=self.network.device)
        answers: list[Any] = []
        while len(state.samples):
            found, means = self._step(state)
            timesteps[found.samples] = found.step
            answers = [
                self._placed(i, mean, answers, found.samples, state.begun)
                for i, mean in enumerate(means)
            ]
        outputs = [
            axis.back(answer) if (axis := self.network.output_axis(index)) else answer
            for index, answer in enumerate(answers)
        ]
        named = self.network.answers(answers)
        return Inference(
            logits=self.outputs.main(named),
            answers=named,
            outputs=self.network.structured(outputs),
            timesteps=timesteps,
        )

    def _placed(
        self, index: int, mean: Any, answers: list[Any], remaining: Tensor, samples: int
    ) -> Any:
        """The answers of all samples, with those of the remaining ones brought up to date."""
        if self.network.output_axis(index) is None:
            return mean
        answer = answers[index] if answers else mean.new_empty((samples, *mean.shape[1:]))
        answer[remaining] = mean
        return answer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs in the ANN's structure, such as ``(N, classes)``, at each sample's exit."""
        return self.infer(Inputs(args, kwargs)).outputs

    def extra_repr(self) -> str:
        """T, layers, calibration, exit."""
        kinds = ", ".join(sorted({layer.neuron for layer in self.config.layers.values()}))
        exits = "no early exit" if self.exit is None else f"exit by {self.exit.score}"
        return (
            f"T = {self.config.timesteps}, {len(self.neurons)} spiking layers ({kinds}),"
            f" {self.config.calibration.name} calibration, {exits}"
        )

    def _apply(self, fn: Any, recurse: bool = True) -> SpikingModel:
        raise ConfigError(
            "a spiking model keeps its device and type; pass device= to"
            " conversion.profile, conversion.load or evaluators.Evaluator instead"
        )

    def _may_leave(self, answers: Answers, step: int) -> Tensor:
        if self.exit is None:
            answer = self.outputs.main(answers)
            return torch.zeros(len(answer), dtype=torch.bool, device=answer.device)
        return self.outputs.confidence(answers, self.exit.score) > self.exit.thresholds[step - 1]


def event_bits(costs: Costs, neurons: Mapping[str, AdaFire]) -> tuple[int, ...]:
    """Bits of a graded event of each source."""
    layers = {name: graded_bits(n.phi, signed=n.signed) for name, n in neurons.items()}
    return bits_of(costs, layers)


def make_neuron(
    layer: LayerConfig, theta: Tensor, bias: Tensor, v_init: Tensor, ceiling: float | None
) -> AdaFire:
    """The layer of neurons of a config, for thresholds θ and biases ``(C,)``."""
    return NEURONS[layer.neuron](
        threshold=theta * layer.rho,
        phi=layer.phi,
        bias=bias,
        v_init=laid_out(v_init[None])[0],
        ceiling=ceiling,
    )
