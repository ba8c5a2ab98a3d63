-- A command by nothing but its id: where its rows stand in the table, sorted by id. A bloom filter over ids would have
-- to be read whole for each look, which on billions of rows is gigabytes.

ALTER TABLE {database}.outcomes ADD PROJECTION IF NOT EXISTS by_command (SELECT command_id, _part_offset ORDER BY command_id);

ALTER TABLE {database}.outcomes MATERIALIZE PROJECTION by_command;
