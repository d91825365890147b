"""PostgreSQL: the server, connections, migrations, locks and roles.

Temporary table of this package: `check_texts` (`autogenerate`), a copy of a table to which declared CHECKs are added.
"""
