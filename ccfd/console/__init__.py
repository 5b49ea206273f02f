"""VM screens and serial consoles over websockets (docs/adr/0023)."""
