"""What a replay's events depend on, and how far it has come. A leaf."""

from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True)
class ReplayClaim:
    """What a replay's events depend on; events of another claim must not be mixed in."""

    recording: str
    model: str
    settings: str

    @property
    def digest(self) -> str:
        """One name for all three."""
        return sha256(f"{self.recording}\n{self.model}\n{self.settings}".encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """How far the replay of a recording has come in one sink."""

    events: int = 0
    """How many of its events are stored."""
    finished: bool = False
