"""The people of a journey, and their sockets at both replicas."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from harness.site import Json, Person, Site, Socket

__all__ = ["PASSWORD", "Stage"]

PASSWORD = "correct horse battery"


@dataclass
class Stage:
    """Everybody acts at replica 1 and has a second page at replica 2, by `there(person)`.

    `linked` says whether messages cross from one to the other now. What is in the database always does.
    """

    site: Site
    stack: AsyncExitStack
    ann: Person
    ben: Person
    tom: Person
    cleo: Person
    ada: Person
    linked: bool
    sockets: list[Socket] = field(default_factory=list)

    async def pages(self, person: Person, path: str, *, greeting: bool = True) -> list[Socket]:
        """The person's sockets that hear what happens at replica 1: there, and while linked at the last one as well."""
        replicas = (0, len(self.site.ports) - 1) if self.linked else (0,)
        opened = []
        for replica in replicas:
            socket = await self.stack.enter_async_context(person.at(replica).socket(path))
            if greeting:
                assert (await socket.next())["type"] == "connected"
            else:
                assert await socket.heard() == []
            opened.append(socket)
        self.sockets += opened
        return opened

    async def all_hear(self, sockets: list[Socket], kind: str, **fields: object) -> Json:
        """Each of the sockets gets a message of this type next (of those types), with these fields; the last one."""
        message: Json = {}
        for socket in sockets:
            message = await socket.next(kind)
            assert {name: message.get(name) for name in fields} == fields, message
        return message

    @staticmethod
    def there(person: Person) -> Person:
        """The same person at replica 2."""
        return person.at(1)
