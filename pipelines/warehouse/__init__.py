"""PostgreSQL: the server, connections, declarations, migrations, locks, and the tables of `ops` and `staging`.

Belongs here: what every package above needs of the database. Not here: what is written to the tables.

Temporary table of this package: `check_texts` (`autogenerate`), a copy of a table to which declared CHECKs are added.
"""
