from collections import Counter

import pytest

from tunneld import advice
from tunneld.advice import QUIET, Advisor
from tunneld.diagnosis import SENTENCES
from tunneld.proto.errors import Reason
from tunneld.remedies import REMEDIES


def test_a_reason_is_told_when_it_grows_and_then_not_for_a_minute(caplog):
    drops: Counter[Reason] = Counter()
    now = 100.0
    advisor = Advisor(lambda: drops, (Reason.WRONG_MODE,), lambda: now)
    advisor.tell()
    drops[Reason.WRONG_MODE] = 3
    drops[Reason.NO_LINK] = 9
    advisor.tell()
    assert caplog.messages == [f"dropped 3 (wrong-mode): {REMEDIES[Reason.WRONG_MODE]}"]
    drops[Reason.WRONG_MODE] = 5
    now += QUIET - 0.1
    advisor.tell()
    assert len(caplog.messages) == 1
    now += 0.1
    advisor.tell()
    now += QUIET
    advisor.tell()
    assert caplog.messages[1:] == [f"dropped 2 (wrong-mode): {REMEDIES[Reason.WRONG_MODE]}"]


@pytest.mark.parametrize("reasons", [advice.PLAIN, advice.SEALED])
def test_advice_says_what_to_do(reasons):
    assert not [reason for reason in reasons if "nothing to do" in REMEDIES[reason]]


def test_nothing_is_told_twice():
    assert not SENTENCES.keys() & set(advice.SEALED)
