from collections.abc import Callable

import pytest

from tests.chaos.history import History, Read, Tenure, Verdict, Write

MS = 1_000_000
S = 1000 * MS


class Story:
    """A history told row by row; each event takes 10 ms of its own, unless it says when."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.tenures: list[Tenure] = []
        self.final: dict[str, list[tuple[str, str]]] = {}

    def holder(self, name: str) -> None:
        self.now_ns += 10 * MS
        self.tenures.append(Tenure(holder=name, seen_ns=self.now_ns))

    def write(self, node: str, token: str, parent: str, outcome: str = "ok") -> None:
        begun, self.now_ns = self.now_ns, self.now_ns + 10 * MS
        self.writes.append(
            Write(node=node, token=token, parent=parent, begun_ns=begun, ended_ns=self.now_ns - 1, outcome=outcome)
        )

    def read(self, client: str, head: str, row_n: int) -> None:
        begun, self.now_ns = self.now_ns, self.now_ns + 10 * MS
        self.reads.append(
            Read(node="b", client=client, begun_ns=begun, ended_ns=self.now_ns - 1, head=head, row_n=row_n)
        )

    def end(self, *tokens: str, nodes: str = "abc") -> None:
        parents = ["", *tokens]
        self.final |= {node: list(zip(tokens, parents, strict=False)) for node in nodes}

    def verdict(self) -> Verdict:
        return History(self.writes, self.reads, self.tenures, self.final, slack_ns=20 * MS).check()


def calm() -> Story:
    """Three rows by one primary, read on a replica."""
    story = Story()
    story.holder("a")
    story.now_ns += S
    story.write("a", "1", "")
    story.read("r", "", 0)
    story.write("a", "2", "1")
    story.read("r", "1", 1)
    story.write("a", "refused", "2", "refused")
    story.write("a", "3", "2")
    story.read("r", "3", 3)
    return story


def failover() -> Story:
    """Node a dies; 3 was not sent, b goes on behind 2."""
    story = calm()
    story.holder("")
    story.now_ns += S
    story.holder("b")
    story.write("b", "4", "2")
    story.read("r", "4", 3)
    story.end("1", "2", "4")
    return story


def test_a_calm_history_is_sound() -> None:
    story = calm()
    story.end("1", "2", "3")
    verdict = story.verdict()
    assert verdict.violations == []
    assert (verdict.acknowledged_n, verdict.lost, verdict.read_n) == (3, [], 3)


def test_what_a_dead_primary_had_not_sent_is_lost_and_no_violation() -> None:
    verdict = failover().verdict()
    assert verdict.violations == []
    assert verdict.lost == ["3"]


def test_an_error_of_commit_leaves_both_outcomes_open() -> None:
    for final in (["1", "2", "3"], ["1", "2", "3", "4"]):
        story = calm()
        story.write("a", "4", "3", "unknown")
        story.end(*final)
        assert story.verdict().violations == []


def _lose_a_row(story: Story) -> None:
    story.end("1", "2")


def _show_a_row_twice(story: Story) -> None:
    story.end("1", "2", "3", "3")


def _show_a_refused_row(story: Story) -> None:
    story.end("1", "2", "3", "refused")


def _show_a_strange_row(story: Story) -> None:
    story.end("1", "2", "3", "strange")


def _show_rows_in_another_order(story: Story) -> None:
    story.end("2", "1", "3")


def _show_different_rows(story: Story) -> None:
    story.end("1", "2", "3")
    story.end("1", "2", nodes="b")


def _go_back(story: Story) -> None:
    story.end("1", "2", "3")
    story.read("r", "2", 2)


def _read_a_refused_row(story: Story) -> None:
    story.end("1", "2", "3")
    story.read("r", "refused", 3)


def _read_half_a_prefix(story: Story) -> None:
    story.end("1", "2", "3")
    story.read("r", "3", 2)


def _read_a_strange_row(story: Story) -> None:
    story.end("1", "2", "3")
    story.read("r", "strange", 4)


def _acknowledge_without_the_lease(story: Story) -> None:
    story.holder("b")
    story.write("b", "4", "3")
    story.now_ns += S
    story.write("a", "5", "3")
    story.now_ns += S
    story.end("1", "2", "3", "4")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_lose_a_row, "3 was acknowledged by the last primary and is missing"),
        (_show_a_row_twice, "a shows a row twice"),
        (_show_a_refused_row, "a shows refused, which was refused"),
        (_show_a_strange_row, "a shows strange, which nobody wrote"),
        (_show_rows_in_another_order, "a shows 2 behind nothing; it was written behind 1"),
        (_show_different_rows, "b shows 2 rows, another node 3, or other ones"),
        (_go_back, "r saw 3 and then 2, which is older"),
        (_read_a_refused_row, "r saw refused, which was refused"),
        (_read_half_a_prefix, "r saw 2 rows to 3, which is number 3"),
        (_read_a_strange_row, "r saw strange, which nobody wrote"),
        (_acknowledge_without_the_lease, "5 was acknowledged by a while b was primary"),
    ],
)
def test_what_cannot_be_is_found(change: Callable[[Story], None], words: str) -> None:
    story = calm()
    change(story)
    if words.startswith("a shows 2 behind"):
        story.final = {node: [("2", "1"), ("1", ""), ("3", "2")] for node in "abc"}
    assert words in story.verdict().violations


def test_a_row_whose_commit_met_the_change_of_the_lease_is_not_held_against_anybody() -> None:
    story = failover()
    story.holder("a")
    story.writes.append(
        Write(node="a", token="5", parent="4", begun_ns=story.now_ns - 5 * MS, ended_ns=story.now_ns, outcome="ok")
    )
    story.end("1", "2", "4", "5")
    assert story.verdict().violations == []


def test_a_reader_may_go_back_where_another_primary_had_less() -> None:
    story = failover()
    story.reads.insert(
        -1, Read(node="b", client="s", begun_ns=story.now_ns - 2 * S, ended_ns=story.now_ns - 2 * S, head="3", row_n=3)
    )
    story.read("s", "2", 2)
    assert story.verdict().violations == []
