"""The deployed config: versioned JSON for the choices, hashed safetensors for the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from conversion._config import ConversionConfig
from conversion._errors import ConfigError, ConversionError, DeployError
from conversion._exits import ExitRule
from conversion._files import read_file, sha256, write_file
from conversion.energy import costs
from conversion.graph import Network, trace
from conversion.simulation import SpikingModel

SCHEMA = "spikefront/deploy"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """One point of a front, ready for another program.

    Attributes:
        model_fingerprint: SHA-256 of the ANN's operations, parameters and buffers.
        input_shape: Shape of one input sample.
        conversion: φ, ρ per layer, T, calibration.
        exit: Score and threshold per step of the early exit, or None.
        tensors: Name of the safetensors file beside the JSON: ``theta/<layer>`` and
            ``bias/<layer>``, each ``(C,)``; ``v_init/<layer>``, ``()`` or ``(C, ...)``; and with
            tuned weights ``weight/<parameter>``, of the network with BatchNorm folded.
        tensors_sha256: SHA-256 of that file.
        energy_model: The energy model's fields.
        measurement: What was measured, with n, split, interval, seed.
        provenance: Study, trial, versions, calibration-data fingerprint.
        input_dtype: Type of the inputs.
    """

    model_fingerprint: str
    input_shape: tuple[int, ...]
    conversion: ConversionConfig
    exit: ExitRule | None
    tensors: str
    tensors_sha256: str
    energy_model: Mapping[str, Any] = field(default_factory=dict)
    measurement: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    input_dtype: str = "float32"

    def to_json(self) -> str:
        """The JSON text, its own checksum included."""
        body = {
            "schema": SCHEMA,
            "version": VERSION,
            **vars(self),
            "conversion": self.conversion.to_dict(),
            "exit": asdict(self.exit) if self.exit else None,
        }
        return json.dumps({**body, "checksum": _checksum(body)}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> DeployConfig:
        """Read and check a JSON file.

        Raises:
            FileError: It cannot be read.
            DeployError: It is not such a config, of an unknown version, or was altered.
        """
        try:
            body = json.loads(read_file(path))
        except ValueError as error:
            raise DeployError(f"{path} is not JSON: {error}") from error
        if not isinstance(body, dict) or body.get("schema") != SCHEMA:
            raise DeployError(f"{path} is not a {SCHEMA} file")
        if body.get("version") != VERSION:
            raise DeployError(
                f"{path} has version {body.get('version')!r} of {SCHEMA}; this spikefront reads"
                f" version {VERSION}"
            )
        if body.pop("checksum", None) != _checksum(body):
            raise DeployError(f"{path} was altered after it was written: its checksum differs")
        return cls._from_body(path, body)

    @classmethod
    def _from_body(cls, path: str | Path, body: dict[str, Any]) -> DeployConfig:
        fields = {key: value for key, value in body.items() if key not in ("schema", "version")}
        try:
            fields["conversion"] = ConversionConfig.from_dict(fields["conversion"])
            fields["input_shape"] = tuple(fields["input_shape"])
            if fields["exit"] is not None:
                fields["exit"] = ExitRule(
                    score=fields["exit"]["score"], thresholds=tuple(fields["exit"]["thresholds"])
                )
            return cls(**fields)
        except (KeyError, TypeError, ConfigError) as error:
            raise DeployError(f"{path} is malformed: {error}") from error


def save(
    model: SpikingModel,
    path: str | Path,
    *,
    energy_model: Mapping[str, Any] | None = None,
    measurement: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> DeployConfig:
    """Write a spiking model as ``path`` (JSON) and a safetensors file beside it.

    The tensors' file carries its hash in its name, so an earlier export stays whole until the
    new JSON replaces the old one.

    Raises:
        FileError: The place cannot be written.
    """
    path = Path(path)
    tensors = {f"theta/{name}": theta for name, theta in model.thetas.items()}
    tensors |= {f"bias/{name}": bias for name, bias in model.biases.items()}
    tensors |= {f"v_init/{name}": v_init for name, v_init in model.v_inits.items()}
    tensors |= {f"weight/{name}": weight for name, weight in model.weights.items()}
    data = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    digest = sha256(data)
    config = DeployConfig(
        model_fingerprint=model.network.fingerprint,
        input_shape=model.network.sample_shape,
        input_dtype=str(model.network.input_dtype).removeprefix("torch."),
        conversion=model.config,
        exit=model.exit,
        tensors=f"{path.stem}.{digest[:12]}.safetensors",
        tensors_sha256=digest,
        energy_model=energy_model or {},
        measurement=measurement or {},
        provenance=provenance or {},
    )
    text = config.to_json()
    write_file(path.parent / config.tensors, data)
    write_file(path, text)
    return config


def load(path: str | Path, model: nn.Module, *, device: torch.device | str = "cpu") -> SpikingModel:
    """Rebuild a spiking model from a deployed config and the ANN it was made from.

    Args:
        path: The JSON file.
        model: The ANN, with its trained weights.
        device: Where the spiking model shall run.

    Raises:
        FileError: A file cannot be read.
        DeployError: A hash differs, the schema is unknown, or the model is another one.
        ConfigError: A layer is missing or unknown.
    """
    config = DeployConfig.read(path)
    tensors = _read_tensors(Path(path).parent, config)
    network = _the_model(path, config, model).to(device)
    config.conversion.check_layers(network.sites)
    return SpikingModel(
        network,
        costs(network),
        config.conversion,
        thetas=_per_layer(tensors, "theta", network.sites, device),
        biases=_per_layer(tensors, "bias", network.sites, device),
        v_inits=_per_layer(tensors, "v_init", network.sites, device),
        weights=_tuned_weights(tensors, config.conversion),
        exit=config.exit,
    )


def _the_model(path: str | Path, config: DeployConfig, model: nn.Module) -> Network:
    sample = torch.randn((2, *config.input_shape), generator=torch.Generator().manual_seed(0))
    dtype = getattr(torch, config.input_dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise DeployError(f"{path} is malformed: input_dtype is {config.input_dtype!r}")
    if not dtype.is_floating_point:
        sample = sample * 0  # the one index that every table has
    try:
        network = trace(model, sample.to(dtype))
    except ConversionError as error:
        raise DeployError(f"{path} does not fit this model: {error}") from error
    if network.fingerprint != config.model_fingerprint:
        raise DeployError(
            f"{path} belongs to another model: its fingerprint is"
            f" {config.model_fingerprint[:12]}…, this model's is {network.fingerprint[:12]}…"
        )
    return network


def _read_tensors(folder: Path, config: DeployConfig) -> dict[str, Tensor]:
    if Path(config.tensors).name != config.tensors:
        raise DeployError(f"the tensors' file must lie beside the JSON, got {config.tensors!r}")
    data = read_file(folder / config.tensors)
    if sha256(data) != config.tensors_sha256:
        raise DeployError(f"{folder / config.tensors} was altered: its SHA-256 differs")
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise DeployError(f"{folder / config.tensors} is not safetensors: {error}") from error


def _per_layer(
    tensors: dict[str, Tensor], kind: str, layers: Mapping[str, Any], device: torch.device | str
) -> dict[str, Tensor]:
    missing = [name for name in layers if f"{kind}/{name}" not in tensors]
    if missing:
        raise DeployError(f"the tensors' file has no {kind}/{missing[0]}")
    return {name: tensors[f"{kind}/{name}"].to(device) for name in layers}


def _tuned_weights(tensors: dict[str, Tensor], config: ConversionConfig) -> dict[str, Tensor]:
    prefix = "weight/"
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if "weight" in config.calibration.saves and config.layers and not found:
        raise DeployError(
            f"the tensors' file has no weight/…, which {config.calibration.name} calibration saves"
        )
    return found


def _checksum(body: Mapping[str, Any]) -> str:
    return sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
