-- What the search found: trees, their nodes and trajectories, and the solutions worth keeping. A tree and all that
-- belongs to it is written in one transaction, when it is finished, and never changed.

create table tree (
    tree_id             integer primary key,
    run_id              integer not null,
    step_id             integer not null,
    -- Place in the step's batch. With run and step it names the work, so that no tree is ever counted twice.
    slot                integer not null,
    problem_id          integer not null,
    rules               text    not null,
    -- lambda of UCT, without which a node's score cannot be read off its visits and q.
    uct_lambda          real    not null,
    status              text    not null,
    -- Why it failed, for a person.
    error               text,
    seed                text    not null,
    expansion_count     integer not null,
    generated_tokens    integer not null,
    -- These three follow from the nodes and are written by the store itself. A tree is solved if a correct terminal was
    -- found; a token shared by several trajectories counts once in `trajectory_tokens`.
    node_count          integer not null,
    trajectory_tokens   integer not null,
    is_solved           integer not null,
    wall_ms             integer not null,
    -- The weights that sampled its nodes; null where nothing was sampled.
    weight_version_min  integer,
    weight_version_max  integer,
    created_at_ms       integer not null,

    constraint tree_slot_unique unique (run_id, step_id, slot),
    constraint tree_step foreign key (run_id, step_id) references step (run_id, step_id),
    constraint tree_problem foreign key (problem_id) references problem (problem_id),
    constraint tree_weight_version_min
        foreign key (run_id, weight_version_min) references weight_version (run_id, weight_version),
    constraint tree_weight_version_max
        foreign key (run_id, weight_version_max) references weight_version (run_id, weight_version),
    constraint tree_rules_known check (rules in ('released', 'paper')),
    constraint tree_status_known check (status in ('complete', 'exhausted', 'budget', 'failed')),
    constraint tree_error_iff_failed check ((status = 'failed') = (error is not null)),
    constraint tree_is_solved_boolean check (is_solved in (0, 1)),
    constraint tree_weight_versions_ordered check (weight_version_min <= weight_version_max)
) strict;

create index tree_by_problem on tree (problem_id);

-- Narrow rows, clustered by tree, so that a whole tree is one range read. Node 0 is the prompt.
create table node (
    tree_id         integer not null,
    node_id         integer not null,
    parent_node_id  integer,
    -- The root is '0', the k-th child of T is 'T.k', k from 1.
    tag             text    not null,
    depth           integer not null,
    visits          integer not null,
    -- The backed-up sum. The mean, which selection uses, is q_total / visits.
    q_total         real    not null,
    -- Mean -logprob of this node's own tokens.
    entropy_nats    real,
    token_count     integer not null,
    finish_reason   text,
    is_terminal     integer not null,
    verdict         text,
    weight_version  integer,
    -- When and why the search chose it for expansion the last time, and with which score.
    selected_order  integer,
    selected_kind   text,
    selected_score  real,

    primary key (tree_id, node_id),
    constraint node_tree foreign key (tree_id) references tree (tree_id),
    constraint node_parent foreign key (tree_id, parent_node_id) references node (tree_id, node_id),
    constraint node_root_has_no_parent check ((node_id = 0) = (parent_node_id is null) and (node_id = 0) = (depth = 0)),
    constraint node_parent_is_older check (parent_node_id < node_id),
    constraint node_finish_reason_known check (finish_reason in ('stop', 'length')),
    constraint node_finish_reason_unless_root check ((node_id = 0) = (finish_reason is null)),
    constraint node_is_terminal_boolean check (is_terminal in (0, 1)),
    constraint node_verdict_known check (verdict in ('correct', 'incorrect', 'no_answer', 'error')),
    constraint node_verdict_only_if_terminal check (verdict is null or is_terminal = 1),
    constraint node_weight_version_unless_root check ((node_id = 0) = (weight_version is null)),
    constraint node_selected_kind_known check (selected_kind in ('uct_child', 'uct_root', 'global', 'fallback')),
    constraint node_selected_together check ((selected_order is null) = (selected_kind is null))
) strict, without rowid;

-- Tokens and text, apart from the node because they are wide and often left out: kept for every node on a trajectory, and
-- for the others if the run was told to. Little-endian u32 and f32 arrays; a NaN logprob is one the engine did not give.
-- The texts along a path join to the response.
create table node_content (
    tree_id   integer not null,
    node_id   integer not null,
    tokens    blob    not null,
    -- Null for the prompt.
    logprobs  blob,
    text      text    not null,

    constraint node_content_unique primary key (tree_id, node_id),
    constraint node_content_node foreign key (tree_id, node_id) references node (tree_id, node_id),
    constraint node_content_tokens_whole check (length(tokens) % 4 = 0),
    constraint node_content_logprob_per_token check (length(logprobs) = length(tokens))
) strict;

create table trajectory (
    tree_id         integer not null,
    -- Order in which they were backed up, from 0.
    ordinal         integer not null,
    leaf_node_id    integer not null,
    verdict         text    not null,
    reward          real    not null,
    -- Mean -logprob over all sampled tokens of the path.
    entropy_nats    real,
    response_tokens integer not null,
    provenance      text    not null,

    primary key (tree_id, ordinal),
    constraint trajectory_leaf foreign key (tree_id, leaf_node_id) references node (tree_id, node_id),
    constraint trajectory_leaf_unique unique (tree_id, leaf_node_id),
    constraint trajectory_verdict_known check (verdict in ('correct', 'incorrect', 'no_answer', 'error')),
    constraint trajectory_provenance_known check (provenance in ('search', 'rollout', 'cached'))
) strict, without rowid;

-- Most confident mistakes of a whole database, without a sort.
create index trajectory_incorrect_by_entropy on trajectory (entropy_nats)
    where verdict = 'incorrect' and entropy_nats is not null;

-- The nodes of each trajectory below the prompt, by depth: what a recursive walk over parents would find, but as an
-- index lookup.
create table trajectory_node (
    tree_id integer not null,
    ordinal integer not null,
    depth   integer not null,
    node_id integer not null,

    primary key (tree_id, ordinal, depth),
    constraint trajectory_node_trajectory foreign key (tree_id, ordinal) references trajectory (tree_id, ordinal),
    constraint trajectory_node_node foreign key (tree_id, node_id) references node (tree_id, node_id)
) strict, without rowid;

-- Verified answers, for the cache. The same tokens for the same problem are kept once.
create table solution (
    solution_id    integer primary key,
    problem_id     integer not null,
    run_id         integer not null,
    tree_id        integer not null,
    weight_version integer not null,
    provenance     text    not null,
    answer         text    not null,
    text           text    not null,
    tokens         blob    not null,
    logprobs       blob    not null,
    -- SHA-256 of `tokens`.
    tokens_sha256  text    not null,
    created_at_ms  integer not null,

    constraint solution_unique unique (problem_id, tokens_sha256),
    constraint solution_problem foreign key (problem_id) references problem (problem_id),
    constraint solution_tree foreign key (tree_id) references tree (tree_id),
    constraint solution_weight_version
        foreign key (run_id, weight_version) references weight_version (run_id, weight_version),
    constraint solution_provenance_known check (provenance in ('search', 'rollout', 'cached')),
    constraint solution_tokens_whole check (length(tokens) % 4 = 0 and length(tokens) > 0),
    constraint solution_logprob_per_token check (length(logprobs) = length(tokens))
) strict;
