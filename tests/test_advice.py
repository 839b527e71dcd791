from collections import Counter

from tunneld.advice import ADVICE, QUIET, Advisor
from tunneld.proto.errors import Reason


def test_a_reason_is_told_when_it_grows_and_then_not_for_a_minute(caplog):
    drops: Counter[Reason] = Counter()
    now = 100.0
    advisor = Advisor(lambda: drops, lambda: now)
    advisor.tell()
    drops[Reason.WRONG_MODE] = 3
    drops[Reason.NO_LINK] = 9
    advisor.tell()
    assert caplog.messages == [f"dropped 3 (wrong-mode): {ADVICE[Reason.WRONG_MODE]}"]
    drops[Reason.WRONG_MODE] = 5
    now += QUIET - 0.1
    advisor.tell()
    assert len(caplog.messages) == 1
    now += 0.1
    advisor.tell()
    now += QUIET
    advisor.tell()
    assert caplog.messages[1:] == [f"dropped 2 (wrong-mode): {ADVICE[Reason.WRONG_MODE]}"]
