"""PostgreSQL: the server, connections, declarations, migrations, locks, and the tables of `ops` and `staging`.

Temporary table of this package: `check_texts` (`autogenerate`), a copy of a table to which declared CHECKs are added.
"""
