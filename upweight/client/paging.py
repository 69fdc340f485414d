"""Lists that turn their own pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from upweight.http.flow import Call, Flow
from upweight.http.transport import AsyncTransport, Transport
from upweight.schema import Page

Item = TypeVar("Item", bound=BaseModel)
PAGE = 100  # items


@dataclass(frozen=True)
class Listing(Generic[Item]):
    """Which items of a resource, in which order, how many at most."""

    path: str
    item: type[Item]
    query: tuple[tuple[str, str], ...]
    limit: int | None = None

    def page(self, after: str | None, taken: int) -> Flow[Page[Item]]:
        """The page after an item."""
        size = PAGE if self.limit is None else min(PAGE, self.limit - taken)
        query = [*self.query, ("limit", str(size))]
        if after is not None:
            query.append(("after", after))
        reply = yield Call("GET", self.path, query)
        return reply.read(Page[self.item])  # type: ignore[name-defined]

    def wanted(self, page: Page[Item], taken: int) -> list[Item]:
        """Its items, as far as the limit goes."""
        return page.items if self.limit is None else page.items[: self.limit - taken]

    def following(self, page: Page[Item], taken: int) -> str | None:
        """Where the next page begins, if one is wanted."""
        if not page.has_more or (self.limit is not None and taken >= self.limit):
            return None
        return page.next_after


def listing(
    path: str,
    item: type[Item],
    *,
    limit: int | None,
    order: str,
    labels: Mapping[str, str] | None,
    **filters: Any,
) -> Listing[Item]:
    """A listing from what callers give; filters that are None are left out."""
    query = [("order", order), *((k, str(v)) for k, v in filters.items() if v is not None)]
    query += [("label", f"{key}={value}") for key, value in (labels or {}).items()]
    return Listing(path, item, tuple(query), limit)


def items(link: Transport, chosen: Listing[Item]) -> Iterator[Item]:
    """The items of all pages; a page is asked for when the one before is used up."""
    after, taken = None, 0
    while chosen.limit is None or taken < chosen.limit:
        page = link.run(chosen.page(after, taken))
        yield from chosen.wanted(page, taken)
        taken += len(page.items)
        after = chosen.following(page, taken)
        if after is None:
            return


async def items_async(link: AsyncTransport, chosen: Listing[Item]) -> AsyncIterator[Item]:
    """`items` for an event loop."""
    after, taken = None, 0
    while chosen.limit is None or taken < chosen.limit:
        page = await link.run(chosen.page(after, taken))
        for item in chosen.wanted(page, taken):
            yield item
        taken += len(page.items)
        after = chosen.following(page, taken)
        if after is None:
            return
