-- More questions as one-liners, what a choice of the search was made of, and what was dropped from old steps.

-- The parts of `selected_score`, which they add up to. By UCT: q_mean of the node itself, and what being little visited
-- adds (null where it was infinite: a node never visited). By frontier score: what the parent's and the node's own q_mean
-- contribute, the node's entropy (null where it does not take part), its depth.
alter table node add column selected_value real;
alter table node add column selected_exploration real;
alter table node add column selected_entropy real;
alter table node add column selected_depth real;

-- Children of a node; also what a reference check needs when a node is deleted.
create index node_by_parent on node (tree_id, parent_node_id);
-- The search in its order.
create index node_by_selection on node (tree_id, selected_order) where selected_order is not null;
-- The few choices that left the branch that was being followed.
create index node_jump on node (tree_id, selected_order) where selected_kind in ('uct_root', 'global', 'fallback');
-- Answers by verdict.
create index node_judged on node (tree_id, verdict) where verdict is not null;
create index trajectory_by_solution on trajectory (solution_id) where solution_id is not null;

-- What `run.keep_text`, `run.keep_logprobs` or `orchestrator db prune` has dropped: of all steps up to these. Null: nothing.
create table retention (
    run_id           integer primary key,
    -- Tokens, logprobs and text of nodes on no trajectory.
    off_path_step_id integer,
    -- Those of all nodes but the prompt.
    text_step_id     integer,
    logprobs_step_id integer,
    created_at_ms    integer not null,

    constraint retention_run foreign key (run_id) references run (run_id)
) strict;

-- How many problems did each round work on, and how many did it solve? At what price?
create view solved_per_round as
select
    s.run_id,
    s.round_id,
    count(distinct t.problem_id)                                     as problem_count,
    count(distinct case when t.is_solved then t.problem_id end)      as solved_problem_count,
    cast(count(distinct case when t.is_solved then t.problem_id end) as real)
        / count(distinct t.problem_id)                               as solved_frac,
    count(*)                                                         as tree_count,
    sum(t.is_solved)                                                 as solved_tree_count,
    sum(t.generated_tokens)                                          as generated_tokens,
    cast(sum(t.generated_tokens) as real)
        / nullif(count(distinct case when t.is_solved then t.problem_id end), 0) as tokens_per_solved_problem
from step s
join tree t on t.run_id = s.run_id and t.step_id = s.step_id
group by s.run_id, s.round_id;

-- What did a search find that direct rollouts did not? Rollouts are those of the round's filter, of the same policy or an
-- older one of the round. `gain_frac` is the share of correct answers in the tree less that of the rollouts; answers without
-- a verdict that counts are in neither.
create view gain_from_search as
select
    g.run_id,
    g.round_id,
    g.step_id,
    g.tree_id,
    g.problem_id,
    g.problem_name,
    g.rollout_count,
    g.rollout_correct_count,
    cast(g.rollout_correct_count as real) / g.rollout_count as rollout_correct_frac,
    g.answer_count,
    g.correct_count,
    cast(g.correct_count as real) / nullif(g.answer_count, 0) as correct_frac,
    cast(g.correct_count as real) / nullif(g.answer_count, 0) - cast(g.rollout_correct_count as real) / g.rollout_count
        as gain_frac,
    g.is_solved,
    g.generated_tokens,
    g.rollout_tokens
from (
    select
        t.run_id,
        s.round_id,
        t.step_id,
        t.tree_id,
        t.problem_id,
        p.name                         as problem_name,
        r.sample_count - r.error_count as rollout_count,
        r.correct_count                as rollout_correct_count,
        (
            select count(*)
            from node n
            where n.tree_id = t.tree_id and n.verdict in ('correct', 'incorrect', 'no_answer')
        )                              as answer_count,
        (select count(*) from node n where n.tree_id = t.tree_id and n.verdict = 'correct') as correct_count,
        t.is_solved,
        t.generated_tokens,
        r.generated_tokens             as rollout_tokens
    from tree t
    join step s on s.run_id = t.run_id and s.step_id = t.step_id
    join round_problem r on r.run_id = t.run_id and r.round_id = s.round_id and r.problem_id = t.problem_id
    join problem p on p.problem_id = t.problem_id
    where t.kind = 'search' and r.sample_count > r.error_count
) g;

