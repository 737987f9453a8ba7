-- The questions people ask, as one-liners; docs/sql.md shows them at work. Every view can be filtered by `run_id`, those
-- about one tree by `tree_id`. Nothing here needs an SQLite newer than 3.37 (as STRICT does), so that the `sqlite3` of an
-- older system can still read the database.

-- How many problems did each step solve?
create view solved_per_step as
select
    t.run_id,
    t.step_id,
    count(*)                               as tree_count,
    sum(t.is_solved)                       as solved_count,
    cast(sum(t.is_solved) as real) / count(*) as solved_frac
from tree t
group by t.run_id, t.step_id;

-- One line per step: what was searched, what was trained, how long it took.
create view step_summary as
select
    s.run_id,
    s.step_id,
    s.status,
    s.problem_count,
    count(t.tree_id)                                               as tree_count,
    coalesce(sum(t.is_solved), 0)                                  as solved_count,
    cast(sum(t.is_solved) as real) / nullif(count(t.tree_id), 0)   as solved_frac,
    coalesce(sum(t.status = 'exhausted'), 0)                       as exhausted_count,
    coalesce(sum(t.status = 'failed'), 0)                          as failed_count,
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

-- Each tree with its problem's name and its number of trajectories.
create view tree_summary as
select
    t.tree_id,
    t.run_id,
    t.step_id,
    t.slot,
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

-- Every set of weights, what made it, and whether the server confirmed it.
create view weight_history as
select
    w.run_id,
    w.weight_version,
    w.step_id,
    w.confirmed_at_ms is not null as is_confirmed,
    w.digest,
    w.path,
    w.size_bytes,
    w.reload_ms,
    w.canary_mean_abs_nats,
    w.canary_max_abs_nats,
    w.created_at_ms,
    w.confirmed_at_ms
from weight_version w;

-- Each trajectory with the values along it and its response as text.
create view trajectory_text as
select
    t.run_id,
    t.step_id,
    t.tree_id,
    t.problem_id,
    j.ordinal,
    j.leaf_node_id,
    j.verdict,
    j.reward,
    j.entropy_nats,
    j.response_tokens,
    j.provenance,
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

-- The best trajectory of each tree: correct before the rest, then by reward, then the one the policy was surest of.
create view best_path as
select j.*
from trajectory_text j
where j.ordinal = (
    select b.ordinal
    from trajectory b
    where b.tree_id = j.tree_id
    order by b.verdict = 'correct' desc, b.reward desc, b.entropy_nats is null, b.entropy_nats, b.ordinal
    limit 1
);

-- Wrong answers, the ones the policy was surest of first.
create view confident_mistakes as
select
    j.entropy_nats,
    j.run_id,
    j.step_id,
    j.tree_id,
    j.ordinal,
    j.problem_id,
    p.name   as problem_name,
    p.text   as problem,
    p.answer as reference_answer,
    j.response,
    j.response_tokens,
    j.q_path
from trajectory_text j
join problem p on p.problem_id = j.problem_id
where j.verdict = 'incorrect' and j.entropy_nats is not null
order by j.entropy_nats;

-- Where the tokens went, by step and (`step_id` null) for the whole run. `search_overhead` is generated tokens per token
-- that ended up on a trajectory; `sharing_factor` is trained tokens per token the trainer had to compute.
create view token_use as
with by_step as (
    select
        s.run_id,
        s.step_id,
        coalesce(sum(t.generated_tokens), 0)  as generated_tokens,
        coalesce(sum(t.trajectory_tokens), 0) as trajectory_tokens,
        coalesce(s.trained_tokens, 0)         as trained_tokens,
        coalesce(s.packed_tokens, 0)          as packed_tokens
    from step s
    left join tree t on t.run_id = s.run_id and t.step_id = s.step_id
    group by s.run_id, s.step_id
),
both as (
    select * from by_step
    union all
    select run_id, null, sum(generated_tokens), sum(trajectory_tokens), sum(trained_tokens), sum(packed_tokens)
    from by_step
    group by run_id
)
select
    run_id,
    step_id,
    generated_tokens,
    trajectory_tokens,
    trained_tokens,
    packed_tokens,
    cast(generated_tokens as real) / nullif(trajectory_tokens, 0) as search_overhead,
    cast(trained_tokens as real) / nullif(packed_tokens, 0)       as sharing_factor
from both;
