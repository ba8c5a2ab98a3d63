"""Products: the shelf, as every partner may read it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from clearline.gateway import views
from clearline.gateway.asking import today_of
from clearline.gateway.paging import decode, encode, only_query
from clearline.gateway.problems import Problem
from clearline.gateway.routes.accounts import Limit
from clearline.gateway.security import Asker, parts_of
from schemas.records import ProductState

router = APIRouter(prefix="/v1", tags=["products"])


@router.get("/products", response_class=Response)
async def list_products(request: Request, who: Asker, limit: Limit = 100, cursor: str | None = None) -> Response:
    """The products of the shelf, by name, each as it is in force today (UTC)."""
    who.need("read")
    only_query(request, ("limit", "cursor"))
    after = decode(cursor, "products", who.acting, {}, str)[1] if cursor is not None else ""
    parts = parts_of(request)
    shelf = _by_name(await parts.reads.products())
    names = [name for name in shelf if name > after]
    found = [views.product(shelf[name], today_of(parts)) for name in names[:limit]]
    items = [views.Product.model_validate(p.model_dump(exclude={"versions"})) for p in found]
    following = encode("products", who.acting, {}, names[limit - 1]) if len(names) > limit else None
    return views.Products(items=items, next_cursor=following).response()


@router.get("/products/{product}", response_class=Response)
async def get_product(request: Request, product: str, who: Asker) -> Response:
    """One product, with the document of each version."""
    who.need("read")
    only_query(request, ())
    parts = parts_of(request)
    shelf = _by_name(await parts.reads.products())
    if product not in shelf:
        raise Problem("not_found")
    return views.product(shelf[product], today_of(parts)).response()


def _by_name(rows: list[ProductState]) -> dict[str, list[ProductState]]:
    """The versions of each product, names and versions rising."""
    out: dict[str, list[ProductState]] = {}
    for row in rows:
        out.setdefault(row.product, []).append(row)
    return dict(sorted(out.items()))
