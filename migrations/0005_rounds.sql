-- Rounds: which problems were hard, what a step planned, what was spared by kept solutions, and how well the policy does
-- on problems it is not trained on.

alter table run add column algorithm text not null default 'deepsearch'
    constraint run_algorithm_known check (algorithm in ('deepsearch', 'grpo', 'dapo'));

-- One row per round, written when its filter begins. Its steps are planned, since the steps of a run are divided among
-- its rounds; a round without steps ends one before it begins.
create table round (
    run_id          integer not null,
    round_id        integer not null,
    status          text    not null,
    -- The policy that is filtered with.
    weight_version  integer not null,
    first_step_id   integer not null,
    last_step_id    integer not null,
    candidate_count integer not null,
    created_at_ms   integer not null,
    -- When every problem was decided; null while filtering.
    filtered_at_ms  integer,
    ended_at_ms     integer,

    primary key (run_id, round_id),
    constraint round_run foreign key (run_id) references run (run_id),
    constraint round_weight_version
        foreign key (run_id, weight_version) references weight_version (run_id, weight_version),
    constraint round_status_known check (status in ('filtering', 'training', 'done')),
    constraint round_counts_from_1 check (round_id >= 1),
    constraint round_steps_ordered check (first_step_id >= 1 and last_step_id >= first_step_id - 1),
    constraint round_filtered_unless_filtering check ((status = 'filtering') = (filtered_at_ms is null)),
    constraint round_ended_iff_done check ((status = 'done') = (ended_at_ms is not null))
) strict, without rowid;

-- Each candidate of a round. The pass rate is `correct_count / (sample_count - error_count)`: a check that failed is no
-- wrong answer.
create table round_problem (
    run_id           integer not null,
    round_id         integer not null,
    problem_id       integer not null,
    -- Place among the candidates, from 0.
    ordinal          integer not null,
    -- Null until measured; 0 samples where the round has no filter.
    sample_count     integer,
    correct_count    integer,
    error_count      integer,
    generated_tokens integer,
    -- Whether the round trains on it, and why: `hard`, the pass rate is within the limit; `easy`, it is above; `all`, the
    -- round has no filter; `undecided`, no rollout had a verdict, and the problem is left out.
    is_hard          integer,
    reason           text,
    -- Whether the run had a kept solution for it when the filter was over. Null until then.
    has_solution     integer,

    primary key (run_id, round_id, problem_id),
    constraint round_problem_round foreign key (run_id, round_id) references round (run_id, round_id),
    constraint round_problem_problem foreign key (problem_id) references problem (problem_id),
    constraint round_problem_ordinal_unique unique (run_id, round_id, ordinal),
    constraint round_problem_reason_known check (reason in ('hard', 'easy', 'all', 'undecided')),
    constraint round_problem_is_hard_boolean check (is_hard in (0, 1)),
    constraint round_problem_has_solution_boolean check (has_solution in (0, 1)),
    constraint round_problem_hard_by_reason check (is_hard is (reason in ('hard', 'all'))),
    constraint round_problem_measured_together check (
        (sample_count is null) = (correct_count is null) and (sample_count is null) = (error_count is null)
        and (sample_count is null) = (generated_tokens is null) and (sample_count is null) = (reason is null)
    ),
    constraint round_problem_counts_fit
        check (correct_count >= 0 and error_count >= 0 and correct_count + error_count <= sample_count)
) strict, without rowid;

alter table step add column round_id integer not null default 1
    constraint step_round_counts_from_1 check (round_id >= 1);

-- The plan of a step: a step that is resumed works on the same problems in the same way.
create table step_slot (
    run_id          integer not null,
    step_id         integer not null,
    slot            integer not null,
    problem_id      integer not null,
    kind            text    not null,
    -- Solutions that were kept for the problem when the slot was planned: the first so many are this slot's to use.
    known_solutions integer not null,

    primary key (run_id, step_id, slot),
    constraint step_slot_step foreign key (run_id, step_id) references step (run_id, step_id),
    constraint step_slot_problem foreign key (problem_id) references problem (problem_id),
    constraint step_slot_kind_known check (kind in ('search', 'rollout', 'replay')),
    constraint step_slot_not_negative check (slot >= 0 and known_solutions >= 0)
) strict, without rowid;

-- `search`: a tree search. `rollout` and `replay`: direct rollouts, every child of the root a whole answer; in a replay
-- kept solutions take the place of some incorrect ones.
alter table tree add column kind text not null default 'search'
    constraint tree_kind_known check (kind in ('search', 'rollout', 'replay'));

