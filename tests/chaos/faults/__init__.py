"""The fault table: what becomes of requests when something that ccfd depends on fails."""
