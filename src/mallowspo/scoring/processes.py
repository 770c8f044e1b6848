"""The processes that fill a store together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """This process among all that were launched together; the default is a process on its own.

    Attributes:
        rank: Which one this is, from 0.
        world: How many there are.

    Example:
        >>> Processes().share("a value of the first process")
        'a value of the first process'
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def of_accelerate(cls, state: Any) -> Processes:
        """From an `accelerate.Accelerator` or `PartialState`."""
        return cls(int(state.process_index), int(state.num_processes))

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def share(self, value: Any) -> Any:
        """Give every process the first one's value."""
        if self.world == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value], from_process=0)[0]
