"""A development ClickHouse server: the in-process engine (chDB) behind ClickHouse's two network interfaces.

chDB owns its data folder alone and has no port; the product speaks to ClickHouse only through clickhouse-driver. These
modules stand between the two, so that a laptop needs no server binary and the product needs no second code path.

    source, frames, blocks   bytes: pull reader, LZ4 frames with checksums, column framing
    native                   ClickHouse's native protocol: packets and states, no I/O
    sql                      a lexer, and what the server must know of a statement before it runs it
    engine, sessions         the data folder; chDB sessions with settings, parameters and read-only users
    access, readers          a role that only selects; partners' readers in a file, and their quotas
    ast, policy, gate        what a reader may ask, by the engine's own parser
    conversation             one native client from hello to goodbye
    http                     the HTTP interface
    server                   ports, threads, start and stop
"""
