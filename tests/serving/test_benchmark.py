"""benchmarks/serving.py takes turns, says where it is, and ends. No times."""

import itertools
import threading

import pytest

pytest.importorskip("tensorflow_serving")

from benchmarks import serving  # noqa: E402


class Answering:
    """A client of a host that may fail."""

    calls = itertools.count()
    fails = staticmethod(lambda number: False)

    def __init__(self, port):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def predict(self, request):
        if self.fails(next(self.calls)):
            raise ConnectionError("the host is gone")


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(serving, "Client", Answering)
    monkeypatch.setattr(Answering, "calls", itertools.count())
    return Answering


def test_turns(client, capsys):
    served = [serving.Served(name, 0) for name in "ab"]
    assert serving.take_turns(served, 2, seconds=0.01, minutes=1) == 2
    for each in served:
        assert len(each.latencies) == 2 and min(map(len, each.latencies)) >= 20
        assert len(each.rates) == 2 and min(each.rates) > 0
    assert capsys.readouterr().err.startswith("round 1 of 2; ")
    first, second = serving.table(served).splitlines()[2:]
    assert first.startswith("| a | ") and "| 1.00 |" in first and second.startswith("| b | ")


def test_time_is_up(client):
    served = [serving.Served("a", 0)]
    assert serving.take_turns(served, 1000, seconds=0.01, minutes=0.002) < 100


@pytest.mark.parametrize(
    "fails",
    [
        lambda number: number == 5,
        lambda number: number == 25,  # as the clients connect
        lambda number: threading.current_thread() is not threading.main_thread(),
    ],
)
def test_a_host_that_fails_ends_it(client, fails, monkeypatch):
    monkeypatch.setattr(client, "fails", staticmethod(fails))
    seconds = 0.0 if fails(25) else 0.01  # then the first client asks no more often than it must
    with pytest.raises(ConnectionError, match="gone"):
        serving.Served("a", 0).take_turn(seconds)