-- Where did the search leave the branch it was following, where to, and why? `expansion` counts the tree's expansions from
-- 0, the prompt's. `kind`: `global`, the best node of the whole tree by frontier score; `fallback`, the same because nothing
-- was left below; `uct_root`, the best child of the prompt. The parts add up to the score; they were not recorded before
-- schema 8.
create view frontier_jumps as
select
    t.run_id,
    t.step_id,
    t.tree_id,
    t.problem_id,
    p.name                    as problem_name,
    n.selected_order          as expansion,
    n.selected_kind           as kind,
    -- The node of the expansion before; null where that was expanded again later, which is what is kept of it.
    case n.selected_order when 1 then '0' else (
        select b.tag from node b where b.tree_id = n.tree_id and b.selected_order = n.selected_order - 1 limit 1
    ) end                     as from_tag,
    case n.selected_order when 1 then 0 else (
        select b.depth from node b where b.tree_id = n.tree_id and b.selected_order = n.selected_order - 1 limit 1
    ) end                     as from_depth,
    n.node_id                 as to_node_id,
    n.tag                     as to_tag,
    n.depth                   as to_depth,
    n.selected_score          as score,
    n.selected_value          as score_value,
    n.selected_exploration    as score_exploration,
    n.selected_entropy        as score_entropy,
    n.selected_depth          as score_depth,
    -- What was backed up through it afterwards: above 0 where the jump led to a correct answer.
    n.q_total
from node n
join tree t on t.tree_id = n.tree_id
join problem p on p.problem_id = t.problem_id
where n.selected_kind in ('uct_root', 'global', 'fallback');

-- Where did a branch end for good? Nodes all of whose children are answers, none of them correct, and what these cost.
create view dead_ends as
select
    t.run_id,
    t.step_id,
    t.tree_id,
    t.status,
    t.problem_id,
    p.name as problem_name,
    n.node_id,
    n.tag,
    n.depth,
    n.entropy_nats,
    (
        select count(*) from node c where c.tree_id = n.tree_id and c.parent_node_id = n.node_id
    ) as child_count,
    (
        select coalesce(sum(c.verdict = 'no_answer'), 0)
        from node c
        where c.tree_id = n.tree_id and c.parent_node_id = n.node_id
    ) as no_answer_count,
    (
        select coalesce(sum(c.token_count), 0)
        from node c
        where c.tree_id = n.tree_id and c.parent_node_id = n.node_id
    ) as child_tokens
from tree t
join node n on n.tree_id = t.tree_id
join problem p on p.problem_id = t.problem_id
where t.kind = 'search'
    and exists (select 1 from node c where c.tree_id = n.tree_id and c.parent_node_id = n.node_id)
    and not exists (
        select 1
        from node c
        where c.tree_id = n.tree_id and c.parent_node_id = n.node_id and (c.is_terminal = 0 or c.verdict = 'correct')
    );

-- Which kept solutions were used again, how often and when last?
create view solution_use as
select
    s.solution_id,
    s.run_id,
    s.problem_id,
    p.name as problem_name,
    s.provenance,
    s.weight_version,
    s.tree_id,
    length(s.tokens) / 4 as token_count,
    (select count(*) from trajectory j where j.solution_id = s.solution_id) as replay_count,
    (
        select max(t.step_id)
        from trajectory j
        join tree t on t.tree_id = j.tree_id
        where j.solution_id = s.solution_id
    ) as last_step_id,
    s.text
from solution s
join problem p on p.problem_id = s.problem_id;

-- Do trainer and engine still agree? The ratio of their probabilities of the sampled tokens before any update, how far its
-- mean is from 1 and where the mean of the last five steps stands; and the canary: a fixed text that both score after each reload.
create view ratio_drift as
select
    s.run_id,
    s.step_id,
    s.search_weight_version,
    s.ratio_mean,
    s.ratio_mean - 1.0 as drift,
    avg(s.ratio_mean - 1.0) over (
        partition by s.run_id order by s.step_id rows between 4 preceding and current row
    ) as drift_of_5,
    s.ratio_p99,
    s.ratio_outside_frac,
    s.ratio_nan_count,
    (
        select m.value from metric m where m.run_id = s.run_id and m.name = 'ratio_mean_abs_nats' and m.step_id = s.step_id
    ) as logprob_gap_nats,
    w.canary_mean_abs_nats,
    w.canary_max_abs_nats
from step s
join weight_version w on w.run_id = s.run_id and w.weight_version = s.search_weight_version
where s.status = 'done';

