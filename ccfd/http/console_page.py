"""The console's page: what a browser is given before it has shown its ticket.

All of it is public and the same for everybody; which VM it is about is in the address, and whether
it is shown is the websocket's to say.
"""

from pathlib import Path

from aiohttp import web

from ccfd.console.files import PAGE, PLAYER, TYPES, Files
from ccfd.errors import Refused

# Who embeds the page could have its buttons pressed; the address holds a ticket at first.
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self'{styles}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# What others wrote has its version in its path; what is ours is asked for anew each time.
FOR_GOOD = "public, max-age=31536000, immutable"
ANEW = "no-cache"


def routes(assets: Path | None) -> list[web.RouteDef]:
    """List the paths of the page; *assets* is where others' files are (None: the usual place)."""
    files = Files.at(assets)

    def give(name: str, *, has_terminal: bool) -> web.FileResponse:
        # xterm.js writes style sheets as it runs; noVNC does not.
        styles = " 'unsafe-inline'" if has_terminal else ""
        return web.FileResponse(
            files.own / name,
            headers={
                **ALWAYS,
                "Content-Security-Policy": POLICY.format(styles=styles),
                "Content-Type": "text/html; charset=utf-8",
                # The address holds a ticket.
                "Cache-Control": "no-store",
            },
        )

    async def page(request: web.Request) -> web.StreamResponse:
        """Give the page of a VM's console."""
        return give(PAGE, has_terminal=request.query.get("type") == "serial")

    async def player(_request: web.Request) -> web.StreamResponse:
        """Give the page that plays a recording, which a person picks from their own files."""
        return give(PLAYER, has_terminal=True)

    async def file(request: web.Request) -> web.StreamResponse:
        """Give a file that the page consists of."""
        path = files.find(request.match_info["path"])
        if path is None or not path.is_file():
            raise Refused("request_not_found", f"{request.path}: the page has no such file")
        kept = ANEW if path.parent == files.own else FOR_GOOD
        headers = {**ALWAYS, "Cache-Control": kept, "Content-Type": TYPES[path.suffix]}
        return web.FileResponse(path, headers=headers)

    return [
        web.get("/console/static/{path:.+}", file),
        web.get("/console/play", player),
        web.get("/console/{vm}", page),
    ]
