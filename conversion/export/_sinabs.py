"""The network in sinabs: the arrays of npz, and a file that builds sinabs's layers from them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from conversion._exits import ExitRule
from conversion._files import write_file
from conversion.export._npz import save_npz
from conversion.export._program import ExportError, Program


def save_sinabs(program: Program, path: Path, *, exit: ExitRule | None = None) -> list[Path]:
    """Write ``path`` (npz) and the ``.py`` file that makes a network of sinabs's layers from it.

    ``MaxSpike(φ)``, soft reset and initial potentials make the neurons exactly ours, so branches
    with layers of their own and max pooling work too, which NIR's reader does not support.

    Args:
        program: With thresholds of 1, in floating point.
        path: Path of the arrays, ending in ``.npz``.
        exit: Stored with the arrays; the network does not apply it.

    Raises:
        ExportError: A neuron fires negative spikes, has a ceiling, or a threshold other than 1.
        FileError: A file cannot be written.
    """
    for layer in program.fires:
        assert layer.neuron is not None
        if layer.neuron.signed:
            raise ExportError(
                f"{layer.name!r} fires negative spikes, which sinabs does not support"
            )
        if layer.neuron.ceiling is not None:
            raise ExportError(
                f"{layer.name!r} has a ceiling (ReLU6), which sinabs does not support"
            )
        if not bool((layer.neuron.threshold == 1).all()):
            raise ExportError(f"{layer.name!r} needs a threshold of 1; see program_of")
    code = resources.files("conversion.export").joinpath("_sinabs_network.py").read_text("utf-8")
    builder = path.with_suffix(".py")
    return [
        *save_npz(program, path, exit=exit),
        write_file(builder, code.replace("NAME.sinabs.py", builder.name)),
    ]
