-- What training did: versions of the policy, steps, and the numbers that have no column of their own.

-- One row per set of weights, written when the export is complete and before the server is asked to load it: after a
-- crash between the two, the newest row says what the server must hold. Version 0 is the model as loaded; no step made it.
create table weight_version (
    run_id               integer not null,
    weight_version       integer not null,
    -- The step whose update produced it.
    step_id              integer,
    -- SHA-256 over all tensors' checksums, as in the manifest.
    digest               text    not null,
    -- The folder in the Hugging Face layout.
    path                 text    not null,
    size_bytes           integer not null,
    -- When the export was recorded.
    created_at_ms        integer not null,
    -- When every replica had confirmed the load, how long that took, and how far the server's logprobs of a fixed
    -- sequence then were from the trainer's. Null until confirmed.
    confirmed_at_ms      integer,
    reload_ms            integer,
    canary_mean_abs_nats real,
    canary_max_abs_nats  real,

    primary key (run_id, weight_version),
    constraint weight_version_run foreign key (run_id) references run (run_id),
    constraint weight_version_step foreign key (run_id, step_id) references step (run_id, step_id),
    constraint weight_version_not_negative check (weight_version >= 0),
    constraint weight_version_initial_has_no_step check ((weight_version = 0) = (step_id is null)),
    constraint weight_version_digest_is_hex check (length(digest) = 64 and digest not glob '*[^0-9a-f]*'),
    constraint weight_version_reload_if_confirmed check ((confirmed_at_ms is null) = (reload_ms is null))
) strict, without rowid;

-- One row per training step, written when it begins and filled in when it is over, after the reload was confirmed.
-- `step_id` counts from 1 in each run.
create table step (
    run_id                  integer not null,
    step_id                 integer not null,
    status                  text    not null,
    -- Trees planned; each has a slot 0..problem_count in `tree`.
    problem_count           integer not null,
    search_weight_version   integer not null,
    -- Null while running, and where the update was skipped.
    produced_weight_version integer,
    search_ms               integer,
    train_ms                integer,
    export_ms               integer,
    reload_ms               integer,
    -- Tokens sampled by the engine; tokens on trained trajectories, each time they occur; tokens the trainer computed,
    -- shared ones once.
    generated_tokens        integer,
    trained_tokens          integer,
    packed_tokens           integer,
    mean_reward             real,
    loss                    real,
    grad_norm               real,
    clip_frac               real,
    -- Ratio trainer / engine over the sampled tokens, before any update.
    ratio_mean              real,
    ratio_p99               real,
    ratio_outside_frac      real,
    ratio_nan_count         integer,
    entropy_nats            real,
    -- Groups left out because they carry no signal.
    skipped_group_count     integer,
    update_skip_reason      text,
    created_at_ms           integer not null,
    ended_at_ms             integer,

    primary key (run_id, step_id),
    constraint step_run foreign key (run_id) references run (run_id),
    constraint step_search_weight_version
        foreign key (run_id, search_weight_version) references weight_version (run_id, weight_version),
    constraint step_produced_weight_version
        foreign key (run_id, produced_weight_version) references weight_version (run_id, weight_version),
    constraint step_status_known check (status in ('running', 'done')),
    constraint step_ended_unless_running check ((status = 'running') = (ended_at_ms is null)),
    constraint step_counts_from_1 check (step_id >= 1),
    constraint step_clip_frac_in_range check (clip_frac between 0 and 1),
    constraint step_ratio_outside_frac_in_range check (ratio_outside_frac between 0 and 1),
    constraint step_produced_or_skipped
        check (status = 'running' or (produced_weight_version is null) = (update_skip_reason is not null))
) strict, without rowid;

-- Every other number, by name. `step_id` 0 is before the first step; null values were not finite.
create table metric (
    run_id        integer not null,
    step_id       integer not null,
    name          text    not null,
    value         real,
    created_at_ms integer not null,

    primary key (run_id, name, step_id),
    constraint metric_run foreign key (run_id) references run (run_id),
    constraint metric_step_not_negative check (step_id >= 0)
) strict, without rowid;
