"""The deployed config: versioned JSON for the choices, hashed safetensors for the tensors."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from conversion._config import ConversionConfig
from conversion._errors import ConfigError, ConversionError, DeployError
from conversion._exits import ExitRule
from conversion._files import read_file, sha256, write_file
from conversion._tensors import model_of, read_tensors, tensors_of
from conversion.energy import costs
from conversion.graph import FEEDS, Feed, Inputs, Network, build_network
from conversion.graph._capture import Model
from conversion.integers import in_integers
from conversion.outputs import outputs_from_dict
from conversion.simulation import SpikingModel

SCHEMA = "spikefront/deploy"
VERSION = 4

_LOG = logging.getLogger("spikefront")


@dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """One point of a front, ready to deploy in another program.

    Attributes:
        model_fingerprint: SHA-256 of the ANN's operations and all tensors they use.
        inputs: Structure, shapes and types of the ANN's inputs, for one sample.
        outputs: How the ANN's outputs are interpreted: a kind and its fields.
        feed: How inputs arrive over time: ``static``, ``frames`` or ``events``.
        conversion: φ, ρ per layer, T, calibration.
        exit: Score and threshold per step of the early exit, or None.
        tensors: Name of the safetensors file next to the JSON: ``theta/<layer>`` and
            ``bias/<layer>``, each ``(C,)``; ``v_init/<layer>``, ``()`` or ``(C, ...)``; and with
            tuned weights ``weight/<parameter>``, of the network with BatchNorm folded.
        tensors_sha256: SHA-256 of that file.
        energy_model: The energy model's fields.
        measurement: The measurement, with n, split, interval and seed.
        provenance: Study, trial, versions, calibration-data fingerprint.
        version: Version of the format.
    """

    model_fingerprint: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    feed: Feed
    conversion: ConversionConfig
    exit: ExitRule | None
    tensors: str
    tensors_sha256: str
    energy_model: Mapping[str, Any] = field(default_factory=dict)
    measurement: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def __post_init__(self) -> None:
        for name in ("model_fingerprint", "tensors_sha256"):
            if not re.fullmatch("[0-9a-f]{64}", _text(name, getattr(self, name))):
                raise ConfigError(f"{name} must be a SHA-256 in hexadecimal digits")
        if Path(_text("tensors", self.tensors)).name != self.tensors:
            raise ConfigError(
                f"the tensor file must be next to the JSON file, got {self.tensors!r}"
            )
        if not 1 <= len(self.tensors.encode("utf-8", "replace")) <= 255 or "\0" in self.tensors:
            raise ConfigError(f"the tensor file has an invalid name, got {self.tensors[:40]!r}")
        if self.feed not in FEEDS:
            raise ConfigError(f"feed must be one of {', '.join(FEEDS)}, got {self.feed!r}")
        for name in ("inputs", "outputs", "energy_model", "measurement", "provenance"):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigError(f"{name} must be an object, got {getattr(self, name)!r}")
        if self.exit is not None and len(self.exit.thresholds) < self.conversion.timesteps:
            raise ConfigError(
                f"an exit rule needs {self.conversion.timesteps} thresholds, got"
                f" {len(self.exit.thresholds)}"
            )

    def to_json(self) -> str:
        """The JSON text, including its own checksum.

        Raises:
            DeployError: A value cannot be represented in JSON.
        """
        body = {
            "schema": SCHEMA,
            **vars(self),
            "conversion": self.conversion.to_dict(),
            "exit": asdict(self.exit) if self.exit else None,
        }
        plain = {key: _jsonable(value, key) for key, value in body.items()}
        return json.dumps({**plain, "checksum": _checksum(plain)}, indent=2) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> DeployConfig:
        """Read and check a JSON file.

        Raises:
            FileError: The file cannot be read.
            DeployError: The file is not a deployed config, has an unknown version, or was altered.
        """
        try:
            body = json.loads(read_file(path), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise DeployError(f"{path} is not JSON: {error}") from error
        if not isinstance(body, dict) or body.get("schema") != SCHEMA:
            raise DeployError(f"{path} is not a {SCHEMA} file")
        if body.get("version") not in range(1, VERSION + 1) or isinstance(body["version"], bool):
            raise DeployError(
                f"{path} has version {body.get('version')!r} of {SCHEMA}; this spikefront reads"
                f" versions 1 to {VERSION}"
            )
        if body.pop("checksum", None) != _checksum(body):
            raise DeployError(f"{path} was altered after it was written: its checksum differs")
        try:
            return cls._from_body(_brought_up(body))
        except (KeyError, TypeError, ValueError, ConfigError, OverflowError) as error:
            raise DeployError(f"{path} is malformed: {error}") from error

    def read_tensors(self, folder: str | Path) -> dict[str, Tensor]:
        """Read the tensors from the folder of the JSON file.

        Raises:
            FileError: The file cannot be read.
            DeployError: The file was altered, or is a link to another folder.
        """
        path = Path(folder) / self.tensors
        if path.is_symlink() and path.resolve().parent != Path(folder).resolve():
            raise DeployError(
                f"{path} links to another folder; the tensor file must be next to the JSON file"
            )
        data = read_file(path)
        if sha256(data) != self.tensors_sha256:
            raise DeployError(f"{path} was altered: its SHA-256 differs")
        return read_tensors(data, str(path))

    @classmethod
    def _from_body(cls, body: Mapping[str, Any]) -> DeployConfig:
        fields = {key: value for key, value in body.items() if key != "schema"}
        fields["conversion"] = ConversionConfig.from_dict(fields["conversion"])
        if fields["exit"] is not None:
            rule = fields["exit"]
            fields["exit"] = ExitRule(score=rule["score"], thresholds=tuple(rule["thresholds"]))
        return cls(**fields)


def save(
    model: SpikingModel,
    path: str | Path,
    *,
    energy_model: Mapping[str, Any] | None = None,
    measurement: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> DeployConfig:
    """Write a spiking model as ``path`` (JSON) and a safetensors file next to it.

    The tensor file has its hash in its name, so an earlier export stays intact until the new JSON
    replaces the old one.

    Raises:
        FileError: The file cannot be written.
        DeployError: A value cannot be represented in JSON.
    """
    path = Path(path)
    data = safetensors.torch.save(tensors_of(model))
    digest = sha256(data)
    try:
        inputs = model.network.inputs.to_spec()
    except ConversionError as error:
        raise DeployError(f"the model cannot be saved: {error}") from error
    config = DeployConfig(
        model_fingerprint=model.network.fingerprint,
        inputs=inputs,
        outputs=model.outputs.to_dict(),
        feed=model.network.feed,
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


def load(path: str | Path, model: Model, *, device: torch.device | str = "cpu") -> SpikingModel:
    """Rebuild a spiking model from a deployed config and its ANN.

    Args:
        path: The JSON file.
        model: The ANN, with its trained weights.
        device: Where the spiking model runs.

    Raises:
        FileError: A file cannot be read.
        DeployError: A hash differs, the schema is unknown, a tensor is malformed, or the model is
            not the one that was exported.
        ConfigError: A layer is missing or unknown.
    """
    if not isinstance(path, (str, Path)):
        raise DeployError(f"load takes the path of the JSON file first, got {type(path).__name__}")
    config = DeployConfig.read(path)
    tensors = config.read_tensors(Path(path).parent)
    network = _the_model(path, config, model).to(device)
    config.conversion.check_layers(network.sites)
    try:
        read = outputs_from_dict(config.outputs).chosen(network.output_names)
    except (ConversionError, ConfigError) as error:
        raise DeployError(f"{path} does not fit this model: {error}") from error
    found = model_of(
        network, costs(network), config.conversion, tensors, outputs=read, exit=config.exit
    )
    return in_integers(found)


def _the_model(path: str | Path, config: DeployConfig, model: Model) -> Network:
    try:
        samples = Inputs.from_spec(config.inputs, samples=2)
    except ConversionError as error:
        raise DeployError(f"{path} is malformed: {error}") from error
    try:
        network = build_network(model, samples, feed=config.feed, check=False)
    except ConversionError as error:
        raise DeployError(
            f"{path} does not fit this model, which must take inputs of the shape"
            f" {samples.describe()}: {error}"
        ) from error
    if config.version == 1:
        _LOG.warning(
            "%s has version 1 of the format, whose fingerprint of the model can no longer be"
            " checked: export it again to be sure that it belongs to this model",
            path,
        )
    elif network.fingerprint != config.model_fingerprint:
        raise DeployError(
            f"{path} belongs to another model: its fingerprint is"
            f" {config.model_fingerprint[:12]}…, this model's is {network.fingerprint[:12]}…"
        )
    return network


def _brought_up(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of any version as this one has them."""
    fields = dict(body)
    if fields["version"] == 1:
        fields = _of_version_1(fields)
    if fields["version"] < 3:
        place = fields.pop("output")
        if type(place) is not int or place < 0:
            raise ConfigError(f"output must be a whole number >= 0, got {place!r}")
        fields |= {"outputs": {"kind": "classes", "output": place}, "feed": "static"}
    return fields


