-- What was asked for: runs and the problems they were asked to solve.
--
-- Conventions of this folder: tables are singular and STRICT, keys are `<table>_id`, every enumeration has a named
-- CHECK, quantities carry their unit in the name, fractions end in `_frac` and lie in 0..1. Times are milliseconds since
-- 1970 (UTC); `created_at_ms` is when the row was written. A number that was not finite is stored as null. Unsigned
-- 64-bit seeds are decimal text, since an SQLite integer is signed. An applied migration is never edited.

-- 'TGRP': lets `Store::open` refuse a database that belongs to another program.
pragma application_id = 0x54475250;

create table run (
    run_id          integer primary key,
    name            text    not null,
    -- The resolved configuration, as `run --dry-run` prints it, and the SHA-256 of that text.
    config_toml     text    not null,
    config_sha256   text    not null,
    model           text    not null,
    seed            text    not null,
    program_version text    not null,
    git_commit      text,
    status          text    not null,
    -- Why it failed, for a person.
    error           text,
    created_at_ms   integer not null,
    ended_at_ms     integer,

    constraint run_status_known check (status in ('running', 'done', 'failed', 'interrupted')),
    constraint run_ended_unless_running check ((status = 'running') = (ended_at_ms is null)),
    constraint run_error_only_if_failed check (error is null or status = 'failed'),
    constraint run_config_sha256_is_hex check (length(config_sha256) = 64 and config_sha256 not glob '*[^0-9a-f]*')
) strict;

-- A problem is the same problem in every run: it is known by its content, so that solutions are found again.
create table problem (
    problem_id     integer primary key,
    -- The `id` it carries in its own file; two files may use the same one.
    name           text    not null,
    text           text    not null,
    answer         text    not null,
    level          text,
    topic          text,
    -- Where it came from: a file name or a generator.
    source         text    not null,
    -- SHA-256 over name, text and answer.
    content_sha256 text    not null,
    created_at_ms  integer not null,

    constraint problem_content_unique unique (content_sha256),
    constraint problem_content_sha256_is_hex check (length(content_sha256) = 64 and content_sha256 not glob '*[^0-9a-f]*')
) strict;

create index problem_by_name on problem (name);
