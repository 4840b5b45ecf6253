"""What the supervisor is told: which processes to start with which settings, and what to run beside them.

Strategy: `launch.py` knows the configuration and writes the plan; the supervisor, a new and lean interpreter,
reads it from an inherited descriptor. JSON, and a plain class, because the supervisor loads nothing that costs memory
(`dataclasses` alone is 1.7 MB of it).
"""

import json


class Plan:
    """A start of litefs.

    Attributes:
        settings: per process ("filesystem", "node") the document of `link/settings.py`, its descriptors still unset.
        programs: per process the program and its arguments.
        commands: the applications of `exec`, split into words; all but the last run to their end, one by one.
        data_dir: absolute path of the data directory.
        mount_dir: absolute path of the mount point.
        exit_on_error: leave when the start fails; otherwise stay until a signal comes.
        skip_sync: start the applications without waiting for the node to catch up.
        skip_unmount: do not detach what an earlier run may have left on the mount point.
        log_format: "text" or "json".
        log_timestamp: lead log lines with the time.
        log_debug: write debug lines too.
    """

    def __init__(
        self,
        *,
        settings: dict[str, dict[str, object]],
        programs: dict[str, list[str]],
        commands: list[list[str]],
        exit_on_error: bool = True,
        skip_sync: bool = False,
        skip_unmount: bool = False,
    ) -> None:
        self.settings = settings
        self.programs = programs
        self.commands = commands
        self.exit_on_error = exit_on_error
        self.skip_sync = skip_sync
        self.skip_unmount = skip_unmount
        filesystem = settings["filesystem"]
        self.data_dir = str(filesystem["data_dir"])
        self.mount_dir = str(filesystem["mount_dir"])
        log = filesystem.get("log")
        assert isinstance(log, dict)
        self.log_format = str(log["format"])
        self.log_timestamp = bool(log["timestamp"])
        self.log_debug = bool(log["debug"])

    def to_json(self) -> str:
        """Writes the plan as the one document that `from_json` reads."""
        return json.dumps(
            {
                "settings": self.settings,
                "programs": self.programs,
                "commands": self.commands,
                "exit_on_error": self.exit_on_error,
                "skip_sync": self.skip_sync,
                "skip_unmount": self.skip_unmount,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))
