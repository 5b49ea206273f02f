"""The journal's log says the same as the journal, however often it was read in between."""

from hypothesis import given
from hypothesis import strategies as st

from ccfd.workflow.journal import Journal, StepState
from ccfd.workflow.steps import Step, Steps

NOW = 1767225600.25
ERROR = {"code": "internal", "message": "two\nlines, and \u2028 one more"}
STEPS = Steps(
    tuple(tuple(Step("make", {"n": n}) for n in range(width)) for width in (1, 3, 2)), pivot=3
)

stages = st.lists(st.sampled_from(["done", "failed", "cut off"]), max_size=8)


@given(history=stages, reread=st.sets(st.integers(0, 8)))
def test_the_log_says_what_the_journal_says(history: list[str], reread: set[int]) -> None:
    journal, log = Journal.fresh(STEPS), ""
    for number, event in enumerate(history):
        if not 0 <= journal.stage < len(STEPS.stages):
            break
        work(journal, event)
        log += journal.line()
        journal.touched.clear()
        assert Journal.read(log, STEPS) == journal
        if number in reread:
            journal = Journal.read(log, STEPS)


def work(journal: Journal, event: str) -> None:
    """Have the steps of the stage under way end by *event*."""
    first = STEPS.offsets[journal.stage]
    for index in range(first, first + len(STEPS.stages[journal.stage])):
        record = journal.records[index]
        record.begin(NOW)
        record.attempts += 1
        record.calls = [{"service": "libvirt", "what": "boot"}]
        journal.touched.add(index)
        if event == "done":
            record.value = {"made": index}
            record.end(StepState.UNDONE if journal.backward else StepState.DONE, NOW)
        elif event == "failed":
            record.end(StepState.FAILED, NOW, ERROR)
    if event == "failed" and journal.backward:
        journal.give_up(ERROR)
    elif event == "failed":
        journal.turn_back(ERROR, STEPS)
    elif event == "done":
        journal.advance()


def test_a_line_tells_only_of_what_was_touched() -> None:
    journal = Journal.fresh(STEPS)
    work(journal, "done")
    first = journal.line()
    journal.touched.clear()
    work(journal, "cut off")
    assert len(journal.line()) < 4 * len(first)
    assert '"0":' not in journal.line()
