from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import optuna
import pytest

from conversion import FileError
from search import StudyError, cut_torn_line, hold, open_storage, without_password


def finished_study(path: Path, trials: int = 3) -> optuna.Study:
    study = optuna.create_study(study_name="s", storage=open_storage(path), load_if_exists=True)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)
    return study


@pytest.mark.parametrize("tail", [b'{"op_code":', b"x" * 200_000])
def test_a_torn_last_line_is_cut_and_nothing_else_is_lost(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "study.journal"
    finished_study(path)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    again = finished_study(path, trials=2)
    assert len(again.trials) == 5
    assert path.read_bytes().startswith(whole)
    assert len(optuna.load_study(study_name="s", storage=open_storage(path)).trials) == 5


def test_the_tail_is_mended_while_others_have_the_journal_open(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = finished_study(path)
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"torn')  # a writer that was killed in the middle of a line
    study.optimize(lambda trial: 0.0, n_trials=1)
    assert len(optuna.load_study(study_name="s", storage=open_storage(path)).trials) == 4


def test_whole_and_empty_files_are_left_alone(tmp_path: Path) -> None:
    for content in (b"", b"one\n", b"one\ntwo\n"):
        path = tmp_path / "j"
        path.write_bytes(content)
        cut_torn_line(path)
        assert path.read_bytes() == content
    path.write_bytes(b"no line end at all")
    cut_torn_line(path)
    assert path.read_bytes() == b""


def look_as_another_user(path: Path) -> None:
    if os.getuid() == 0:
        os.setuid(65534)
    before = path.read_bytes()
    study = optuna.load_study(study_name="s", storage=open_storage(path, create=False))
    assert len(study.trials) == 3
    with pytest.raises(FileError, match=r"cannot write the study's journal .*: it is read-only"):
        study.set_user_attr("a", 1)
    assert path.read_bytes() == before
    os._exit(3)


def test_a_journal_of_someone_else_can_be_read(folder: Path) -> None:
    path = folder / "study.journal"
    finished_study(path)
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"torn')  # the owner is writing
    path.chmod(0o444)
    folder.chmod(0o555)
    process = multiprocessing.get_context("fork").Process(target=look_as_another_user, args=(path,))
    process.start()
    process.join(60)
    folder.chmod(0o755)
    assert process.exitcode == 3


def look_into_a_closed_folder(path: Path) -> None:
    if os.getuid() == 0:
        os.setuid(65534)
    with pytest.raises(FileError, match="cannot write the study's journal"):
        open_storage(path)
    os._exit(3)


def test_a_journal_in_a_closed_folder_is_an_error_of_ours(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir()
    finished_study(closed / "study.journal")
    closed.chmod(0o600)
    process = multiprocessing.get_context("fork").Process(
        target=look_into_a_closed_folder, args=(closed / "study.journal",)
    )
    process.start()
    process.join(60)
    closed.chmod(0o755)
    assert process.exitcode == 3


def write_and_die(path: str) -> None:
    storage = open_storage(path)
    storage.impatient._backend._lock.acquire()  # type: ignore[attr-defined]
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_lock_holder_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    finished_study(path)
    process = multiprocessing.get_context("spawn").Process(target=write_and_die, args=(str(path),))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    finished_study(path, trials=1)  # Optuna's own lock would wait 30 s here
    assert len(finished_study(path, trials=0).trials) == 4


def test_urls(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path / 'a.db'}", f"journal://{tmp_path / 'a.journal'}"):
        study = optuna.create_study(storage=open_storage(url))
        study.optimize(lambda trial: 1.0, n_trials=1)
    assert (tmp_path / "a.db").exists()
    assert (tmp_path / "a.journal").exists()


def test_errors_do_not_show_passwords(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot open the storage") as caught:
        open_storage("postgresql+nodriver://me:secret@host/db")
    assert "secret" not in str(caught.value)
    assert "me:***@host/db" in str(caught.value)
    assert without_password("mysql://host/db?user=me&password=secret&x=1") == (
        "mysql://host/db?user=me&password=***&x=1"
    )
    finished_study(tmp_path / "bad.journal")
    with (tmp_path / "bad.journal").open("a") as journal:
        journal.write("this is not JSON\n{}\n")
    message = r"line \d+ of \d+ of .*bad\.journal is damaged: .*loses the 1 lines after"
    with pytest.raises(StudyError, match=message):
        open_storage(tmp_path / "bad.journal")
    for content in (b"a text\nand no journal", b"SQLite format 3\0 no line end"):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(StudyError, match="other is not an Optuna journal"):
            open_storage(tmp_path / "other", create=False)
        assert (tmp_path / "other").read_bytes() == content, "and stays as it was"
    with pytest.raises(StudyError, match="'sqlit' is no kind that is known"):
        open_storage("sqlit:///x.db")
    for url in (tmp_path / "none.journal", f"sqlite:///{tmp_path}/none.db?timeout=5"):
        with pytest.raises(StudyError, match="there is no storage"):
            open_storage(url, create=False)
    (tmp_path / "foreign.journal").write_text('{"a": 1}\n')
    with pytest.raises(StudyError, match=r"foreign\.journal is not an Optuna journal"):
        open_storage(tmp_path / "foreign.journal")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write the study's journal"):
        open_storage(tmp_path / "file" / "study.journal")


def test_a_folder_is_held_by_one_search_at_a_time(tmp_path: Path) -> None:
    first = hold(tmp_path / "out")
    with pytest.raises(StudyError, match="is held by another search"):
        hold(tmp_path / "out")
    first.release()
    hold(tmp_path / "out").release()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write in"):
        hold(tmp_path / "file" / "out")