-- `solution` anew: a solution may come from a filter, which has no tree, or from a user, who has no run. Nothing refers to
-- the table yet, so that no foreign key has to be switched off while it is replaced; the reference of `trajectory` comes
-- after.
create table solution_new (
    solution_id    integer primary key,
    problem_id     integer not null,
    -- Null if imported; such a solution is every run's.
    run_id         integer,
    -- Null if found by a filter, or imported.
    tree_id        integer,
    -- The newest weights that sampled any of it; null if imported.
    weight_version integer,
    provenance     text    not null,
    answer         text    not null,
    text           text    not null,
    tokens         blob    not null,
    -- NaN where unknown.
    logprobs       blob    not null,
    -- SHA-256 of `tokens`.
    tokens_sha256  text    not null,
    created_at_ms  integer not null,

    constraint solution_run foreign key (run_id) references run (run_id),
    constraint solution_problem foreign key (problem_id) references problem (problem_id),
    constraint solution_tree foreign key (tree_id) references tree (tree_id),
    constraint solution_weight_version
        foreign key (run_id, weight_version) references weight_version (run_id, weight_version),
    constraint solution_provenance_known check (provenance in ('search', 'rollout', 'imported')),
    constraint solution_imported_has_no_run check ((provenance = 'imported') = (run_id is null)),
    constraint solution_weight_version_if_run check ((run_id is null) = (weight_version is null)),
    constraint solution_tree_only_if_run check (tree_id is null or run_id is not null),
    constraint solution_tokens_whole check (length(tokens) % 4 = 0 and length(tokens) > 0),
    constraint solution_logprob_per_token check (length(logprobs) = length(tokens))
) strict;

insert into solution_new (solution_id, problem_id, run_id, tree_id, weight_version, provenance, answer, text, tokens,
                          logprobs, tokens_sha256, created_at_ms)
select solution_id, problem_id, run_id, tree_id, weight_version, provenance, answer, text, tokens,
       logprobs, tokens_sha256, created_at_ms
from solution;

drop table solution;
alter table solution_new rename to solution;

-- The same tokens for the same problem are kept once by each run, and once among the imported ones.
create unique index solution_unique on solution (coalesce(run_id, 0), problem_id, tokens_sha256);
create index solution_by_problem on solution (problem_id);

-- What makes the text unfit for training.
alter table trajectory add column defect text
    constraint trajectory_defect_known check (defect in ('repetition', 'garbled', 'invalid_utf8'));
-- The solution that was replayed; null for a trajectory that was sampled in its tree.
alter table trajectory add column solution_id integer references solution (solution_id);

create index trajectory_by_defect on trajectory (defect) where defect is not null;

-- One row per measurement of the policy on held-out problems, after a step; 0 is before the first.
create table evaluation (
    run_id           integer not null,
    step_id          integer not null,
    weight_version   integer not null,
    problem_count    integer not null,
    -- Rollouts per problem.
    sample_count     integer not null,
    correct_count    integer not null,
    no_answer_count  integer not null,
    -- Problems that the engine refused; they count as not solved.
    refused_count    integer not null default 0,
    generated_tokens integer not null,
    wall_ms          integer not null,
    -- Mean over the problems of the share of correct rollouts, and the share of problems with one at least; null without
    -- problems.
    pass_at_1        real,
    pass_at_k        real,
    created_at_ms    integer not null,

    primary key (run_id, step_id),
    constraint evaluation_run foreign key (run_id) references run (run_id),
    constraint evaluation_weight_version
        foreign key (run_id, weight_version) references weight_version (run_id, weight_version),
    constraint evaluation_step_not_negative check (step_id >= 0),
    constraint evaluation_refused_among_problems check (refused_count between 0 and problem_count),
    constraint evaluation_pass_at_1_in_range check (pass_at_1 between 0 and 1),
    constraint evaluation_pass_at_k_in_range check (pass_at_k between 0 and 1)
) strict, without rowid;

create table evaluation_problem (
    run_id        integer not null,
    step_id       integer not null,
    problem_id    integer not null,
    correct_count integer not null,

    primary key (run_id, step_id, problem_id),
    constraint evaluation_problem_evaluation foreign key (run_id, step_id) references evaluation (run_id, step_id),
    constraint evaluation_problem_problem foreign key (problem_id) references problem (problem_id)
) strict, without rowid;

