"""Signals during training: the first is a request, a second Ctrl-C ends at once."""

import os
import signal
import threading

import pytest

from vae_keras.training.signals import Signals, Stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request(number):
    with Signals() as signals:
        signals.check("before the signal")
        os.kill(os.getpid(), number)
        assert signals.received == number
        with pytest.raises(Stopped, match="after the signal"):
            signals.check("after the signal")


def test_a_second_ctrl_c_ends_at_once():
    with Signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_is_still_a_request():
    with Signals() as signals:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signals.received == signal.SIGTERM


def test_the_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Signals():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_thread_sets_no_handler():
    """Python refuses it."""
    ended = []

    def work():
        with Signals() as signals:
            ended.append(signals.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [None]


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_ends_the_process_while_there_is_nothing_to_save(number, ends):
    with Signals(armed=False) as signals:
        with pytest.raises(ends):
            os.kill(os.getpid(), number)
        signals.armed = True
        os.kill(os.getpid(), number)
        assert signals.received == number
