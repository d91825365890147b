"""The Postgres side: the server, connections to it, and the tables that serve every domain."""
