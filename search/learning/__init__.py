"""Learned states of a study: where they are stored, and which can be removed."""

from search.learning._pruning import needless_states
from search.learning._states import ARTIFACTS_NAME, ArtifactStates, note_artifact, open_states

__all__ = ["ARTIFACTS_NAME", "ArtifactStates", "needless_states", "note_artifact", "open_states"]
