"""The engine: lands payloads, transforms them into tables, and proves where each row comes from.

Folders and modules in layers; each imports only from its own line, or from lines below it:

    definitions                                what Dagster loads
    cli                                        the `atlas` command
    orchestration                              assets, checks, automation
    maintenance                                pruning and erasure
    lineage                                    trace, rebuild, time travel
    transform                                  staging into tables, by SELECT files
    landing                                    payloads into staging
    connectors                                 HTTP, listings, recordings, local files
    ledger, quarantine                         runs, and payloads and rows that were rejected
    project, columns                           where files lie, and what SELECT files read
    warehouse                                  PostgreSQL: server, tables, migrations, locks
    source, settings, errors

Belongs here: what is the same for every domain. Not here: sources and tables of a domain (`assets`, `sql`).
"""
