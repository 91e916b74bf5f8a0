"""What people see."""

from rollcall.faces.cli.common import _escaped


def test_escapes_of_a_terminal_are_shown_and_not_sent_on():
    assert _escaped("\x1b]0;PWNED\x07 ok\né") == "\\x1b]0;PWNED\\x07 ok\né"
