-- Answers that nothing can be said of: a verdict `undecided`, beside `error`, is neither right nor wrong.

-- SQLite cannot change a CHECK, so `node` and `trajectory` are made anew. Other tables and views refer to them by name:
-- whoever applies this switches foreign keys off and `legacy_alter_table` on before the transaction (inside it neither
-- can be), checks the references afterwards, and switches both back. `trajectory` takes in the columns that were added
-- to it later.

create table node_new (
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
    constraint node_verdict_known
        check (verdict in ('correct', 'incorrect', 'no_answer', 'undecided', 'error')),
    constraint node_verdict_only_if_terminal check (verdict is null or is_terminal = 1),
    constraint node_weight_version_unless_root check ((node_id = 0) = (weight_version is null)),
    constraint node_selected_kind_known check (selected_kind in ('uct_child', 'uct_root', 'global', 'fallback')),
    constraint node_selected_together check ((selected_order is null) = (selected_kind is null))
) strict, without rowid;

insert into node_new (tree_id, node_id, parent_node_id, tag, depth, visits, q_total, entropy_nats, token_count,
    finish_reason, is_terminal, verdict, weight_version, selected_order, selected_kind,
    selected_score)
select tree_id, node_id, parent_node_id, tag, depth, visits, q_total, entropy_nats, token_count,
    finish_reason, is_terminal, verdict, weight_version, selected_order, selected_kind,
    selected_score
from node;

drop table node;
alter table node_new rename to node;

-- The few answers without a verdict that counts, without a walk over all nodes.
create index node_undecided on node (tree_id) where verdict in ('undecided', 'error');

create table trajectory_new (
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
    -- What makes the text unfit for training.
    defect          text,
    -- The solution that was replayed; null for a trajectory that was sampled in its tree.
    solution_id     integer,

    primary key (tree_id, ordinal),
    constraint trajectory_leaf foreign key (tree_id, leaf_node_id) references node (tree_id, node_id),
    constraint trajectory_leaf_unique unique (tree_id, leaf_node_id),
    constraint trajectory_verdict_known
        check (verdict in ('correct', 'incorrect', 'no_answer', 'undecided', 'error')),
    constraint trajectory_provenance_known check (provenance in ('search', 'rollout', 'cached')),
    constraint trajectory_solution foreign key (solution_id) references solution (solution_id),
    constraint trajectory_defect_known check (defect in ('repetition', 'garbled', 'invalid_utf8'))
) strict, without rowid;

insert into trajectory_new (tree_id, ordinal, leaf_node_id, verdict, reward, entropy_nats, response_tokens,
    provenance, defect, solution_id)
select tree_id, ordinal, leaf_node_id, verdict, reward, entropy_nats, response_tokens,
    provenance, defect, solution_id
from trajectory;

drop table trajectory;
alter table trajectory_new rename to trajectory;

-- Most confident mistakes of a whole database, without a sort.
create index trajectory_incorrect_by_entropy on trajectory (entropy_nats)
    where verdict = 'incorrect' and entropy_nats is not null;
create index trajectory_by_defect on trajectory (defect) where defect is not null;

-- Rollouts of all problems that nothing is known of: `pass_at_1` and `pass_at_k` are shares of the others, and a problem
-- of which no rollout was judged is in neither.
alter table evaluation add column undecided_count integer not null default 0
    constraint evaluation_undecided_not_negative check (undecided_count >= 0);

-- Views that gained a column.

drop view step_summary;

-- One line per step: what was searched, what was trained, how long it took. `undecided_count`
-- is answers that nothing is known of, neither right nor wrong.
create view step_summary as
select
    s.run_id,
    s.step_id,
    s.round_id,
    s.status,
    s.problem_count,
    count(t.tree_id)                                               as tree_count,
    coalesce(sum(t.is_solved), 0)                                  as solved_count,
    cast(sum(t.is_solved) as real) / nullif(count(t.tree_id), 0)   as solved_frac,
    coalesce(sum(t.status = 'exhausted'), 0)                       as exhausted_count,
    coalesce(sum(t.status = 'failed'), 0)                          as failed_count,
    coalesce(sum(t.kind = 'replay'), 0)                            as replay_count,
    (
        select count(*)
        from tree u
        -- SQLite would read all nodes of each tree.
        join node n indexed by node_undecided on n.tree_id = u.tree_id
        where u.run_id = s.run_id and u.step_id = s.step_id and n.verdict in ('undecided', 'error')
    )                                                              as undecided_count,
    s.mean_reward,
    s.loss,
    s.grad_norm,
    s.clip_frac,
    s.ratio_mean,
    s.ratio_p99,
    s.ratio_outside_frac,
    s.ratio_nan_count,
    s.entropy_nats,
    s.search_weight_version,
    s.produced_weight_version,
    s.update_skip_reason,
    s.skipped_group_count,
    s.generated_tokens,
    s.trained_tokens,
    s.packed_tokens,
    s.search_ms,
    s.train_ms,
    s.export_ms,
    s.reload_ms,
    s.generated_tokens * 1000.0 / nullif(s.search_ms, 0)           as generated_tokens_per_s,
    s.created_at_ms,
    s.ended_at_ms
from step s
left join tree t on t.run_id = s.run_id and t.step_id = s.step_id
group by s.run_id, s.step_id;

drop view learning_curve;

-- How good is the policy, against tokens and against time? Shares are of answers that were judged; `undecided_count` is
-- the rest. Tokens are those of filters and steps before the measurement,
-- not those of measurements; `wall_s` is the sum of the metric of that name over the steps: neither measurements and
-- filters nor the time for which the run was stopped.
create view learning_curve as
select
    e.run_id,
    r.name,
    r.algorithm,
    e.step_id,
    e.weight_version,
    e.problem_count,
    e.sample_count,
    e.refused_count,
    e.undecided_count,
    e.pass_at_1,
    e.pass_at_k,
    coalesce((
        select sum(s.generated_tokens) from step s where s.run_id = e.run_id and s.step_id <= e.step_id
    ), 0) + coalesce((
        select sum(p.generated_tokens)
        from round o
        join round_problem p on p.run_id = o.run_id and p.round_id = o.round_id
        where o.run_id = e.run_id and o.first_step_id <= e.step_id
    ), 0) as generated_tokens,
    coalesce((
        select sum(s.trained_tokens) from step s where s.run_id = e.run_id and s.step_id <= e.step_id
    ), 0) as trained_tokens,
    coalesce((
        select sum(s.search_ms) from step s where s.run_id = e.run_id and s.step_id <= e.step_id
    ), 0) / 1000.0 as search_s,
    coalesce((
        select sum(s.train_ms) from step s where s.run_id = e.run_id and s.step_id <= e.step_id
    ), 0) / 1000.0 as train_s,
    coalesce((
        select sum(w.value) from metric w where w.run_id = e.run_id and w.name = 'wall_s' and w.step_id <= e.step_id
    ), 0.0) as wall_s
from evaluation e
join run r on r.run_id = e.run_id;
