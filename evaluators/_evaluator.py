"""The evaluator: a task's model profiled once, any choice measured on any split."""

from __future__ import annotations

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from conversion import (
    Answers,
    Choice,
    ConfigError,
    ConversionConfig,
    DeployError,
    EnergyModel,
    ExitPolicy,
    ExitRule,
    Inputs,
    Network,
    OnIteration,
    Profile,
    SpikingModel,
    ann_answers,
    available_device,
    convert,
    energy_model,
    in_integers,
    is_out_of_memory,
    mean_entropy,
    model_of_state,
    profile,
    quantised_answers,
    sha256,
    state_bytes,
    tensors_sha256,
)
from evaluators._checks import checked_targets
from evaluators._comparison import Comparing, Comparison
from evaluators._measurement import Measurement
from evaluators._recording import Recorded, Recording, joined, recorded
from evaluators._references import AnnReference, QuantisedAnn
from evaluators._task import Task

_LOG = logging.getLogger("spikefront")
_Result = TypeVar("_Result")

_SMALLEST, _LARGEST = 32, 256
"""Samples per pass."""

_CACHED = 2**17
"""Neurons of a layer, over all samples of a pass, that a CPU's caches hold for some steps."""

_LEARNED_AT_ONCE = 2**20
"""Neurons of a layer, over all samples of a batch, from which on a step of learning takes fewer
samples: it is then as fast as one of small images, and there are more of them."""

_AT_ONCE = 2**22
"""Values of a layer or an output, over all samples of a pass, beyond which a CPU takes fewer: times
T steps, they are to fit into memory."""

_HASHED = 32
"""Samples per part of a fingerprint, which depends on them."""

_REMEMBERED_PASSES = 8
_REMEMBERED_MODELS = 32


class StateStore(Protocol):
    """Stores learned states by name. It never raises, but may lose states."""

    def get(self, key: str) -> bytes | None:
        """The state of that name, or None."""

    def put(self, key: str, data: bytes) -> None:
        """Store a state."""


