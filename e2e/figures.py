"""What was measured, for the end of the report: no test fails for being slow on a busy machine."""


class Figures:
    """Collects lines."""

    def __init__(self, lines: list[str]) -> None:
        """Args: lines: where to put them."""
        self._lines = lines

    def __call__(self, what: str, seconds: float, detail: str = "") -> None:
        """Notes a duration."""
        text = f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
        self.note(f"{what}: {text}{detail and f' ({detail})'}")

    def note(self, line: str) -> None:
        """Notes anything else."""
        self._lines.append(line)
