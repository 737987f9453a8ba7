CREATE VIEW bad_outputs as
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

CREATE TABLE benchmark (
    benchmark_id    integer primary key,
    -- Folder of the model, and where its answers came from: the engine's own name.
    model           text    not null,
    engine          text    not null,
    -- As `weight_version.digest`; null where a server does not say what it holds.
    weights_digest  text,
    sample_count    integer not null,
    temperature     real    not null,
    top_p           real    not null,
    max_tokens      integer not null,
    -- Unsigned, as text.
    seed            text    not null,
    -- Everything that changes results, by name, as a JSON object of texts.
    settings_json   text    not null,
    program_version text    not null,
    created_at_ms   integer not null,
    -- When the last sample was there and the results were worked out.
    ended_at_ms     integer,

    constraint benchmark_counts_positive check (sample_count >= 1 and max_tokens >= 1),
    constraint benchmark_sampling_sane check (temperature >= 0 and top_p > 0 and top_p <= 1)
) strict;

CREATE TABLE benchmark_file (
    benchmark_id   integer not null,
    -- Place on the command line, from 1.
    file_id        integer not null,
    -- File name without folder and ending.
    name           text    not null,
    path           text    not null,
    content_sha256 text    not null,

    primary key (benchmark_id, file_id),
    constraint benchmark_file_benchmark foreign key (benchmark_id) references benchmark (benchmark_id)
) strict, without rowid;

CREATE VIEW benchmark_pass_rate as
select
    b.benchmark_id,
    b.file_id,
    f.name as file,
    b.ordinal,
    p.problem_id,
    p.name as problem_name,
    p.answer as reference_answer,
    count(s.sample) as sample_count,
    coalesce(sum(s.verdict not in ('undecided', 'error')), 0) as settled_count,
    coalesce(sum(s.verdict = 'correct'), 0) as correct_count,
    coalesce(sum(s.verdict = 'no_answer'), 0) as no_answer_count,
    coalesce(sum(s.finish_reason = 'length'), 0) as truncated_count,
    avg(s.token_count) as tokens_mean,
    cast(sum(s.verdict = 'correct') as real) / nullif(sum(s.verdict not in ('undecided', 'error')), 0) as pass_rate
from benchmark_problem b
join benchmark_file f on f.benchmark_id = b.benchmark_id and f.file_id = b.file_id
join problem p on p.problem_id = b.problem_id
left join benchmark_sample s on s.benchmark_id = b.benchmark_id and s.file_id = b.file_id and s.ordinal = b.ordinal
group by b.benchmark_id, b.file_id, b.ordinal;

CREATE TABLE benchmark_problem (
    benchmark_id  integer not null,
    file_id       integer not null,
    -- Place in the file, from 0.
    ordinal       integer not null,
    problem_id    integer not null,
    prompt_tokens integer not null,

    primary key (benchmark_id, file_id, ordinal),
    constraint benchmark_problem_file
        foreign key (benchmark_id, file_id) references benchmark_file (benchmark_id, file_id),
    constraint benchmark_problem_problem foreign key (problem_id) references problem (problem_id)
) strict, without rowid;

CREATE TABLE benchmark_result (
    benchmark_id integer not null,
    file_id      integer not null,
    metric       text    not null,
    k            integer not null,
    value        real    not null,
    low          real,
    high         real,

    primary key (benchmark_id, file_id, metric, k),
    constraint benchmark_result_file
        foreign key (benchmark_id, file_id) references benchmark_file (benchmark_id, file_id),
    constraint benchmark_result_metric_known check (metric in ('pass', 'majority')),
    constraint benchmark_result_k_positive check (k >= 1),
    constraint benchmark_result_share check (value between 0 and 1),
    constraint benchmark_result_interval check ((low is null) = (high is null) and low <= high)
) strict, without rowid;