-- Where did the time of each step go? Seconds. `train_s` has in it the three parts that follow; `other_s` is what no part
-- claims: recording, checkpoints, waiting. Where steps overlap the parts may add up to more than `wall_s`.
create view time_split as
select
    x.run_id,
    x.step_id,
    x.wall_s,
    x.search_s,
    x.generating_s,
    x.train_s,
    x.old_logprobs_s,
    x.gradient_s,
    x.optimizer_s,
    x.export_s,
    x.reload_s,
    x.canary_s,
    max(0.0, x.wall_s - x.search_s - x.train_s - x.export_s - x.reload_s - coalesce(x.canary_s, 0.0)) as other_s,
    x.search_s / nullif(x.wall_s, 0.0)     as search_frac,
    x.train_s / nullif(x.wall_s, 0.0)      as train_frac,
    (x.export_s + x.reload_s + coalesce(x.canary_s, 0.0)) / nullif(x.wall_s, 0.0) as publish_frac,
    x.generating_s / nullif(x.wall_s, 0.0) as generating_frac
from (
    select
        s.run_id,
        s.step_id,
        (select m.value from metric m where m.run_id = s.run_id and m.name = 'wall_s' and m.step_id = s.step_id) as wall_s,
        s.search_ms / 1000.0 as search_s,
        (
            select m.value from metric m where m.run_id = s.run_id and m.name = 'generating_s' and m.step_id = s.step_id
        ) as generating_s,
        s.train_ms / 1000.0 as train_s,
        (
            select m.value from metric m where m.run_id = s.run_id and m.name = 'old_logprobs_s' and m.step_id = s.step_id
        ) as old_logprobs_s,
        (
            select m.value from metric m where m.run_id = s.run_id and m.name = 'gradient_s' and m.step_id = s.step_id
        ) as gradient_s,
        (
            select m.value from metric m where m.run_id = s.run_id and m.name = 'optimizer_s' and m.step_id = s.step_id
        ) as optimizer_s,
        s.export_ms / 1000.0 as export_s,
        s.reload_ms / 1000.0 as reload_s,
        (
            select m.value from metric m where m.run_id = s.run_id and m.name = 'canary_s' and m.step_id = s.step_id
        ) as canary_s
    from step s
    where s.status = 'done'
) x;

-- Which weights did each step search with and which did it make, by checksum? `older_tree_count` is trees with a token of
-- older weights than the step's: 0 unless steps overlap or a kept solution is counted among them, which it is not.
create view weights_per_step as
select
    s.run_id,
    s.step_id,
    s.search_weight_version,
    a.digest                                                                    as search_digest,
    min(t.weight_version_min)                                                   as sampled_version_min,
    max(t.weight_version_max)                                                   as sampled_version_max,
    coalesce(sum(t.weight_version_min < s.search_weight_version), 0)            as older_tree_count,
    s.produced_weight_version,
    b.digest                                                                    as produced_digest,
    b.confirmed_at_ms is not null                                               as is_confirmed,
    b.canary_mean_abs_nats
from step s
join weight_version a on a.run_id = s.run_id and a.weight_version = s.search_weight_version
left join weight_version b on b.run_id = s.run_id and b.weight_version = s.produced_weight_version
left join tree t on t.run_id = s.run_id and t.step_id = s.step_id
group by s.run_id, s.step_id;

-- How did each problem fare, round by round: how often rollouts solved it, why it was trained on or not, what came of it?
create view problem_history as
select
    r.run_id,
    r.round_id,
    r.problem_id,
    p.name as problem_name,
    r.reason,
    r.sample_count,
    r.correct_count,
    cast(r.correct_count as real) / nullif(r.sample_count - r.error_count, 0) as pass_rate,
    r.has_solution,
    (
        select count(*)
        from tree t
        join step s on s.run_id = t.run_id and s.step_id = t.step_id
        where t.problem_id = r.problem_id and t.run_id = r.run_id and s.round_id = r.round_id
    ) as tree_count,
    (
        select coalesce(sum(t.is_solved), 0)
        from tree t
        join step s on s.run_id = t.run_id and s.step_id = t.step_id
        where t.problem_id = r.problem_id and t.run_id = r.run_id and s.round_id = r.round_id
    ) as solved_count,
    (
        select min(t.step_id)
        from tree t
        join step s on s.run_id = t.run_id and s.step_id = t.step_id
        where t.problem_id = r.problem_id and t.run_id = r.run_id and s.round_id = r.round_id
    ) as first_step_id,
    (
        select coalesce(sum(t.generated_tokens), 0)
        from tree t
        join step s on s.run_id = t.run_id and s.step_id = t.step_id
        where t.problem_id = r.problem_id and t.run_id = r.run_id and s.round_id = r.round_id
    ) as generated_tokens,
    (
        select count(*)
        from solution s
        where s.problem_id = r.problem_id and (s.run_id = r.run_id or s.run_id is null)
    ) as solution_count
from round_problem r
join problem p on p.problem_id = r.problem_id;
