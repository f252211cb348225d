import pytest

from kqs.cli.progress import shown_progress


def test_a_bar_shows_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress("reading", 200, wanted=True) as progress:
        progress.advance(100)
    shown = capsys.readouterr()
    assert "100/200 bytes" in shown.err
    assert shown.out == ""


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress("reading", 200) as progress:
        progress.advance(100)
    assert capsys.readouterr() == ("", "")
