"""Type checkers see the signatures that the layers have."""

from tests import stubs


def test_stub_is_of_today():
    """`python -m tests.stubs` writes it."""
    assert stubs.PATH.read_text() == stubs.stub()
