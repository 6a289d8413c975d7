"""Where studies live, and waiting for it when it is away."""

from search.storage._folder import check_writable, hold
from search.storage._journal import JOURNAL_NAME, cut_torn_line
from search.storage._open import open_storage, without_password
from search.storage._patience import impatient, is_away, last_trouble, note_trouble, patient
from search.storage._serve import serve_storage

__all__ = [
    "JOURNAL_NAME",
    "check_writable",
    "cut_torn_line",
    "hold",
    "impatient",
    "is_away",
    "last_trouble",
    "note_trouble",
    "open_storage",
    "patient",
    "serve_storage",
    "without_password",
]
