"""The database: tables, transactions, migrations. PostgreSQL, or the embedded SQLite."""
