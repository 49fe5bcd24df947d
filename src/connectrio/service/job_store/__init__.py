"""The jobs that several hosts have created, in a database that they share, so that each job is created once.

    url        which database: an SQLite file for processes of one machine, PostgreSQL for replicas
    jobs       the table, and what is read and written in one go: synchronous, for both databases
    sqlite     sessions with SQLite
    postgres   sessions with PostgreSQL (extra `postgres`)
    store      threads, time-outs, leases, and what happens while the database is away

`service/shared_creates.py` decides by it who creates a job. Nothing is imported here, so that hosts without a store
load none of this.
"""