-- Views that gained columns. Here as in `solved_per_step`, a tree is solved (`tree.is_solved`) if a correct terminal was
-- sampled in it: a kept solution that is replayed is no merit of the policy and does not count.

drop view step_summary;

-- One line per step: what was searched, what was trained, how long it took.
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

drop view tree_summary;

-- Each tree with its problem's name and its number of trajectories.
create view tree_summary as
select
    t.tree_id,
    t.run_id,
    (select s.round_id from step s where s.run_id = t.run_id and s.step_id = t.step_id) as round_id,
    t.step_id,
    t.slot,
    t.kind,
    t.problem_id,
    p.name as problem_name,
    t.rules,
    t.uct_lambda,
    t.status,
    t.error,
    t.seed,
    t.expansion_count,
    t.generated_tokens,
    t.node_count,
    t.trajectory_tokens,
    (select count(*) from trajectory j where j.tree_id = t.tree_id) as trajectory_count,
    t.is_solved,
    t.wall_ms,
    t.weight_version_min,
    t.weight_version_max,
    t.created_at_ms
from tree t
join problem p on p.problem_id = t.problem_id;

drop view trajectory_text;

-- Each trajectory with the values along it and its response as text.
create view trajectory_text as
select
    t.run_id,
    t.step_id,
    t.tree_id,
    t.kind,
    t.problem_id,
    j.ordinal,
    j.leaf_node_id,
    j.verdict,
    j.reward,
    j.entropy_nats,
    j.response_tokens,
    j.provenance,
    j.defect,
    j.solution_id,
    (
        select json_group_array(path.q_total)
        from (
            select n.q_total
            from trajectory_node p
            join node n on n.tree_id = p.tree_id and n.node_id = p.node_id
            where p.tree_id = j.tree_id and p.ordinal = j.ordinal
            order by p.depth
        ) path
    ) as q_path,
    (
        select group_concat(path.text, '')
        from (
            select c.text
            from trajectory_node p
            join node_content c on c.tree_id = p.tree_id and c.node_id = p.node_id
            where p.tree_id = j.tree_id and p.ordinal = j.ordinal
            order by p.depth
        ) path
    ) as response
from trajectory j
join tree t on t.tree_id = j.tree_id;

-- Views that are new.

-- One line per round: how many problems were hard, how many of these were spared a search by a kept solution, how many
-- were solved (DeepSearch, arXiv 2509.25454, table 6). `searched_count`, `skipped_count` and `solved_count` are problems,
-- each once; `search_tree_count`, `replay_tree_count` and `rollout_count` are trees, as many as were recorded.
create view round_summary as
with measured as (
    select
        run_id,
        round_id,
        sum(sample_count is not null)                                           as measured_count,
        sum(coalesce(is_hard, 0))                                               as hard_count,
        sum(coalesce(reason = 'easy', 0))                                       as easy_count,
        sum(coalesce(reason = 'undecided', 0))                                  as undecided_count,
        sum(coalesce(is_hard and has_solution, 0))                              as cached_count,
        sum(coalesce(is_hard and not has_solution, 0))                          as unsolved_count,
        avg(cast(correct_count as real) / nullif(sample_count - error_count, 0)) as pass_rate_mean,
        coalesce(sum(generated_tokens), 0)                                      as generated_tokens
    from round_problem
    group by run_id, round_id
),
grown as (
    select s.run_id, s.round_id, t.kind, t.problem_id, t.is_solved
    from step s
    join tree t on t.run_id = s.run_id and t.step_id = s.step_id
)
select
    r.run_id,
    r.round_id,
    r.status,
    r.weight_version,
    r.first_step_id,
    r.last_step_id,
    r.candidate_count,
    coalesce(m.measured_count, 0)   as measured_count,
    coalesce(m.hard_count, 0)       as hard_count,
    coalesce(m.easy_count, 0)       as easy_count,
    coalesce(m.undecided_count, 0)  as undecided_count,
    coalesce(m.cached_count, 0)     as cached_count,
    coalesce(m.unsolved_count, 0)   as unsolved_count,
    (
        select count(distinct g.problem_id)
        from grown g
        where g.run_id = r.run_id and g.round_id = r.round_id and g.kind = 'search'
    ) as searched_count,
    (
        select count(distinct g.problem_id)
        from grown g
        where g.run_id = r.run_id and g.round_id = r.round_id and g.kind = 'replay'
    ) as skipped_count,
    (
        select count(*)
        from grown g
        where g.run_id = r.run_id and g.round_id = r.round_id and g.kind = 'search'
    ) as search_tree_count,
    (
        select count(*)
        from grown g
        where g.run_id = r.run_id and g.round_id = r.round_id and g.kind = 'replay'
    ) as replay_tree_count,
    (
        select count(*)
        from grown g
        where g.run_id = r.run_id and g.round_id = r.round_id and g.kind = 'rollout'
    ) as rollout_count,
    (
        select count(distinct g.problem_id)
        from grown g
        join round_problem p
            on p.run_id = g.run_id and p.round_id = g.round_id and p.problem_id = g.problem_id and p.is_hard
        where g.run_id = r.run_id and g.round_id = r.round_id and g.is_solved
    ) as solved_count,
    m.pass_rate_mean,
    coalesce(m.generated_tokens, 0) as generated_tokens
