"""The handlers of who may come in."""

from __future__ import annotations

from urllib.parse import quote

from accrue.errors import Conflict
from accrue.service.access import OWNER, Code
from accrue.service.events import ACCESS
from accrue.service.http.shapes import AccessView, Admit, Admitted, Invite, Pair, Pairing
from accrue.service.http.table import Call, Table

table = Table()


@table.add("POST", "/pair", None, status=201)
def pair(call: Call, body: Pair) -> Admitted:
    """Exchange a pairing code, once, for access. A browser gets it as a cookie, too."""
    grant, token = call.access.redeem(body.code, body.name)
    call.answer.token = token
    call.device.events.publish(ACCESS, change="paired", name=grant.name, role=grant.role)
    return Admitted(grant, token)


@table.add("GET", "/access", OWNER)
def access(call: Call) -> AccessView:
    """Who may come in, oldest first."""
    assert call.grant is not None
    return AccessView(call.access.all(), call.grant.id)


@table.add("POST", "/access", OWNER, status=201)
def admit(call: Call, body: Admit) -> Admitted:
    """Make a token, as for a program. It is told here once."""
    grant, token = call.access.add(body.name, body.role, by=call.actor)
    call.device.events.publish(
        ACCESS, change="added", name=grant.name, role=grant.role, actor=call.actor
    )
    return Admitted(grant, token)


@table.add("DELETE", "/access/{id}", OWNER)
def revoke(call: Call, id: str) -> None:
    """Take access back, at once. The last owner stays."""
    owners = [grant for grant in call.access.all() if grant.role == OWNER]
    if [grant.id for grant in owners] == [id]:
        raise Conflict(
            f"{owners[0].name} is the only owner",
            hint="pair another owner first, or do it on the device: `accrue access revoke`",
            found=id,
        )
    grant = call.access.revoke(id)
    call.device.events.publish(
        ACCESS, change="revoked", name=grant.name, role=grant.role, actor=call.actor
    )


@table.add("POST", "/pairing", OWNER, status=201)
def pairing(call: Call, body: Invite) -> Pairing:
    """Make a code to pair with, for one use within five minutes, with its QR picture."""
    return shown(call.access.invite(body.role, by=call.actor), call.base)


def address_of(code: Code, base: str) -> str:
    """What a phone opens; the code is behind the `#`, so that no server sees it in an address."""
    return f"{base}/#pair={quote(code.code)}"


def shown(code: Code, base: str) -> Pairing:
    import segno

    url = address_of(code, base)
    svg = segno.make(url, error="m", micro=False).svg_inline(scale=6, border=4, omitsize=True)
    return Pairing(code.code, code.role, url, svg, code.expires)
