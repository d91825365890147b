"""PostgreSQL: the server, connections and locks."""
