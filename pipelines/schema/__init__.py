"""What the database holds: tables as they are declared, functions, views, triggers and policies, partitions.

Not here: connections, migrations and roles (`warehouse`).
"""
