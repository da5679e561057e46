"""Whatever is closed at the end of a `with` block."""

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Adds `with` to a class that has `close`."""

    @abstractmethod
    def close(self) -> None:
        """Release what is held. Closing twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