CREATE TABLE benchmark_sample (
    benchmark_id  integer not null,
    file_id       integer not null,
    ordinal       integer not null,
    -- From 0; names its random stream.
    sample        integer not null,
    token_count   integer not null,
    -- `length`: the token budget ended it.
    finish_reason text    not null,
    verdict       text    not null,
    -- What reached the verdict.
    decided_by    text    not null,
    -- The final answer as written; null where there was none.
    answer        text,
    created_at_ms integer not null,
    -- What the model wrote. The last column, so that nothing else is read past it.
    text          text    not null,

    constraint benchmark_sample_unique primary key (benchmark_id, file_id, ordinal, sample),
    constraint benchmark_sample_problem
        foreign key (benchmark_id, file_id, ordinal) references benchmark_problem (benchmark_id, file_id, ordinal),
    constraint benchmark_sample_finish_reason_known check (finish_reason in ('stop', 'length')),
    constraint benchmark_sample_verdict_known
        check (verdict in ('correct', 'incorrect', 'no_answer', 'undecided', 'error')),
    constraint benchmark_sample_no_answer_settled check (verdict not in ('correct', 'incorrect') or answer is not null)
) strict;

CREATE VIEW benchmark_summary as
select
    r.benchmark_id,
    r.file_id,
    r.file,
    b.model,
    count(*) as problem_count,
    sum(r.pass_rate is not null) as scored_count,
    sum(r.sample_count) as sample_count,
    count(*) * b.sample_count - sum(r.sample_count) as missing_count,
    sum(r.sample_count - r.settled_count) as unsettled_count,
    avg(r.pass_rate) as pass_at_1,
    cast(sum(r.truncated_count) as real) / nullif(sum(r.sample_count), 0) as truncated_frac,
    cast(sum(r.no_answer_count) as real) / nullif(sum(r.sample_count), 0) as no_answer_frac,
    sum(r.tokens_mean * r.sample_count) / nullif(sum(r.sample_count), 0) as tokens_mean
from benchmark_pass_rate r
join benchmark b on b.benchmark_id = r.benchmark_id
group by r.benchmark_id, r.file_id;

CREATE VIEW best_path as
select j.*
from trajectory_text j
where j.ordinal = (
    select b.ordinal
    from trajectory b
    where b.tree_id = j.tree_id
    order by b.verdict = 'correct' desc, b.reward desc, b.entropy_nats is null, b.entropy_nats, b.ordinal
    limit 1
);

CREATE VIEW confident_mistakes as
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

CREATE VIEW dead_ends as
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

CREATE TABLE evaluation (
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
    created_at_ms    integer not null, undecided_count integer not null default 0
    constraint evaluation_undecided_not_negative check (undecided_count >= 0),

    primary key (run_id, step_id),
    constraint evaluation_run foreign key (run_id) references run (run_id),
    constraint evaluation_weight_version
        foreign key (run_id, weight_version) references weight_version (run_id, weight_version),
    constraint evaluation_step_not_negative check (step_id >= 0),
    constraint evaluation_refused_among_problems check (refused_count between 0 and problem_count),
    constraint evaluation_pass_at_1_in_range check (pass_at_1 between 0 and 1),
    constraint evaluation_pass_at_k_in_range check (pass_at_k between 0 and 1)
) strict, without rowid;

CREATE TABLE evaluation_problem (
    run_id        integer not null,
    step_id       integer not null,
    problem_id    integer not null,
    correct_count integer not null,

    primary key (run_id, step_id, problem_id),
    constraint evaluation_problem_evaluation foreign key (run_id, step_id) references evaluation (run_id, step_id),
    constraint evaluation_problem_problem foreign key (problem_id) references problem (problem_id)
) strict, without rowid;

CREATE VIEW frontier_jumps as
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

CREATE VIEW gain_from_search as
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

CREATE VIEW learning_curve as
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

CREATE TABLE metric (
    run_id        integer not null,
    step_id       integer not null,
    name          text    not null,
    value         real,
    created_at_ms integer not null,

    primary key (run_id, name, step_id),
    constraint metric_run foreign key (run_id) references run (run_id),
    constraint metric_step_not_negative check (step_id >= 0)
) strict, without rowid;

