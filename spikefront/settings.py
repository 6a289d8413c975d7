"""Options from a file: ``--config FILE.toml``, and the file that makes a study again."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import rich_click as click
from click import get_current_context
from click.core import ParameterSource

_GIVEN = "spikefront.given"
_FILE = "options_file"

_PLACES = {
    "out", "storage", "artifacts", "dask", "workers", "device", "batch_size", "timeout",
    "log_every",
}  # fmt: skip
"""Options that say where and how to run, not what."""


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--config``, read before every other option; the command does not see it."""
    return click.option(
        "--config",
        _FILE,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE.toml",
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="Options from a file, such as `trials = 60`, for all commands or under [search];"
        " the command line wins.",
    )(function)


def _read(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is not None:
        ctx.default_map = {**(ctx.default_map or {}), **settings_of(path, ctx)}


def settings_of(path: Path, ctx: click.Context) -> dict[str, Any]:
    """The options that a file holds for one command, by parameter name.

    Raises:
        click.BadParameter: It is not TOML, or holds an option that is not known.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is not TOML: {error}") from error
    group: Any = ctx.parent.command if ctx.parent else None
    commands: Mapping[str, click.Command] = getattr(group, "commands", {})
    everywhere = {key: v for key, v in content.items() if not isinstance(v, dict)}
    tables = {key: v for key, v in content.items() if isinstance(v, dict)}
    for name in tables:
        if name not in commands:
            raise click.BadParameter(f"{path}: there is no command [{name}]")
    known = set().union(*(_options(command) for command in commands.values()))
    if strange := sorted(set(everywhere) - known):
        raise click.BadParameter(f"{path}: no command has an option {strange[0]!r}")
    own = tables.get(ctx.info_name or "", {})
    options = _options(ctx.command)
    if strange := sorted(set(own) - set(options)):
        raise click.BadParameter(f"{path}: [{ctx.info_name}] has no option {strange[0]!r}")
    found = {**{k: v for k, v in everywhere.items() if k in options}, **own}
    return {options[key].name or "": _as_typed(value, options[key]) for key, value in found.items()}


def _options(command: click.Command) -> dict[str, click.Option]:
    """By the name that a user types, without dashes before it."""
    return {
        word.removeprefix("--"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name != _FILE
        for word in parameter.opts
        if word.startswith("--")
    }


def _as_typed(value: Any, parameter: click.Option) -> Any:
    """A list is a repeated option, or values with commas between."""
    if isinstance(value, list):
        texts = [str(one) for one in value]
        return texts if parameter.multiple else ",".join(texts)
    if parameter.multiple:
        return [str(value)]
    return value if isinstance(value, bool) else str(value)


def record_given(ctx: click.Context, typed: Mapping[str, Any]) -> None:
    """Remember the options of a command as they were typed."""
    ctx.meta[_GIVEN] = dict(typed)


def named_options(*names: str) -> list[str]:
    """Those of a command's options that were named, on the command line or in a file."""
    source = get_current_context().get_parameter_source
    by_user = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    return [name for name in names if source(name) in by_user]


def what_was_given() -> dict[str, Any]:
    """What the options of this command ask for, as typed, without where and how to run."""
    ctx = get_current_context()
    given = {**(ctx.default_map or {}), **ctx.meta.get(_GIVEN, {})}
    words = {p.name: word for word, p in reversed(_options(ctx.command).items())}
    return {
        words[name]: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if name in words and name not in _PLACES
    }


def as_toml(command: str, options: Mapping[str, Any]) -> str:
    """Options as a file that ``--config`` reads."""

    def lines(names: Iterable[str]) -> list[str]:
        return [f"{name} = {_toml(options[name])}" for name in names]

    shared = [name for name in options if name in _SHARED]
    own = [name for name in options if name not in _SHARED]
    return "\n".join([*lines(shared), f"[{command}]", *lines(own), ""])


_SHARED = {
    "task", "data", "model", "weights", "calibration-samples", "search-samples", "test-samples",
    "seed", "image-size", "classes", "ignore-label", "frames", "frames-by", "points",
}  # fmt: skip
"""Options that name a task, for every command."""


def _toml(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
        return value
    return json.dumps(value, ensure_ascii=False)
