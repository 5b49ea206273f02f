"""Which files the console's page consists of, and where they are.

Ours are part of the package. noVNC and xterm.js are put beside it by tools/console-assets, each in
a directory that has its version in its name.
"""

import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

OWN = Path(__file__).parent / "static"
PAGE = "page.html"
PLAYER = "play.html"
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served beside the page, by ending."""
OTHERS = (
    "novnc-1.7.0/core/rfb.js",
    "xterm-6.0.0/lib/xterm.mjs",
    "xterm-6.0.0/css/xterm.css",
)
"""What the page asks for of others' files."""


@dataclass(frozen=True, slots=True)
class Files:
    """The page's files: ours, and those of others below *assets*."""

    assets: Path
    own: Path = OWN

    @classmethod
    def at(cls, assets: Path | None) -> Self:
        """Look below *assets*, or (None) where tools/console-assets puts things for this Python."""
        return cls(assets or Path(sys.prefix) / "share" / "ccfd" / "console")

    def find(self, path: str) -> Path | None:
        """Return where the file *path* of a URL would be; None where nothing is served."""
        parts = PurePosixPath(path).parts
        if not parts or any(part.startswith((".", "/")) for part in parts):
            return None
        if PurePosixPath(path).suffix not in TYPES:
            return None
        return (self.own if len(parts) == 1 else self.assets).joinpath(*parts)

    def missing(self) -> list[str]:
        """List what is not there of what the page asks for."""
        return [name for name in OTHERS if not (self.assets / name).is_file()]
