"""A host that is down is left alone between two attempts."""

from ccfd.vt.breaker import Breaker


def test_a_new_breaker_lets_everybody_pass() -> None:
    breaker = Breaker(rest=5)
    assert breaker.closed
    assert breaker.retry_in(0) == 0


def test_after_a_failure_the_host_rests() -> None:
    breaker = Breaker(rest=5)
    breaker.trip(100)
    assert not breaker.closed
    assert breaker.retry_in(104) == 1
    assert breaker.retry_in(105) == 0
    assert not breaker.closed


def test_after_a_call_that_did_not_return_the_host_may_be_tried_at_once() -> None:
    breaker = Breaker(rest=5)
    breaker.trip(100, rested=True)
    assert not breaker.closed
    assert breaker.retry_in(100) == 0


def test_a_success_closes_it() -> None:
    breaker = Breaker(rest=5)
    breaker.trip(100)
    breaker.reset()
    assert breaker.closed
    assert breaker.retry_in(100) == 0
