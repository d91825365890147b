"""What the database holds: tables as they are declared, functions, triggers, migrations, partitions, roles.

Temporary table of this package: `check_texts` (`autogenerate`), a copy of a table to which declared CHECKs are added.
Not here: the server, connections and locks (`warehouse`).
"""
