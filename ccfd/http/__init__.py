"""The API over HTTP: documents, events, health, metrics."""