from round r
left join measured m on m.run_id = r.run_id and m.round_id = r.round_id;

-- Which outputs were unfit for training, and what did they say?
create view bad_outputs as
select
    j.run_id,
    j.step_id,
    j.tree_id,
    j.ordinal,
    j.defect,
    j.verdict,
    j.problem_id,
    p.name   as problem_name,
    p.text   as problem,
    j.response,
    j.response_tokens
from trajectory_text j
join problem p on p.problem_id = j.problem_id
where j.defect is not null;

-- What kept solutions spared each step. `saved_tokens` is what its replays would have cost at the mean of the run's
-- searches in earlier steps, failed ones left out, less what they did cost; null before the first search.
create view replay_use as
with by_step as (
    select
        s.run_id,
        s.step_id,
        s.round_id,
        (select count(*) from step_slot l where l.run_id = s.run_id and l.step_id = s.step_id) as slot_count,
        (
            select count(*)
            from tree t
            where t.run_id = s.run_id and t.step_id = s.step_id and t.kind = 'replay'
        ) as replay_count,
        (
            select count(*)
            from tree t
            join trajectory j on j.tree_id = t.tree_id
            where t.run_id = s.run_id and t.step_id = s.step_id and t.kind = 'replay' and j.provenance = 'cached'
        ) as cached_count,
        (
            select coalesce(sum(t.generated_tokens), 0)
            from tree t
            where t.run_id = s.run_id and t.step_id = s.step_id and t.kind = 'replay'
        ) as replay_tokens,
        (
            select avg(t.generated_tokens)
            from tree t
            where t.run_id = s.run_id and t.step_id < s.step_id and t.kind = 'search' and t.status <> 'failed'
        ) as search_tokens_mean
    from step s
)
select
    run_id,
    step_id,
    round_id,
    slot_count,
    replay_count,
    cached_count,
    replay_tokens,
    search_tokens_mean,
    search_tokens_mean * replay_count - replay_tokens as saved_tokens
from by_step;

-- How good is the policy, against tokens and against time? Tokens are those of filters and steps before the measurement,
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

-- One line per run: which algorithm got how far at which price?
create view run_comparison as
with spent as (
    select
        run_id,
        sum(status = 'done')                as steps_done,
        coalesce(sum(generated_tokens), 0)  as generated_tokens,
        coalesce(sum(trained_tokens), 0)    as trained_tokens,
        coalesce(sum(search_ms), 0) / 3.6e6 as search_hours,
        coalesce(sum(train_ms), 0) / 3.6e6  as train_hours
    from step
    group by run_id
)
select
    r.run_id,
    r.algorithm,
    r.name,
    r.status,
    coalesce(s.steps_done, 0) as steps_done,
    (select e.pass_at_1 from evaluation e where e.run_id = r.run_id order by e.step_id limit 1)      as first_pass_at_1,
    (select e.pass_at_1 from evaluation e where e.run_id = r.run_id order by e.step_id desc limit 1) as last_pass_at_1,
    (select max(e.pass_at_1) from evaluation e where e.run_id = r.run_id)                            as best_pass_at_1,
    (
        select e.step_id
        from evaluation e
        where e.run_id = r.run_id and e.pass_at_1 is not null
        order by e.pass_at_1 desc, e.step_id
        limit 1
    ) as best_step_id,
    coalesce(s.generated_tokens, 0)
        + coalesce((select sum(p.generated_tokens) from round_problem p where p.run_id = r.run_id), 0) as generated_tokens,
    coalesce(s.trained_tokens, 0) as trained_tokens,
    coalesce(s.search_hours, 0.0) as search_hours,
    coalesce(s.train_hours, 0.0)  as train_hours
from run r
left join spent s on s.run_id = r.run_id;
