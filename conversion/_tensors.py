"""The tensors of a spiking model, as stored in deployed configs and learned states."""

from __future__ import annotations

import json
from collections.abc import Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from conversion._config import ConversionConfig
from conversion._errors import DeployError
from conversion._exits import ExitRule
from conversion._files import tensors_sha256
from conversion._profile import Profile
from conversion.energy import Costs
from conversion.graph import Network, SpikingSite
from conversion.outputs import Outputs
from conversion.simulation import SpikingModel

_DIGEST = "sha256"


def tensors_of(model: SpikingModel) -> dict[str, Tensor]:
    """The tensors of a model by kind and name, such as ``theta/relu``, on the CPU."""
    kinds = {
        "theta": model.thetas,
        "bias": model.biases,
        "v_init": model.v_inits,
        "weight": model.weights,
    }
    return {
        f"{kind}/{name}": value.detach().cpu().contiguous()
        for kind, values in kinds.items()
        for name, value in values.items()
    }


def read_tensors(data: bytes, where: str) -> dict[str, Tensor]:
    """Tensors from bytes of safetensors.

    Raises:
        DeployError: The bytes are not safetensors.
    """
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DeployError(f"{where} is not safetensors: {error}") from error


def model_of(
    network: Network,
    costs: Costs,
    config: ConversionConfig,
    tensors: Mapping[str, Tensor],
    *,
    outputs: Outputs,
    exit: ExitRule | None = None,
) -> SpikingModel:
    """Rebuild a model from its tensors, on the network's device.

    Raises:
        DeployError: A tensor is missing, unknown or malformed.
    """
    _check(tensors, network, config)

    def of_kind(kind: str) -> dict[str, Tensor]:
        named = {name.partition("/"): tensor for name, tensor in tensors.items()}
        return {name: t.to(network.device) for (k, _, name), t in named.items() if k == kind}

    return SpikingModel(
        network,
        costs,
        config,
        outputs=outputs,
        thetas=of_kind("theta"),
        biases=of_kind("bias"),
        v_inits=of_kind("v_init"),
        weights=of_kind("weight"),
        exit=exit,
    )


def state_bytes(model: SpikingModel) -> bytes:
    """A model's tensors as safetensors with their own hash, without provenance."""
    tensors = tensors_of(model)
    return safetensors.torch.save(tensors, metadata={_DIGEST: _digest(tensors)})


def model_of_state(profile: Profile, config: ConversionConfig, data: bytes) -> SpikingModel:
    """Rebuild the model of a config from the output of :func:`state_bytes`.

    Raises:
        DeployError: The bytes were altered or truncated, or belong to another network.
    """
    tensors = read_tensors(data, "a learned state")
    length = int.from_bytes(data[:8], "little")
    noted = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(_DIGEST)
    if noted != _digest(tensors):
        raise DeployError("a learned state was altered: its SHA-256 differs")
    return model_of(profile.network, profile.costs, config, tensors, outputs=profile.outputs)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return tensors_sha256(tensors[name] for name in sorted(tensors))


def _is_weight(name: str) -> bool:
    return name.startswith("weight/")


def _check(tensors: Mapping[str, Tensor], network: Network, config: ConversionConfig) -> None:
    """Raise :class:`DeployError` unless each tensor has its name, shape, type and range."""
    shapes = {
        f"{kind}/{site.name}": allowed
        for site in network.sites.values()
        for kind, allowed in _shapes(site).items()
    }
    for name in shapes:
        if name not in tensors:
            raise DeployError(f"the tensor file has no {name}")
    for name, tensor in tensors.items():
        weight = network.constants.get(name.removeprefix("weight/")) if _is_weight(name) else None
        allowed = [tuple(weight.shape)] if weight is not None else shapes.get(name, [])
        if not allowed:
            raise DeployError(f"the tensor file has {name!r}, which the network does not have")
        if tuple(tensor.shape) not in allowed or not tensor.is_floating_point():
            raise DeployError(
                f"the tensor {name!r} must be floating-point of the shape {allowed[-1]}, got"
                f" {tensor.dtype} of {tuple(tensor.shape)}"
            )
        positive = not name.startswith("theta/") or bool((tensor > 0).all())
        if not (positive and bool(torch.isfinite(tensor).all())):
            raise DeployError(
                f"the tensor {name!r} must be finite{'' if positive else ' and above zero'}"
            )
    has_weights = any(_is_weight(name) for name in tensors) or not network.sites
    if "weight" in config.calibration.saves and not has_weights:
        raise DeployError(
            f"the tensor file has no weight/…, which {config.calibration.name} calibration saves"
        )


def _shapes(site: SpikingSite) -> dict[str, list[tuple[int, ...]]]:
    """The shapes that each kind of tensor may have for a layer."""
    channels = (site.width,)
    whole = tuple(site.to_channels(torch.empty((1, *site.shape), device="meta")).shape[1:])
    return {"theta": [channels], "bias": [channels], "v_init": [(), whole]}
