"""Steps with their times, seen while they run: a moving display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text


@dataclass(slots=True)
class Step:
    """One step. It ends by :meth:`done`, else it counts as failed when the display ends."""

    title: str
    _display: Steps
    _task: TaskID | None
    _began: float = field(default_factory=time.monotonic)
    finished: bool = False

    def note(self, text: str) -> None:
        """Say what is happening now."""
        self._display.show(self._task, f"{self.title}: {text}")

    def done(self, result: str = "ready") -> None:
        """It worked; ``result`` stays to be read."""
        self.finished = True
        self._display.finish(self._task, f"{self.title}: {result}", time.monotonic() - self._began)


class _Seconds(ProgressColumn):
    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text(f"{elapsed or 0:6.1f} s", style="dim")


class Steps:
    """The display of all steps. On a terminal it is alive while entered."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Progress(
                SpinnerColumn(finished_text="[green]✓"),
                TextColumn("{task.description}"),
                _Seconds(),
                console=console,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, title: str) -> Step:
        """Begin a step; several may run at once."""
        task = self._live.add_task(title, total=1) if self._live is not None else None
        return Step(title, self, task)

    def show(self, task: TaskID | None, text: str) -> None:
        """Change a running step's line."""
        if self._live is not None and task is not None:
            self._live.update(task, description=text)
        else:
            self._console.print(f"  ... {text}", highlight=False)

    def finish(self, task: TaskID | None, text: str, seconds: float) -> None:
        """End a step's line."""
        if self._live is not None and task is not None:
            self._live.update(task, description=text, completed=1)
        else:
            self._console.print(f"  ok  {text} ({seconds:.1f} s)", highlight=False)
