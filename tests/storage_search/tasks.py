"""Work under way, one half-step at a time.

What storage does comes as steps (`litefs.storage.steps`). Three things can fall between two of them: somebody else's
steps before a thread begins what was given to it, the same before the loop sees what came of it, and a power cut. So a
thread's work is one half-step here, and to take its result up and go on is another.
"""

from collections.abc import Callable
from dataclasses import dataclass

from litefs.storage.steps import Step, Steps, pause


@dataclass(slots=True)
class Task:
    """Steps that others may run between. `names`: of the databases that they are about; `pace`: among other tasks."""

    words: str
    names: tuple[str, ...]
    steps: Steps[None]
    on_end: Callable[[], None] = lambda: None
    pace: float = 1.0
    _work: Step = None
    _result: object = None
    _error: Exception | None = None

    def half_step(self) -> bool:
        """Does the next thing. Returns False at the end. Raises what nobody expected."""
        if self._work is not None:
            work, self._work = self._work, None
            try:
                self._result = work()
            except Exception as error:  # noqa: BLE001 - whatever it is, the steps are to see it
                self._error = error
            return True
        result, failure = self._result, self._error
        self._result = self._error = None
        try:
            step = self.steps.send(result) if failure is None else self.steps.throw(failure)
        except StopIteration:
            self.on_end()
            return False
        self._work = None if step is pause else step
        return True
