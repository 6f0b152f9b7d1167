"""What a connection's transport and asyncpg's end of it do, for tests of what stands between them."""


class Transport:
    """Remembers what it is told, and what asyncpg receives."""

    def __init__(self) -> None:
        self.paused = self.aborted = False
        self.received = bytearray()

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def data_received(self, data: bytes) -> None:
        self.received += data