def _of_version_1(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of version 1 as version 2 had them."""
    fields = dict(body)
    shape, dtype = fields.pop("input_shape"), fields.pop("input_dtype", "float32")
    conversion = dict(fields["conversion"])
    options = {key: conversion.pop(key) for key in ("iterations", "energy_weight")}
    known = {"tuned": ("iterations",), "learned": ("iterations", "energy_weight")}
    name = conversion["calibration"]
    kept = {key: options[key] for key in known.get(name, ())}
    conversion["calibration"] = {"name": name, **kept}
    tensor = {"tensor": {"shape": shape, "dtype": dtype}}
    inputs = {"args": [tensor], "kwargs": {"dict": {}}}
    return {**fields, "conversion": conversion, "inputs": inputs, "output": 0}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a string, got {value!r}")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a valid JSON number")


def _jsonable(value: Any, where: str) -> Any:
    """A value as JSON has it: paths as texts, numbers of NumPy and torch as numbers.

    Raises:
        DeployError: It is NaN, infinite, or of a type that JSON does not have.
    """
    if isinstance(value, Mapping):
        return {str(key): _jsonable(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist") and not isinstance(value, (str, bytes)):  # NumPy, torch
        return _jsonable(value.tolist(), where)
    if isinstance(value, float) and not math.isfinite(value):
        raise DeployError(f"{where} is {value}, which JSON cannot represent")
    if isinstance(value, (type(None), bool, int, float, str)):
        return value
    raise DeployError(f"{where} is a {type(value).__name__}, which JSON cannot represent")


def _checksum(body: Mapping[str, Any]) -> str:
    return sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