class Evaluator:
    """Measures choices on a task.

    Args:
        task: Model, splits and metric.
        device: The device to run on.
        energy: An energy model, or its name.
        batch_size: Samples per pass. None uses 256; on a CPU 32 to 256, chosen so that the largest
            activation fits the caches (measured), and fewer if it or an output is very large.
            Running out of memory halves it and tries again.
        seed: Recorded with every measurement.
        states: Store of learned states that outlives this evaluator; None stores nothing. Missing
            states are learned again.

    Raises:
        ConfigError: The device is not available, or the energy model is unknown.
    """

    def __init__(
        self,
        task: Task,
        *,
        device: torch.device | str = "cpu",
        energy: EnergyModel | str = "horowitz45",
        batch_size: int | None = None,
        seed: int = 0,
        states: StateStore | None = None,
    ) -> None:
        self.task = task
        self.states = states
        self.device = available_device(device)
        self.energy = energy_model(energy) if isinstance(energy, str) else energy
        self._fits_batch_size = batch_size is None and self.device.type == "cpu"
        self.batch_size = batch_size or (_SMALLEST if self.device.type == "cpu" else _LARGEST)
        self.seed = seed
        self._anns: dict[str, _Ann] = {}
        self._models: OrderedDict[str, SpikingModel] = OrderedDict()
        self._passes: OrderedDict[tuple[str, str], Recording] = OrderedDict()

    @cached_property
    def profile(self) -> Profile:
        """The profile of the task's model on its calibration split."""
        checked_targets(self.task.calibration)
        batches = self.task.calibration.batches(self.batch_size)
        found = profile(
            self.task.model,
            batches,
            device=self.device,
            batch_size=self.batch_size,
            outputs=self.task.outputs,
            feed=self.task.feed,
        )
        if self._fits_batch_size:
            fewest = min(_SMALLEST, max(4, _AT_ONCE // _widest(found)))
            self.batch_size = min(max(_CACHED // _largest(found), fewest), _LARGEST)
        return found

    def _batches_to_learn_from(self) -> Iterable[Any]:
        size = min(max(_LEARNED_AT_ONCE // _largest(self.profile), 4), _SMALLEST)
        return self.task.batches_to_learn_from(size)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the spiking layers, in order of execution."""
        return tuple(self.profile.layers)

    @property
    def ann_energy_pj(self) -> float:
        """Energy of one inference of the ANN, pJ."""
        return self.energy.ann_pj(self.profile.costs)

    def least_energy_pj(self, bits: Iterable[int] = ()) -> float:
        """Energy of a one-step inference without any spike, pJ.

        Args:
            bits: Widths of integer weights to consider; empty: floating point.
        """
        costs = self.profile.costs
        models = [self.energy.in_integers(width) for width in bits] or [self.energy]
        found = [model.prices(costs, [1] * len(costs.fan_out)) for model in models]
        return min(prices.once + prices.step for prices in found)

    def ann(self, split: str) -> AnnReference:
        """Accuracy and energy of the ANN on a split."""
        found = self._ann(split)
        return AnnReference(
            split=split,
            n=len(found.targets),
            accuracy=self.task.metric.estimate(found.statistics),
            energy_pj=self.ann_energy_pj,
            energy_int8_pj=self.energy.ann_pj(self.profile.costs, int8=True),
            chance=self.task.metric.chance(found.targets),
        )

    def quantised(self, config: ConversionConfig, steps: float, split: str) -> QuantisedAnn:
        """The fair rival of a spiking network: the ANN with as many activation levels, measured.

        Args:
            config: Config of the spiking network.
            steps: Mean number of steps of its samples; rounded up.
            split: Name of the split.
        """
        levels = {name: layer.phi * math.ceil(steps) for name, layer in config.layers.items()}
        ann, metric, outputs = self._ann(split), self.task.metric, self.profile.outputs

        def judge(x: Inputs, y: Tensor, start: int) -> Tensor:
            return metric.statistics(outputs.answer(quantised_answers(self.profile, x, levels)), y)

        statistics = torch.cat(self._over(split, judge))
        return QuantisedAnn(
            split=split,
            n=len(statistics),
            accuracy=metric.estimate(statistics),
            drop=metric.drop(ann.statistics, statistics),
            levels=levels,
        )

    @cached_property
    def search_fingerprint(self) -> str:
        """SHA-256 of the search split's inputs and targets."""
        batches = self.task.search.batches(_HASHED)
        return tensors_sha256(t for x, y in batches for t in (*Inputs.of(x).tensors, y))

    def has_learned(self, choice: Choice) -> bool:
        """Whether a choice converts without learning: it learns nothing, or its state is kept."""
        config = replace(choice.conversion, bits=None)
        known = config.without_steps().to_json() in self._models
        return known or not config.calibration.learns or self._kept(config) is not None

    def convert(self, choice: Choice, *, on_iteration: OnIteration | None = None) -> SpikingModel:
        """The calibrated spiking model of a choice, with its exit rule.

        Args:
            choice: The choice to convert.
            on_iteration: Called with (iterations done, loss) if the calibration learns.
        """
        model = self._converted(choice.conversion, on_iteration)
        model.exit = self._rule(model, choice.exit)
        return model

    def record(self, model: SpikingModel, split: str) -> Recording:
        """Run all steps of a split once.

        Raises:
            ConversionError: The outputs contain NaN or infinity.
        """
        ann = self._ann(split)

        def keep(x: Inputs, y: Tensor, start: int) -> Recorded:
            expected = ann.answers(self.profile.network, x, start)
            found = model.simulate(x)
            return recorded(found, expected, y, outputs=model.outputs, metric=self.task.metric)

        return joined(
            self._over(split, keep),
            split=split,
            seed=self.seed,
            ann_statistics=ann.statistics,
            costs=self.profile.costs,
            energy=self.energy,
            metric=self.task.metric,
        )

    def compare(self, choice: Choice, split: str = "search", *, pairs: int = 6) -> Comparison:
        """Compare both networks on the same samples, the spiking one with its early exit.

        Args:
            choice: The choice to convert.
            split: Name of the split.
            pairs: Number of samples with the largest differences to keep whole.
        """
        model, network = self.convert(choice), self.profile.network
        comparing = Comparing(model.outputs, self.task.metric, pairs)
        ann = self._ann(split)

        def add(x: Inputs, y: Tensor, start: int) -> None:
            found = model.infer(x)
            expected = ann.answers(network, x, start)
            comparing.add(
                network.still(network.take(x)), y, expected, found.answers, found.timesteps
            )

        self._over(split, add)
        recording = self.record(model, split)
        exits = recording.exits(model.exit)
        shares = torch.bincount(exits, minlength=recording.steps) / len(exits)
        scores = [self.task.metric.value(found) for found in recording.statistics]
        return comparing.found(split, scores, shares.tolist())

    def measure(self, choice: Choice, split: str = "search") -> Measurement:
        """Convert, run and measure a choice.

        Choices that differ only in their exit policy, or have a smaller T, share one pass as long
        as it is cached.
        """
        steps, key = (
            choice.conversion.timesteps,
            (split, choice.conversion.without_steps().to_json()),
        )
        model = self._converted(choice.conversion)
        if key not in self._passes or self._passes[key].steps < steps:
            self._passes[key] = self.record(model, split)
            self._passes.move_to_end(key)
            while len(self._passes) > _REMEMBERED_PASSES:
                self._passes.popitem(last=False)
        return self._passes[key].first(steps).measure(self._rule(model, choice.exit))

    def _converted(
        self, config: ConversionConfig, on_iteration: OnIteration | None = None
    ) -> SpikingModel:
        """The spiking model of a config; those that differ in T or bits are calibrated once."""
        key = config.without_steps().to_json()
        if key not in self._models:
            if config.bits is None:
                self._models[key] = self._made(config, on_iteration)
            else:
                plain = self._converted(replace(config, bits=None), on_iteration)
                self._models[key] = in_integers(plain.with_bits(config.bits))
            while len(self._models) > _REMEMBERED_MODELS:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key].running(config.timesteps)

    def _made(self, config: ConversionConfig, on_iteration: OnIteration | None) -> SpikingModel:
        """What learned is kept, and learned only where it is not there."""
        if not config.calibration.learns:
            return convert(self.profile, config, on_iteration=on_iteration)
        if (kept := self._kept(config)) is not None:
            return kept
        earlier = config.goes_on_from()
        model = convert(
            self.profile,
            config,
            data=self._batches_to_learn_from(),
            start=None if earlier is None else self._converted(earlier),
            on_iteration=on_iteration,
        )
        if self.states is not None:
            self.states.put(self.state_key(config), state_bytes(model))
        return model

    def _kept(self, config: ConversionConfig) -> SpikingModel | None:
        data = self.states.get(self.state_key(config)) if self.states is not None else None
        if data is None:
            return None
        try:
            return model_of_state(self.profile, config, data)
        except DeployError as error:
            _LOG.warning("%s; it is learned again", error)
            return None

    def state_key(self, config: ConversionConfig) -> str:
        """The name of a learned state: a hash of everything it depends on."""
        network, found = self.profile.network, self.profile
        parts = (
            config.without_steps().to_json(),
            network.fingerprint,
            found.data_fingerprint,
            self.training_fingerprint,
            json.dumps(found.outputs.to_dict(), sort_keys=True),
        )
        return sha256("\n".join(parts).encode())

    @cached_property
    def training_fingerprint(self) -> str:
        """SHA-256 of the first batch that learning sees, drawn as for its first segment."""
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            first = next(iter(self._batches_to_learn_from()), ())
        leaves = pytree.tree_leaves(vars(first) if isinstance(first, Inputs) else first)
        return tensors_sha256(leaf for leaf in leaves if isinstance(leaf, Tensor))

    def _rule(self, model: SpikingModel, policy: ExitPolicy) -> ExitRule | None:
        outputs, network = model.outputs, self.profile.network
        if policy.score not in outputs.scores:
            if policy.alpha >= 1:
                return None  # it never exits
            raise ConfigError(
                f"{outputs.kind} outputs have no confidence {policy.score!r} to exit by; they have:"
                f" {', '.join(outputs.scores) or 'none'}"
            )
        if policy.beta == 0:  # a constant threshold does not look at the calibration entropies
            return policy.rule(torch.zeros(model.config.timesteps))
        score = outputs.score or policy.score
        entropy, agreement = [], []
        for x in self.profile.inputs.split(self.batch_size):
            found, expected = model.simulate(x), ann_answers(network, x)
            steps = [found.at(step) for step in range(model.config.timesteps)]
            entropy.append(torch.stack([1.0 - outputs.confidence(s, score) for s in steps]))
            agreement.append(torch.stack([outputs.agreement(s, expected) for s in steps]))
        return policy.rule(mean_entropy(torch.cat(entropy, 1), torch.cat(agreement, 1)))

    def _ann(self, split: str) -> _Ann:
        if split not in self._anns:
            samples, metric = self.task.split(split), self.task.metric
            network, outputs = self.profile.network, self.profile.outputs
            targets = checked_targets(samples).to(self.device)

            def judge(x: Inputs, y: Tensor, start: int) -> tuple[Tensor, Answers]:
                answers = ann_answers(network, x)
                answer = outputs.answer(answers)
                metric.check(y, answer, lambda i: samples.place(start + i))
                small = sum(a[0].numel() for a in answers.values()) * len(samples) <= _KEPT
                return metric.statistics(answer, y), answers if small else {}

            with torch.inference_mode():
                statistics, answers = zip(*self._over(split, judge), strict=True)
            kept = {name: torch.cat([part[name] for part in answers]) for name in answers[0]}
            self._anns[split] = _Ann(torch.cat(statistics), targets, kept)
        return self._anns[split]

    def _over(self, split: str, run: Callable[[Inputs, Tensor, int], _Result]) -> list[_Result]:
        """Run over the batches of a split, in halves when memory does not suffice.

        Args:
            split: Name of the split.
            run: Takes inputs, targets, both on the device, and the number of the first sample.
        """
        while True:
            try:
                found, start = [], 0
                for x, y in self.task.split(split).batches(self.batch_size):
                    found.append(run(Inputs.of(x).to(self.device), y.to(self.device), start))
                    start += len(y)
                return found
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.batch_size == 1:
                    raise
                self.batch_size //= 2
                _LOG.warning("out of memory: continuing with batches of %d", self.batch_size)


def _widest(found: Profile) -> int:
    """Values of the largest layer or output of a sample."""
    network = found.network
    leaves = [network.output_leaves[place] for place in network.output_names.values()]
    return max(_largest(found), *(math.prod(network.sample_shape(leaf)) for leaf in leaves))


def _largest(found: Profile) -> int:
    """Neurons of the largest layer."""
    return max((layer.neurons for layer in found.layers.values()), default=1)


_KEPT = 2**24
"""Most values of the ANN's answers to a split that are kept, 64 MB; else they are made again."""


@dataclass(frozen=True)
class _Ann:
    """What the ANN makes of a split."""

    statistics: Tensor
    targets: Tensor
    kept: Answers

    def answers(self, network: Network, x: Inputs, start: int) -> Answers:
        """Of the batch that begins with the sample ``start``."""
        if not self.kept:
            with torch.inference_mode():
                return ann_answers(network, x)
        return {name: answer[start : start + len(x)] for name, answer in self.kept.items()}
