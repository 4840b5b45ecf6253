"""Replacements that the node process prepares over the link, and what else goes on while one is under way."""

import msgspec
import pytest

from litefs.filesystem.inodes import Kind
from litefs.filesystem.loop import Waiter
from litefs.link import messages as m
from litefs.link.channel import encode
from litefs.storage.state import NEXT_STATE_NAME, read_state
from tests.support.fuseless_link import NODE_PID, Link, new_state, pause


def test_a_prepared_replacement_waits_under_a_name_of_its_own(link: Link) -> None:
    fh = link.mount.create("a.db", mode=0o640)
    link.mount.commit("a.db", fh, 1)
    link.greet()
    request = new_state(link)
    (ready,) = link.ask(request)
    assert isinstance(ready, m.ReplacementReady)
    waiting = link.mount.inodes.by_name[ready.mount_name]
    old = link.mount.inodes.by_name["a.db"]
    assert waiting.kind is Kind.REPLACEMENT
    assert (waiting.mode, waiting.uid, waiting.gid) == (old.mode, old.uid, old.gid)
    assert (link.mount.store.directory("a.db") / "state.next").exists()
    assert link.mount.database("a.db").txid == 1
    assert link.ask(request) == [ready]
    assert link.mount.inodes.by_name[ready.mount_name] is waiting


@pytest.mark.parametrize("incoming", ["", "database", "incoming-2", "incoming-1/../state"])
def test_a_replacement_by_something_else_is_rejected(link: Link, incoming: str) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.greet()
    request = msgspec.structs.replace(new_state(link), incoming=incoming)
    assert [type(each) for each in link.ask(request)] == [m.Rejected]
    assert not (link.mount.store.directory("a.db") / "state.next").exists()
    assert link.mount.position() == 1


def test_a_replacement_takes_the_place_of_one_that_was_never_flipped(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.greet()
    first = new_state(link)
    link.ask(first)
    directory = link.mount.store.directory("a.db")
    (directory / "incoming-2").touch()
    link.ask(msgspec.structs.replace(first, incoming="incoming-2"))
    assert [path.name for path in directory.glob("incoming-*")] == ["incoming-2"]


def test_a_replacement_remembers_which_commits_over_several_databases_the_old_log_decided(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.mount.database("a.db").group = 5
    link.greet()
    link.ask(new_state(link))
    planned = read_state(link.mount.store.directory("a.db"), NEXT_STATE_NAME)
    assert planned is not None
    assert planned.group == 5


def test_the_answer_to_a_link_that_is_gone_does_not_reach_the_next_one(link: Link) -> None:
    """The request is still waiting for the disk when the node process dies."""
    link.mount.create("a.db")
    link.greet()
    request = new_state(link)
    link.socket.sendall(encode(request))

    async def until_offloaded() -> None:
        while not link.mount.loop._pending_jobs:
            await link.mount.loop.yield_now()
        link.socket.close()
        link.attach()

    link.mount.do(until_offloaded())
    link.settle()
    assert link.received() == []
    link.greet()


def _blocked_replacements(link: Link) -> Waiter:
    """Lets no replacement be prepared before the waiter completes."""
    blocked = Waiter(link.mount.loop)

    async def block(request: m.PrepareReplacement) -> m.Answer:
        await blocked
        return m.Rejected(request.name, "blocked")

    link.server._prepare_replacement = block  # type: ignore[method-assign]
    return blocked


def test_a_sign_of_life_does_not_wait_for_what_takes_long(link: Link) -> None:
    link.greet()
    blocked = _blocked_replacements(link)
    link.socket.sendall(encode(new_state(link)) + encode(m.Ping()))
    link.mount.do(pause(link))
    assert link.received() == [m.Pong()]
    blocked.complete()
    link.settle()


def test_requests_of_a_dead_node_are_not_carried_out(link: Link) -> None:
    """What still lies in the queue came from a process that is gone; the next one says what holds."""
    link.greet()
    blocked = _blocked_replacements(link)
    request = new_state(link)
    link.socket.sendall(encode(request) + encode(m.SetPrimary("stale")))
    link.mount.do(pause(link))
    link.socket.close()
    link.mount.do(pause(link))
    blocked.complete()
    link.settle()
    assert link.mount.view.primary == ""


def test_what_a_dead_node_process_left_of_new_states_goes_when_the_next_one_comes(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    directories = [link.mount.store.directory(name) for name in ("a.db", "b.db")]
    directories[1].mkdir()  # of a database that never came
    dead, ours = f"incoming-{NODE_PID + 1}-0", f"incoming-{NODE_PID}-0"
    for directory in directories:
        for name in (dead, dead + ".sums", ours, ours + ".sums"):
            (directory / name).touch()
    link.greet()
    for directory in directories:
        assert sorted(path.name for path in directory.glob("incoming-*")) == [ours, ours + ".sums"]


def test_a_new_state_that_a_dead_node_process_had_prepared_stays(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.greet()
    request = new_state(link)
    directory = link.mount.store.directory("a.db")
    (directory / (request.incoming + ".sums")).touch()
    link.ask(request)
    link.socket.close()
    link.attach()
    link.greet()
    assert sorted(path.name for path in directory.glob("incoming-*")) == [request.incoming, request.incoming + ".sums"]


def test_a_node_process_is_welcome_where_the_state_of_the_next_start_cannot_be_believed(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    directory = link.mount.store.directory("a.db")
    (directory / NEXT_STATE_NAME).write_text("nonsense")
    (directory / "incoming-1").touch()
    link.greet()
    assert (directory / "incoming-1").exists()
    assert "stays until the next start" in caplog.text
