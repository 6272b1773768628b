"""Messages on standard error: without control characters, with an exit code and what to do next."""

from __future__ import annotations

import builtins
import errno
import io
import os
import sys
from pathlib import Path

import pytest

from src import console
from src.errors import AuthError, Detached, ExitCode, HostError, InputError, UpsamplerError
from src.files import relative


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that was started."""
    (tmp_path / "plan.json").touch()
    return tmp_path


def test_messages_have_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    console.message("a\x1b[2Jb\nc")
    assert capsys.readouterr() == ("", "a\\u001b[2Jb\nc\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("no prompts"), ExitCode.INPUT),
        (AuthError("login failed"), ExitCode.AUTH),
        (UpsamplerError("broken"), ExitCode.BUG),
    ],
)
def test_error_has_message_hint_and_code(
    run: Path, capsys: pytest.CaptureFixture[str], error: UpsamplerError, code: ExitCode
) -> None:
    error.hint = "do this"
    assert console.report_error(error, run) is code
    assert capsys.readouterr().err.startswith(f"error: {error.message}\n  → do this\n")


def test_host_error_names_the_resume_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.report_error(HostError("no space"), run) is ExitCode.HOST
    assert f"python -m src.run resume={run}" in capsys.readouterr().err


def test_host_error_before_the_start_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console.report_error(HostError("no space"), tmp_path)
    assert "resume=" not in capsys.readouterr().err


def test_detaching_is_no_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.report_error(Detached("detached"), run) is ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "detached\n"


def test_system_error_names_its_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.report_error(PermissionError(13, "Permission denied", "/root/x"), run) is ExitCode.HOST
    err = capsys.readouterr().err
    assert err.startswith("error: /root/x: Permission denied") and f"resume={run}" in err


def test_unexpected_error_is_a_bug(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.report_error(KeyError("x"), run) is ExitCode.BUG
    err = capsys.readouterr().err
    assert "unexpected KeyError" in err and str(run / "log.jsonl") in err


def test_paths_below_the_folder_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert relative(tmp_path / "outputs" / "x") == Path("outputs/x")
    assert relative(Path("/elsewhere")) == Path("/elsewhere")


def test_text_of_others_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    out = console.results_console()
    table = Table("[/] head")
    table.add_row("[red]\x1b[2J :smile: [/opt/x.py:12]")
    out.print(table)
    out.print("[/] oops", "\x1b]0;title\x07")
    out.rule("[/] rule")
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert all(text in said for text in ("[/] head", "[red]", ":smile:", "[/opt/x.py:12]", "[/] oops", "[/] rule"))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_messages_to_nobody_end_nothing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A terminal that was closed, or a full disk under 2> FILE."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(sys, "stderr", Gone())
    console.messages_console().print("a line")
    console.message("a message")
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(OSError, match=os.strerror(code)):  # results that cannot be written are an error
        console.results_console().print("a row")


def test_results_are_printed_in_a_notebook_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where rich would show them by itself, in place of writing them."""
    shell = type("ZMQInteractiveShell", (), {})
    monkeypatch.setattr(builtins, "get_ipython", shell, raising=False)
    console.results_console().print("a row")
    assert capsys.readouterr().out == "a row\n"


def test_closed_streams_take_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console.accept_any_terminal()
    print("text")
    console.flush()