CREATE TABLE "node" (
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
    selected_score  real, selected_value real, selected_exploration real, selected_entropy real, selected_depth real,

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

CREATE INDEX node_by_parent on node (tree_id, parent_node_id);

CREATE INDEX node_by_selection on node (tree_id, selected_order) where selected_order is not null;

CREATE TABLE node_content (
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

CREATE INDEX node_judged on node (tree_id, verdict) where verdict is not null;

CREATE INDEX node_jump on node (tree_id, selected_order) where selected_kind in ('uct_root', 'global', 'fallback');

CREATE INDEX node_undecided on node (tree_id) where verdict in ('undecided', 'error');

CREATE TABLE problem (
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

CREATE INDEX problem_by_name on problem (name);

CREATE VIEW problem_history as
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

CREATE VIEW ratio_drift as
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

CREATE VIEW replay_use as
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

CREATE TABLE retention (
    run_id           integer primary key,
    -- Tokens, logprobs and text of nodes on no trajectory.
    off_path_step_id integer,
    -- Those of all nodes but the prompt.
    text_step_id     integer,
    logprobs_step_id integer,
    created_at_ms    integer not null,

    constraint retention_run foreign key (run_id) references run (run_id)
) strict;

CREATE TABLE round (
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

CREATE TABLE round_problem (
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

CREATE VIEW round_summary as
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

CREATE TABLE run (
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
    ended_at_ms     integer, algorithm text not null default 'deepsearch'
    constraint run_algorithm_known check (algorithm in ('deepsearch', 'grpo', 'dapo')),

    constraint run_status_known check (status in ('running', 'done', 'failed', 'interrupted')),
    constraint run_ended_unless_running check ((status = 'running') = (ended_at_ms is null)),
    constraint run_error_only_if_failed check (error is null or status = 'failed'),
    constraint run_config_sha256_is_hex check (length(config_sha256) = 64 and config_sha256 not glob '*[^0-9a-f]*')
) strict;

CREATE VIEW run_comparison as
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

CREATE TABLE "solution" (
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

CREATE INDEX solution_by_problem on solution (problem_id);

CREATE UNIQUE INDEX solution_unique on solution (coalesce(run_id, 0), problem_id, tokens_sha256);

CREATE VIEW solution_use as
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

CREATE VIEW solved_per_round as
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

CREATE VIEW solved_per_step as
select
    t.run_id,
    t.step_id,
    count(*)                               as tree_count,
    sum(t.is_solved)                       as solved_count,
    cast(sum(t.is_solved) as real) / count(*) as solved_frac
from tree t
group by t.run_id, t.step_id;

CREATE TABLE step (
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
    ended_at_ms             integer, round_id integer not null default 1
    constraint step_round_counts_from_1 check (round_id >= 1),

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

CREATE TABLE step_slot (
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

CREATE VIEW step_summary as
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

CREATE VIEW time_split as
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

CREATE VIEW token_use as
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

CREATE TABLE "trajectory" (
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

CREATE INDEX trajectory_by_defect on trajectory (defect) where defect is not null;

CREATE INDEX trajectory_by_solution on trajectory (solution_id) where solution_id is not null;

CREATE INDEX trajectory_incorrect_by_entropy on trajectory (entropy_nats)
    where verdict = 'incorrect' and entropy_nats is not null;

CREATE TABLE trajectory_node (
    tree_id integer not null,
    ordinal integer not null,
    depth   integer not null,
    node_id integer not null,

    primary key (tree_id, ordinal, depth),
    constraint trajectory_node_trajectory foreign key (tree_id, ordinal) references trajectory (tree_id, ordinal),
    constraint trajectory_node_node foreign key (tree_id, node_id) references node (tree_id, node_id)
) strict, without rowid;

CREATE VIEW trajectory_text as
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

CREATE TABLE tree (
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
    created_at_ms       integer not null, kind text not null default 'search'
    constraint tree_kind_known check (kind in ('search', 'rollout', 'replay')),

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

CREATE INDEX tree_by_problem on tree (problem_id);

CREATE VIEW tree_summary as
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

CREATE VIEW weight_history as
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

CREATE TABLE weight_version (
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
    canary_max_abs_nats  real, dropped_at_ms integer,

    primary key (run_id, weight_version),
    constraint weight_version_run foreign key (run_id) references run (run_id),
    constraint weight_version_step foreign key (run_id, step_id) references step (run_id, step_id),
    constraint weight_version_not_negative check (weight_version >= 0),
    constraint weight_version_initial_has_no_step check ((weight_version = 0) = (step_id is null)),
    constraint weight_version_digest_is_hex check (length(digest) = 64 and digest not glob '*[^0-9a-f]*'),
    constraint weight_version_reload_if_confirmed check ((confirmed_at_ms is null) = (reload_ms is null))
) strict, without rowid;

CREATE VIEW weights_per_step as
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
